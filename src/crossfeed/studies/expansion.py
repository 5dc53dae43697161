"""The expansion of a domain (claim 1b): pseudo-samples that the generator proposes.

Dims: B users, N items of the domain's pool, K samples per user, S samples of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from crossfeed.data.dataset import Dataset, Part
from crossfeed.data.simulate.truth import Truth
from crossfeed.errors import ConfigError, RunError
from crossfeed.evaluation.ranking import Seen
from crossfeed.model.generator import log_confidence
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.model.users.timelines import build_timelines
from crossfeed.run import Run
from crossfeed.scorer import Histories, Ints, Moment
from crossfeed.studies.plausibility import Expansion, Samples, Tally, TrueTaste
from crossfeed.table_files import require_table, table_writer

__all__ = ["generate"]

_USERS_AT_ONCE = 1024

_COLUMNS = ("user_id", "item_id", "domain", "confidence", "score")


def generate(
    run: Run,
    *,
    domain: str,
    out: Path,
    per_user: int = 10,
    users: Literal["all", "new"] = "all",
    seed: int = 0,
    truth: Truth | Path | None = None,
    overwrite: bool = False,
) -> Expansion:
    """Write pseudo-samples of a domain to a file, and measure their quality.

    Each user gets different items of the domain's pool that the user has not clicked in the
    training part, drawn without replacement by the generator's confidence (Gumbel top-k, Kool et
    al. 2019, ICML). The same seed gives the same samples.

    Args:
        run: a finished run with a generator.
        domain: the domain to be expanded.
        out: the file, Parquet, CSV or JSONL by its suffix: user_id, item_id, domain, confidence in
            (0, 1], score; by user, the most confident first.
        per_user: K, samples of each user; fewer where the pool is smaller.
        users: all with a training click, or only those without one in this domain.
        seed: of the draws.
        truth: of a simulated log, to judge by, or its file.
        overwrite: replace an existing file of samples.

    Raises:
        UnknownDomainError: naming the existing domains.
        RunError: the run has no generator, or nothing has been trained.
        ConfigError: `per_user` is below 1, or the truth is not of this log.
        OutputError: `out` may not be replaced, or cannot be written.
    """
    inputs = [run.path, run.facts["dataset"], *([truth] if isinstance(truth, Path) else [])]
    require_table(out, _COLUMNS, name="file of samples", inputs=inputs, overwrite=overwrite)
    dataset, scorer = run.dataset(), run.scorer()
    number = dataset.catalogue.domain_index(domain)
    if not run.config.has_generator:
        raise RunError(
            f"'{run.path}' was trained without a generator",
            hint="train with train.proposal_share above 0",
        )
    if per_user < 1:
        raise ConfigError(f"{per_user} samples per user; it must be at least 1")
    if isinstance(truth, Path):
        truth = Truth.load(truth)
    truths = None if truth is None else TrueTaste(truth, dataset, number)
    tally = Tally(dataset, number)
    draws = torch.Generator().manual_seed(seed)
    moment = dataset.end(Part.TRAIN)
    with table_writer(out, _schema(dataset)) as writer:
        for chosen in _batches(dataset, number, users):
            histories = dataset.timelines(chosen, Part.TRAIN)
            confidences = _confidences(scorer, histories, number, moment)
            samples = _draw(confidences, per_user, draws)
            rivals = _draw(tally.popularity_like(confidences), per_user, draws)
            writer.write_table(_table(dataset, scorer, histories, moment, chosen, number, samples))
            tally.add(chosen, histories, samples, rivals, truths)
    return tally.result(domain)


def _batches(dataset: Dataset, domain: int, users: Literal["all", "new"]) -> Iterator[Ints]:
    """Yield the users that get samples."""
    trained = dataset.events(Part.TRAIN)
    wanted = np.zeros(dataset.users, np.bool_)
    wanted[dataset.users_of(trained)] = True
    if users == "new":
        inside = trained[dataset.event_domain[trained] == domain]
        wanted[dataset.users_of(inside)] = False
    chosen = np.flatnonzero(wanted)
    for first in range(0, len(chosen), _USERS_AT_ONCE):
        yield chosen[first : first + _USERS_AT_ONCE]


@torch.no_grad()
def _confidences(
    scorer: NetworkScorer, histories: Histories, domain: int, moment: Moment
) -> Tensor:
    """Return (B, N) the generator's log-confidence; -inf where the user clicked the item.

    It is -inf for items that nobody had clicked before the moment, too.
    """
    catalogue, generator = scorer.catalogue, scorer.players.generator
    pool = catalogue.pool(domain)
    domains = np.full(len(histories), domain, np.int64)
    timelines = build_timelines(histories, domains, catalogue=catalogue, config=scorer.config)
    vectors = generator.output_layer.item_vectors()[catalogue.trained_rows(domain)]
    logits = torch.from_numpy(scorer.confidence_biases(domain, moment)).repeat(len(histories), 1)
    logits[:, : len(vectors)] += generator.users(timelines) @ vectors.T
    seen = Seen.of(histories, pool)
    excluded = torch.from_numpy(~moment.exists(domain)).repeat(len(histories), 1)
    excluded[torch.from_numpy(seen.rows), torch.from_numpy(seen.columns)] = True
    return log_confidence(logits, excluded)


def _draw(log_weights: Tensor, count: int, draws: torch.Generator) -> Samples:
    """Draw different items of each row (B, N), in proportion to their weights."""
    noise = torch.rand(log_weights.shape, generator=draws).clamp_min(1e-20)
    keys = log_weights - (-noise.log()).log()  # Gumbel noise
    best = keys.topk(min(count, keys.shape[1]), dim=1).indices  # (B, K)
    drawn = log_weights.gather(1, best)
    drawn, order = drawn.sort(dim=1, descending=True, stable=True)
    best = best.gather(1, order)
    rows, places = torch.nonzero(drawn.isfinite(), as_tuple=True)
    return Samples(
        rows=rows.numpy(),
        columns=best[rows, places].numpy(),
        confidence=drawn[rows, places].exp().numpy(),
    )


def _schema(dataset: Dataset) -> pa.Schema:
    types = (
        dataset.user_ids.type,
        dataset.item_ids.type,
        pa.string(),
        pa.float32(),
        pa.float32(),
    )
    return pa.schema(list(zip(_COLUMNS, types, strict=True)))


def _table(
    dataset: Dataset,
    scorer: NetworkScorer,
    histories: Histories,
    moment: Moment,
    users: Ints,
    domain: int,
    samples: Samples,
) -> pa.Table:
    scores = scorer.score(histories, domain, moment)
    name = pa.scalar(dataset.catalogue.domains[domain])
    columns = (
        dataset.user_ids.take(pa.array(users[samples.rows])),
        dataset.item_ids.take(pa.array(samples.columns + dataset.catalogue.pool(domain).start)),
        pa.repeat(name, len(samples.rows)),
        pa.array(samples.confidence, pa.float32()),
        pa.array(scores[samples.rows, samples.columns], pa.float32()),
    )
    return pa.table(dict(zip(_COLUMNS, columns, strict=True)))
