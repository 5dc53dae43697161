"""Settings, typed and grouped by concern, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "PRESETS",
    "Config",
    "DataConfig",
    "ModelConfig",
    "TrainConfig",
    "parse_time",
]


def parse_time(text: str) -> int:
    """Return an ISO 8601 time as milliseconds since 1970; without an offset it is UTC.

    Raises:
        ValueError: it is not such a time.
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"'{text}' is not an ISO 8601 time, such as '2024-05-31'") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), use_attribute_docstrings=True
    )


class DataConfig(_Section):
    """How a log becomes a dataset."""

    columns: dict[Literal["user_id", "item_id", "domain", "timestamp", "label"], str] = {}
    """Names of the log's columns if they differ from crossfeed's: ours = "theirs". The domain
    may also be part of each file's path, `"{domain}.csv"` or `"{domain}/*"`, or one text for the
    whole log, `"{constant:books}"`."""
    header: tuple[str, ...] | None = None
    """Names of the columns of CSV files that have no header line, in their order."""
    missing_values: tuple[str, ...] = (
        *("NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", r"\N"),
        *("NaN", "nan", "None", "NaT"),
    )
    """Words for a missing value in a CSV, besides an empty cell."""
    positive: str | None = None
    """Which rows are clicks: an SQL expression over the log's columns, such as `rating >= 4`.
    By default every row if the log has no `label` column, `label > 0` if it has one."""
    repeats: Literal["first", "last", "keep"] = "first"
    """Which click of a repeated (user, domain, item) stays."""
    min_user_events: int = Field(default=2, ge=1)
    """Users with fewer clicks are dropped, repeatedly together with `min_item_events` (k-core)."""
    min_item_events: int = Field(default=5, ge=1)
    """Items with fewer clicks are dropped, repeatedly together with `min_user_events`."""
    min_domain_events: int = Field(default=100, ge=1)
    """Domains with fewer clicks are dropped, between two rounds of the k-core."""
    split: Literal["temporal", "last-out", "new-in-domain"] = "temporal"
    """How validation and test parts are cut off (docs/evaluation.md)."""
    validation_share: float = Field(default=0.1, gt=0, lt=1)
    """Share of the clicks (temporal) or (user, domain) pairs (new-in-domain) held out for
    validation."""
    test_share: float = Field(default=0.1, gt=0, lt=1)
    """Likewise for the test."""
    split_times: tuple[str, str] | None = None
    """When the temporal split's validation and test begin (ISO 8601), instead of by shares."""
    split_seed: int = 0
    """Seed of the new-in-domain split's draw of (user, domain) pairs."""
    time_unit: Literal["auto", "s", "ms", "us", "ns", "iso"] = "auto"
    """Unit of numeric timestamps, or ISO 8601 text; `auto` detects and states it."""
    time_format: str | None = None
    """Format of times that are neither, as for strptime: `%d.%m.%Y %H:%M`."""
    time_range: tuple[str, str] | None = None
    """Earliest and latest possible time (ISO 8601); by default 1990 to a day from now."""
    max_quarantine_share: float = Field(default=0.05, ge=0, le=1)
    """Preparation stops when a larger share of the rows cannot be read."""

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"data.validation_share={self.validation_share} and data.test_share="
                f"{self.test_share} leave nothing for training; their sum must be below 1"
            )
        if self.split == "last-out" and (self.validation_share, self.test_share) != (0.1, 0.1):
            raise ValueError(
                "data.validation_share and data.test_share have no effect "
                "with data.split='last-out'"
            )
        return self

    @model_validator(mode="after")
    def _split_times_are_in_order(self) -> Self:
        if self.split_times is None:
            return self
        if self.split != "temporal":
            raise ValueError(f"data.split_times does not go with data.split='{self.split}'")
        validation, test = map(parse_time, self.split_times)
        if validation >= test:
            raise ValueError(
                f"data.split_times={list(self.split_times)}: the first is not before the second"
            )
        return self


class ModelConfig(_Section):
    """The networks of both players."""

    discriminator: Literal["translation", "shared-bottom", "mmoe", "ple", "star", "pepnet"] = (
        "translation"
    )
    """How the discriminator forms the user's vector in a domain."""
    generator: Literal["linear", "attention"] = "linear"
    """How the generator reads a history: as a weighted sum, or by the discriminator's encoder."""
    fuse: Literal["none", "residual", "sum"] = "sum"
    """How the generator's output joins the score: not at all, added in training and serving
    (residual), or in serving alone, where the score is the mean of both players' outputs (sum)."""
    demand: bool = True
    """Whether the items' demand is a part of the score (docs/method.md)."""
    id_bias: bool = False
    """Whether each trained item also has a bias of its own, which demand does not move."""
    width: int = Field(default=64, ge=4)
    """E: width of item vectors and tokens."""
    table_rows: int = Field(default=0, ge=0)
    """Rows of each player's item table if the catalogue has more items: an item's vector is then
    the sum of two rows chosen by hashing. 0 gives each item a row of its own."""
    heads: int = Field(default=4, ge=1)
    """Attention heads of the cross-domain transformer."""
    layers: int = Field(default=1, ge=1)
    """Layers of the cross-domain transformer."""
    dropout: float = Field(default=0.5, ge=0, lt=1)
    """Share of activations dropped in training."""
    drop_share: float = Field(default=0.3, ge=0, lt=1)
    """Share of a history's events hidden in training, whatever their domain."""
    mask_share: float = Field(default=0.15, ge=0, lt=1)
    """Share of the target domain's remaining events hidden in training."""
    history_per_domain: int = Field(default=50, ge=1)
    """Newest events of each domain that the encoder reads."""
    history_total: int = Field(default=200, ge=1)
    """Newest events of all domains together that the encoder reads."""

    @property
    def fused(self) -> bool:
        """Return whether the generator's output is a part of the score."""
        return self.fuse != "none"

    @property
    def output_share(self) -> float:
        """Return the factor of each player's output in the score."""
        return 0.5 if self.fuse == "sum" else 1.0

    def hashes(self, items: int) -> bool:
        """Return whether the tables have fewer rows than there are items."""
        return 0 < self.table_rows < items

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"model.heads={self.heads} must divide model.width={self.width}")
        return self


