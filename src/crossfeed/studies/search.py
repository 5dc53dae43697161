"""The search for settings: each trial is chosen by the results of the earlier ones.

STUDY/study.sqlite   every trial, for Optuna's own tools too
STUDY/runs/          one run per trial, named by its settings
STUDY/best.toml      all settings of the best trial so far, for `train --config`
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from crossfeed.config import Config
from crossfeed.config.differences import differences
from crossfeed.data.dataset import Dataset
from crossfeed.errors import ConfigError, MissingExtraError, NonFiniteLossError, RunError
from crossfeed.evaluation.metrics import SELECTED_BY
from crossfeed.files import atomic_path, require_writable
from crossfeed.outputs import STUDY, require_folder
from crossfeed.run import Run
from crossfeed.studies.space import SPACE, Choices, Range, Space, require_allowed, with_settings
from crossfeed.training.loop.trainer import SAME_COMMAND, train

if TYPE_CHECKING:
    import optuna

__all__ = ["Search", "SearchTrial", "search"]

_log = logging.getLogger(__name__)

Value = bool | int | float | str

_STARTUP_TRIALS = 5
"""Trials that are drawn at random, and never pruned, before the others learn from them."""
_WARMUP_EPOCHS = 3
"""Epochs in which no trial is pruned."""


@dataclass(frozen=True)
class SearchTrial:
    """One training of a search."""

    number: int
    settings: Mapping[str, Value]
    value: float | None
    """Its best validation figure; None if it was pruned or failed."""
    state: str
    """complete, pruned or fail."""


@dataclass(frozen=True)
class Search:
    """The result of a search."""

    metric: str
    trials: tuple[SearchTrial, ...]
    """In the order in which they were made."""
    importances: Mapping[str, float]
    """Setting -> its share of the figures' variation (Watanabe et al. 2023), the largest first;
    empty before two trials are complete."""

    @property
    def best(self) -> SearchTrial | None:
        """Return the trial with the best figure, the first among equals."""
        complete = [trial for trial in self.trials if trial.value is not None]
        return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def search(
    dataset: Dataset,
    *,
    out: Path,
    config: Config,
    space: Space = SPACE,
    trials: int = 20,
    seed: int = 0,
    tell: Callable[[SearchTrial], None] = lambda trial: None,
) -> Search:
    """Train with different settings and keep the best on validation; the test part is never read.

    Trials are drawn by the tree-structured Parzen estimator (Bergstra et al. 2011) and pruned
    after an epoch in which they are below the median of the others. A stopped search continues,
    even in the middle of a trial, and draws the same trials.

    Args:
        dataset: prepared data.
        out: folder of the study, new or continued.
        config: settings shared by all trials.
        space: the values to try.
        trials: how many trials there are at the end, those of earlier calls included.
        seed: of the draws of settings; the trainings have `train.seed`.
        tell: called after each trial.

    Raises:
        ConfigError: the space does not fit the settings.
        RunError: the folder holds a search over other data, settings or space, or one that cannot
            be read.
        OutputError: the folder cannot be written.
        MissingExtraError: the extra `tune` is not installed.
    """
    require_allowed(space, config)
    require_folder(out, STUDY, inputs=[dataset.path], overwrite=True)  # an existing study continues
    with _opened(out, dataset, config, space) as study:
        for trial in _trials_to_run(study, trials):
            settings = _draw(study, trial, space, seed=seed)
            _run_trial(study, trial, settings, dataset=dataset, out=out, config=config)
            tell(_trial(study.trials[trial.number]))
            _write_best(out, study, config)
        _write_best(out, study, config)  # a killed process may not have written it
        found = tuple(map(_trial, study.trials))
        return Search(f"micro {SELECTED_BY}", found, _importances(study))


def _trials_to_run(study: optuna.Study, count: int) -> Iterator[optuna.Trial]:
    """Yield trials that a killed process left, and then new ones."""
    import optuna

    for broken in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        # Optuna has no public way to take up a trial of another process.
        yield optuna.Trial(study, broken._trial_id)
    while len(study.trials) < count:
        yield study.ask()


def _draw(study: optuna.Study, trial: optuna.Trial, space: Space, *, seed: int) -> dict[str, Value]:
    """Return a trial's settings; an interrupted trial keeps the ones it drew."""
    settings = {}
    for name, values in space.items():
        study.sampler = _sampler(seed, trial.number, name)
        settings[name] = _suggest(trial, name, values)
    return settings


