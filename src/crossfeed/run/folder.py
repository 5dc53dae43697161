"""One run on disk: its configuration, what it measured, and its checkpoints.

config.json             all settings, the dataset's path and hash, its visible domains, versions
metrics.jsonl           one line per epoch
health.jsonl            the health figures of both players by epoch, and alarms
checkpoints/last.pt     everything needed to continue as if uninterrupted
checkpoints/best.pt     the players' weights at the best validation so far
checkpoints/healthy.pt  both players at the last healthy epoch, where roll-back is set
checkpoints/refit.pt    the players' weights after the refit on all data, if there was one
results.json            figures of the last evaluation
outcomes.parquet        its metrics of every event, for intervals and comparisons
transfer.json           how much the domains gain from each other, if measured
transfer/               the runs behind this measurement
gate.json               domains that should not be served by this model, and why
report.html             the page of `crossfeed report`
profile-operators.txt   torch's table of the parts and operators of some steps, if asked for
profile-trace.json      the same steps, for a viewer of traces
tensorboard/            event files, where `train.track` asks for them
mlflow.json             the run's id in MLflow, and the server
mlflow.sqlite           MLflow's database, if no server is named
"""

from __future__ import annotations

import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from crossfeed import __version__
from crossfeed.config import Config, TrainConfig, parse_config
from crossfeed.config.differences import RUNNING, differences
from crossfeed.data.dataset import Dataset
from crossfeed.errors import DatasetError, RunError
from crossfeed.evaluation.metrics import SELECTED_BY
from crossfeed.evaluation.outcomes import write_outcomes
from crossfeed.evaluation.results import Results
from crossfeed.files import (
    atomic_path,
    only_process,
    remove_leftovers,
    require_writable,
    write_json,
)
from crossfeed.model.network_scorer import NetworkScorer
from crossfeed.outputs import RUN, kind_told, require_apart, require_folder
from crossfeed.run.checkpoints import Checkpoint, read_checkpoint, write_checkpoint

__all__ = [
    "FORMAT_VERSION",
    "CheckpointName",
    "Run",
    "may_begin",
    "only_training",
    "require_place",
    "seen",
]

CheckpointName = Literal["last", "best", "healthy", "refit-last", "refit"]

FORMAT_VERSION = 2

_MEASURED = ("results.json", "outcomes.parquet", "transfer.json", "gate.json", "report.html")
"""Facts about the best weights only."""

_FILES = (
    "metrics.jsonl",
    "health.jsonl",
    *_MEASURED,
    "mlflow.json",
    "mlflow.sqlite",
    "profile.json",  # of version 0.1
    "profile-operators.txt",
    "profile-trace.json",
    "config.json",  # the last to go: by it a folder is known for a run
)

_FOLDERS = ("transfer", "tensorboard")

_LOCK = ".lock"
"""Exists while a process trains in the folder."""