class TrainConfig(_Section):
    """The alternating training of both players."""

    seed: int = Field(default=0, ge=0, lt=2**64)
    """Seed of everything random; the same seed on the same machine gives the same numbers."""
    epochs: int = Field(default=30, ge=1)
    """Largest number of passes over the training clicks, warm-up included."""
    warmup_epochs: int = Field(default=1, ge=0)
    """Passes in which the generator learns by likelihood and the discriminator from static
    proposals alone."""
    patience: int = Field(default=3, ge=1)
    """Epochs without a better validation before training stops."""
    batch_size: int = Field(default=1024, ge=1)
    """Clicks per step."""
    learning_rate: float = Field(default=3e-3, gt=0)
    """Step size of both players' optimisers."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled weight decay of both players' optimisers."""
    average: float = Field(default=0.998, ge=0, lt=1)
    """Decay of the moving average of the weights in each step. The average is validated, kept and
    served; 0 keeps the weights themselves."""
    candidates: int = Field(default=100, ge=2)
    """K: candidates drawn per click."""
    expand_domains: tuple[str, ...] | None = None
    """Domains that the generator expands; None expands all. The others are targets with static
    proposals only."""
    objective: Literal["softmax", "full-softmax", "binary"] = "softmax"
    """The discriminator's loss: which of click and candidates was clicked, which item of the whole
    pool was, or real against generated one by one."""
    correction: float = Field(default=1.0, ge=0, le=1)
    """Power of the proposal taken out of the scores: 1 is the full correction, 0 none."""
    proposal_share: float = Field(default=0.8, ge=0, lt=1)
    """The generator's share of the proposal; the rest is static."""
    pool_items: int = Field(default=4096, ge=2)
    """Largest pool that a step uses whole. From larger pools each step draws this many items,
    divided among the domains, and corrects for their probabilities."""
    dense_items: int = Field(default=50_000, ge=0)
    """Largest catalogue with item tables that move as a whole. With a larger one, a step moves only
    the rows that it used, so its cost does not grow with the catalogue."""
    static_proposal: Literal["popularity", "uniform"] = "popularity"
    """The static part of the proposal: (clicks so far) ^ 0.75, or uniform over what exists."""
    gap: Literal["mmd", "kl", "euclidean", "none"] = "mmd"
    """The distance between clicks and candidates in the gap loss."""
    gap_weight: float = Field(default=0.1, ge=0)
    """Weight of the gap loss L3."""
    reward_weight: float = Field(default=0.1, ge=0)
    """Weight of the generator's adversarial loss L1."""
    on_collapse: Literal["warn", "roll-back"] = "warn"
    """Reaction to an alarm (docs/method.md): a warning, or a return to the last healthy epoch with
    half the learning rate, at most three times."""
    checkpoint_minutes: float = Field(default=10.0, ge=0)
    """Minutes between checkpoints within an epoch, more if writing one takes long; each epoch ends
    with one. 0 writes only the checkpoints at the end."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the players' matrix products; weights, softmax, losses and everything served
    stay float32. bfloat16 is for GPUs and for processors with instructions for it."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks are trained."""
    table_sharding: Literal["none", "row"] = "none"
    """Whether each of several processes holds all item vectors, or its part of the rows
    (docs/distributed.md; extra `distributed`)."""
    track: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """Trackers that receive each epoch's figures (docs/training.md)."""

    @model_validator(mode="after")
    def _warmup_ends(self) -> Self:
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"train.warmup_epochs={self.warmup_epochs} exceeds train.epochs={self.epochs}"
            )
        return self


class Config(_Section):
    """All settings; each section can be left out."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="after")
    def _whole_pool_has_no_residual(self) -> Self:
        if self.train.objective == "full-softmax" and self.model.fuse == "residual":
            raise ValueError(
                "train.objective='full-softmax' does not go with model.fuse='residual': "
                "it is 'none' or 'sum' there"
            )
        return self

    @model_validator(mode="after")
    def _hashed_rows_are_whole(self) -> Self:
        if self.model.table_rows and self.train.table_sharding == "row":
            raise ValueError(
                f"model.table_rows={self.model.table_rows} does not go with "
                "train.table_sharding='row': a table is hashed or divided"
            )
        return self

    @property
    def has_generator(self) -> bool:
        """Return whether the generator has a part in training or in the score."""
        return self.train.proposal_share > 0 or self.model.fused


PRESETS: Mapping[str, Mapping[str, Mapping[str, object]]] = {
    # Every term of the claims with a weight above zero.
    "claims": {
        "model": {"fuse": "residual"},
        "train": {"gap": "mmd", "gap_weight": 0.1, "reward_weight": 0.1, "proposal_share": 0.8},
    },
    # The usual published loss: no correction, the generator's samples alone matter.
    "published": {
        "model": {"fuse": "none"},
        "train": {"objective": "binary", "correction": 0.0, "reward_weight": 1.0},
    },
    # The discriminator alone on static proposals: an ordinary multi-domain network.
    "no-adversary": {
        "model": {"fuse": "none"},
        "train": {"proposal_share": 0.0, "reward_weight": 0.0, "gap": "none"},
    },
}
"""Named settings between the defaults and the file."""