def _run_trial(
    study: optuna.Study,
    trial: optuna.Trial,
    settings: Mapping[str, Value],
    *,
    dataset: Dataset,
    out: Path,
    config: Config,
) -> None:
    import optuna

    try:
        config = with_settings(config, settings)
    except ConfigError as error:  # not every value within a range, nor every mixture, is allowed
        _log.warning("trial %d is not trained: %s", trial.number, error.message)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return
    folder = out / "runs" / _name(settings)
    told = set(study.trials[trial.number].intermediate_values)

    def watch(epoch: int, value: float) -> None:
        if epoch not in told:  # an interrupted training may repeat an epoch
            trial.report(value, epoch)
            told.add(epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        if (folder / "metrics.jsonl").exists():  # interrupted, or tried before
            for epoch, value in enumerate(Run.open(folder).validation_values()):
                watch(epoch, value)
        run = train(
            dataset,
            out=folder,
            config=config,
            resume=True,
            after_epoch=watch,
            command=SAME_COMMAND,
        )
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    except NonFiniteLossError:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    else:
        study.tell(trial, max(run.validation_values()))


@contextmanager
def _opened(out: Path, dataset: Dataset, config: Config, space: Space) -> Iterator[optuna.Study]:
    """Open the study of a folder, which must be the same search."""
    try:
        import optuna
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError:
        raise MissingExtraError(package="optuna", extra="tune") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    require_writable(out)
    file = out / "study.sqlite"
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    except SQLAlchemyError as error:
        raise RunError(
            f"the study '{file}' cannot be read: {str(error).splitlines()[0]}",
            hint="put the file back, or give the search a folder of its own",
        ) from error
    try:
        study = optuna.create_study(
            study_name="crossfeed",
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(_STARTUP_TRIALS, _WARMUP_EPOCHS),
        )
        _require_same_question(study, _question(dataset, config, space), out)
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _question(dataset: Dataset, config: Config, space: Space) -> dict[str, str]:
    return {
        "dataset": str(dataset.manifest["content_hash"]),
        "settings": config.model_dump_json(include={"model", "train"}),
        "space": json.dumps({name: values.model_dump() for name, values in space.items()}),
    }


def _require_same_question(study: optuna.Study, question: Mapping[str, str], out: Path) -> None:
    for name, answer in question.items():
        if study.user_attrs.setdefault(name, answer) != answer:
            raise RunError(
                f"'{out}' holds a search with another {name}",
                hint="give it a folder of its own",
            )
        study.set_user_attr(name, answer)


def _sampler(seed: int, number: int, name: str) -> optuna.samplers.BaseSampler:
    """Return the sampler of one trial's setting; its draw depends on the earlier trials."""
    import optuna

    return optuna.samplers.TPESampler(
        n_startup_trials=_STARTUP_TRIALS, seed=int.from_bytes(_digest([seed, number, name])[:4])
    )


def _suggest(trial: optuna.Trial, name: str, values: Range | Choices) -> Value:
    if isinstance(values, Choices):
        chosen = trial.suggest_categorical(name, values.choices)
        assert chosen is not None  # a space holds no None
        return chosen
    if isinstance(values.low, int) and isinstance(values.high, int):
        return trial.suggest_int(name, values.low, values.high, log=values.log)
    return trial.suggest_float(name, values.low, values.high, log=values.log)


def _name(settings: Mapping[str, Value]) -> str:
    """Return the name of a trial's run: the same settings are trained once."""
    return _digest(sorted(settings.items())).hex()[:12]


def _digest(value: object) -> bytes:
    return hashlib.sha256(json.dumps(value).encode()).digest()


def _write_best(out: Path, study: optuna.Study, config: Config) -> None:
    """Write the settings of the best trial: its own and those that all trials share."""
    best = max(
        (t for t in map(_trial, study.trials) if t.value is not None),
        key=lambda trial: trial.value or 0.0,
        default=None,
    )
    if best is None:
        return
    shared = {one.name: one.here for one in differences(config, Config())}
    settings = {**shared, **best.settings}
    lines = [f"# {best.value:.4f} on validation, trial {best.number}"]
    for section in ("model", "train"):
        own = {
            name.partition(".")[2]: value
            for name, value in settings.items()
            if name.startswith(f"{section}.")
        }
        if own:
            lines += ["", f"[{section}]", *(f"{key} = {json.dumps(own[key])}" for key in own)]
    with atomic_path(out / "best.toml") as temporary:
        temporary.write_text("\n".join(lines) + "\n", "utf-8")


def _trial(trial: optuna.trial.FrozenTrial) -> SearchTrial:
    import optuna

    complete = trial.state == optuna.trial.TrialState.COMPLETE
    value = trial.value if complete else None
    return SearchTrial(trial.number, dict(trial.params), value, trial.state.name.lower())


def _importances(study: optuna.Study) -> dict[str, float]:
    import optuna

    values = {trial.value for trial in study.trials if trial.value is not None}
    if len(values) < 2:
        return {}
    with warnings.catch_warnings(action="ignore"):  # it warns if there are few trials
        return optuna.importance.get_param_importances(study)