@dataclass(frozen=True)
class Run:
    """A folder that holds one training, finished or not."""

    path: Path
    config: Config
    facts: dict[str, Any]  # Any: JSON
    """Other entries of config.json: dataset, dataset_hash, narrowed and versions."""

    @classmethod
    def create(cls, path: Path, *, dataset: Dataset, config: Config, overwrite: bool) -> Run:
        """Begin a run in a fresh folder.

        Raises:
            OutputError: `require_place` refuses the folder, or it cannot be written.
        """
        require_place(path, dataset=dataset, overwrite=overwrite)
        config = config.model_copy(update={"data": dataset.config})
        facts = {
            "format_version": FORMAT_VERSION,
            "crossfeed": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "dataset": str(dataset.path.resolve()),
            "dataset_hash": dataset.manifest["content_hash"],
            "narrowed": dataset.narrowing,
        }
        for folder in (path, path / "checkpoints"):
            require_writable(folder)  # before anything of a former run is removed
        _clear(path)
        run = cls(path, config, facts)
        run._write_config()
        return run

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """Open a run that exists.

        Raises:
            RunError: the folder is no run, is damaged or of another format version.
        """
        path = Path(path)
        try:
            facts = json.loads((path / "config.json").read_text("utf-8"))
            config = parse_config(facts.pop("config"), source=str(path / "config.json"))
            version = facts["format_version"]
        except OSError:
            raise RunError(
                f"'{path}' is not a run: it has no config.json{kind_told(path)}",
                hint="make one with: crossfeed train DATASET --out RUN",
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise RunError(f"the run '{path}' is damaged: config.json cannot be read") from None
        if version != FORMAT_VERSION:
            raise RunError(
                f"the run '{path}' has format version {version}; this crossfeed reads "
                f"{FORMAT_VERSION}",
                hint="prepare the log again and train again, both with --overwrite",
            )
        return cls(path, config, facts)

    def resumed(self, given: Config) -> Run:
        """Return the run to be continued, with its original settings.

        Args:
            given: settings that are asked for now. Those that say where the training runs are
                taken over, the others must be the run's.

        Raises:
            RunError: naming every setting that differs.
        """
        asked = list(differences(given, self.config, only_given=True))
        differing = [
            f"{one.name} = {json.dumps(one.here)}, the run has {json.dumps(one.there)}"
            for one in asked
            if one.name not in RUNNING and not one.name.startswith("data.")
        ]
        if differing:
            raise RunError(
                f"the run '{self.path}' continues with its own settings; these differ: "
                f"{'; '.join(differing)}",
                hint="leave these settings out, or train a run of its own with them",
            )
        running = {one.name.partition(".")[2]: one.here for one in asked if one.name in RUNNING}
        train = TrainConfig.model_validate({**self.config.train.model_dump(), **running})
        return replace(self, config=self.config.model_copy(update={"train": train}))

    def dataset(self) -> Dataset:
        """Open the dataset that the run was trained on.

        Raises:
            DatasetError: it has moved or is missing.
            RunError: it has changed.
        """
        path = Path(self.facts["dataset"])
        if not path.exists():
            raise DatasetError(
                f"the dataset that the run '{self.path}' was trained on is no longer at '{path}'",
                hint=f"say where it is now: crossfeed train DATASET --out {self.path} --resume "
                "(a finished run stays unchanged)",
            )
        dataset = Dataset.load(path)
        self._require_content(dataset)
        return dataset

    def relocated(self, dataset: Dataset) -> Run:
        """Return the run with the present place of its dataset, and write it to config.json.

        Raises:
            OutputError: config.json cannot be written.
        """
        path = str(dataset.path.resolve())
        if path == self.facts["dataset"]:
            return self
        run = replace(self, facts={**self.facts, "dataset": path})
        run._write_config()
        return run

    def require_dataset(self, dataset: Dataset) -> None:
        """Refuse a dataset that the run cannot continue with.

        Raises:
            RunError: its content differs, or it is narrowed to other domains.
        """
        self._require_content(dataset)
        asked = dataset.narrowing
        own = self.facts.get("narrowed", asked)  # former versions did not say
        if own != asked:
            raise RunError(
                f"the run '{self.path}' is trained on {seen(own)}; asked for is {seen(asked)}",
                hint="continue a run within RUN/transfer with: crossfeed evaluate RUN --transfer; "
                "train another one in a folder of its own",
            )

    def _require_content(self, dataset: Dataset) -> None:
        found, expected = dataset.manifest["content_hash"], self.facts["dataset_hash"]
        if found != expected:
            raise RunError(
                f"the dataset '{dataset.path}' is not what the run '{self.path}' was trained on: "
                f"its content hash is {found[:12]}, the run's is {expected[:12]}",
                hint="prepare it again from the same log and settings, or train a new run",
            )

    @property
    def refitted(self) -> bool:
        """Return whether the run holds weights refitted on all data."""
        return self.has_checkpoint("refit")

    def scorer(self, *, refitted: bool = False) -> NetworkScorer:
        """Return the score as served.

        Args:
            refitted: take the weights refitted on all data, which must never be evaluated on
                that data, instead of those of the best epoch.

        Raises:
            RunError: the weights have not been trained yet.
        """
        dataset = self.dataset()
        if refitted:
            dataset = dataset.refitted()
        weights = self.read_checkpoint("refit" if refitted else "best")["players"]
        return NetworkScorer.from_state(dataset.catalogue, self.config.model, weights)

    def metrics(self) -> list[dict[str, Any]]:  # Any: JSON
        """Return the measurements, one entry per epoch."""
        return self._lines("metrics.jsonl")

    @property
    def finished(self) -> bool:
        """Return whether the training came to its end, as the last epoch's line says."""
        lines = self.metrics()
        return bool(lines) and bool(lines[-1].get("finished", True))  # former versions did not say

    def validation_values(self) -> list[float]:
        """Return by epoch the validation figure that chooses the best one."""
        return [float(line["validation"]["micro"][SELECTED_BY]) for line in self.metrics()]

    def health(self) -> list[dict[str, Any]]:  # Any: JSON
        """Return the health of both players, one entry per epoch."""
        return self._lines("health.jsonl")

    def write_metrics(self, lines: list[dict[str, Any]]) -> None:  # Any: JSON
        """Write the measurements, one entry per epoch."""
        self._write_lines("metrics.jsonl", lines)

    def write_health(self, lines: list[dict[str, Any]]) -> None:  # Any: JSON
        """Write the health of both players, one entry per epoch."""
        self._write_lines("health.jsonl", lines)

    def write_results(self, results: Results) -> None:
        """Keep an evaluation: its figures, and the outcomes that they are means of."""
        write_outcomes(self.path / "outcomes.parquet", results.all_outcomes())
        write_json(self.path / "results.json", results.to_json())

    def write_transfer(self, transfer: Mapping[str, object]) -> None:
        """Write how much the domains gain from each other as transfer.json."""
        write_json(self.path / "transfer.json", transfer)

    def write_gate(self, reasons: Mapping[str, str]) -> None:
        """Hold domains back from being served by this model: domain -> why."""
        write_json(self.path / "gate.json", {"held_back": dict(reasons)})

    def held_back(self) -> tuple[str, ...]:
        """Return the domains that the gate holds back; none without a gate.

        Raises:
            RunError: gate.json cannot be read.
        """
        file = self.path / "gate.json"
        if not file.exists():
            return ()
        try:
            return tuple(json.loads(file.read_text("utf-8"))["held_back"])
        except (OSError, ValueError, KeyError, TypeError):
            raise RunError(
                f"the gate '{file}' cannot be read",
                hint="make it again with: crossfeed evaluate RUN --transfer, or remove it",
            ) from None

    def prepare_to_write(self) -> None:
        """Remove half-written files of dead processes, and check that the folder can be written.

        Raises:
            OutputError: the folder cannot be written.
        """
        folder = self.path / "checkpoints"
        require_writable(folder)
        remove_leftovers(folder)

    def has_checkpoint(self, name: CheckpointName) -> bool:
        """Return whether a checkpoint exists."""
        return self._checkpoint(name).exists()

    def write_checkpoint(
        self,
        name: CheckpointName,
        checkpoint: Mapping[str, Any],  # Any: see Checkpoint
    ) -> None:
        """Write a checkpoint; the one before stays until the new one is complete.

        New best weights are written first, then the figures of the former ones are removed: a full
        disk costs neither. A process that dies in between has no newer "last" checkpoint, so that
        it repeats both when it is resumed.

        Raises:
            OutputError: the disk is full or the folder cannot be written.
        """
        write_checkpoint(self._checkpoint(name), checkpoint, self.config)
        if name == "best":
            for measured in _MEASURED:
                (self.path / measured).unlink(missing_ok=True)

    def read_checkpoint(self, name: CheckpointName) -> Checkpoint:
        """Read a checkpoint.

        Raises:
            RunError: it is missing, damaged, of another format version or of other settings.
        """
        file = self._checkpoint(name)
        if not file.exists():
            raise RunError(
                f"the run '{self.path}' has no {name} checkpoint yet",
                hint="continue with: crossfeed train DATASET --out RUN --resume",
            )
        return read_checkpoint(file, self.config)

    def _write_config(self) -> None:
        settings = self.config.model_dump(mode="json")
        write_json(self.path / "config.json", {**self.facts, "config": settings})

    def _lines(self, name: str) -> list[dict[str, Any]]:  # Any: JSON
        file = self.path / name
        if not file.exists():
            return []
        return [json.loads(line) for line in file.read_text("utf-8").splitlines()]

    def _write_lines(self, name: str, lines: list[dict[str, Any]]) -> None:  # Any: JSON
        with atomic_path(self.path / name) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")

    def _checkpoint(self, name: CheckpointName) -> Path:
        return self.path / "checkpoints" / f"{name}.pt"


def may_begin(path: Path) -> bool:
    """Return whether a folder is empty, or holds only the rest of a run that failed to begin."""
    return not path.is_file() and all(
        one in (path / "checkpoints", path / _LOCK) or one.match(".config.json.*.tmp")
        for one in path.rglob("*")
    )


def require_place(path: Path, *, dataset: Dataset, overwrite: bool) -> None:
    """Refuse a folder that a run on the dataset may not begin in.

    Raises:
        OutputError: it is not empty and not a run that may be replaced, or it is the dataset.
    """
    require_apart(path, [dataset.path])
    if not may_begin(path):
        require_folder(path, RUN, overwrite=overwrite)


def only_training(path: Path) -> AbstractContextManager[None]:
    """Return a context in which no other process trains in a run's folder.

    Raises:
        OutputError: another process does, or the folder cannot be written.
    """
    return only_process(path / _LOCK)


def seen(narrowing: Mapping[str, Sequence[str]]) -> str:
    """Return in words which domains a run sees, of `Dataset.narrowing`."""
    kept = [f"{name} in {', '.join(domains)}" for name, domains in narrowing.items()]
    return " and ".join(kept) or "all domains"


def _clear(path: Path) -> None:
    """Remove a former run's files, and nothing that crossfeed did not write."""
    for name in _FOLDERS:
        shutil.rmtree(path / name, ignore_errors=True)
    for name in get_args(CheckpointName):
        (path / "checkpoints" / f"{name}.pt").unlink(missing_ok=True)
    for name in _FILES:
        (path / name).unlink(missing_ok=True)
