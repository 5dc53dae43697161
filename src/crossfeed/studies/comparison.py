"""Comparison of runs and baselines on the events that all of them ranked."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from crossfeed.config.differences import RUNNING
from crossfeed.errors import RunError
from crossfeed.evaluation.outcomes import Outcomes, read_outcomes
from crossfeed.evaluation.statistics.comparisons import (
    Comparison,
    adjusted,
    compare,
    flips_for,
    mean_over_seeds,
)
from crossfeed.run import Run

__all__ = ["Contest", "Entrant", "contests", "entrants", "evaluated_part"]


@dataclass(frozen=True)
class Entrant:
    """A scorer, and the runs whose mean outcomes it has."""

    outcomes: Outcomes
    runs: tuple[str, ...] = ()
    """Folders of the trainings that differ only in their seed; none for a baseline."""
    seeds: tuple[int, ...] = ()
    """The seed of each."""

    @property
    def name(self) -> str:
        """Return the name under which it is shown."""
        return self.outcomes.scorer


@dataclass(frozen=True)
class Contest:
    """The first entrant compared with another one."""

    first: Entrant
    second: Entrant
    comparisons: list[Comparison]
    """Micro, macro, then each domain; adjusted for all contests of one call."""


def entrants(runs: Sequence[Run], *, baselines: Sequence[str] | None = None) -> list[Entrant]:
    """Read the outcomes of runs; trainings that differ only in the seed are one entrant.

    Args:
        runs: runs on one dataset, evaluated on one part of it.
        baselines: baselines that were evaluated with the first run; None takes all of them if the
            runs are a single entrant, else none.

    Raises:
        RunError: a run has not been evaluated, or not on the same part as the first; or two
            trainings of one entrant have the same seed.
    """
    _require_same_ground(runs)
    read = {run.path: read_outcomes(_outcomes_file(run)) for run in runs}
    groups = _by_settings(runs)
    found = [
        Entrant(
            outcomes=mean_over_seeds([_own(read[run.path], run) for run in group], name=name),
            runs=tuple(str(run.path) for run in group),
            seeds=tuple(run.config.train.seed for run in group),
        )
        for group, name in zip(groups, _names(groups), strict=True)
    ]
    known = {one.scorer: one for one in read[runs[0].path][1:]}
    if baselines is None:
        baselines = list(known) if len(groups) == 1 else []
    return [*found, *(Entrant(_baseline(known, name, runs[0])) for name in baselines)]


def contests(entrants: Sequence[Entrant], *, metric: str) -> list[Contest]:
    """Compare the first entrant with each other one; Holm over all comparisons together.

    Raises:
        RunError: there are fewer than two, they ranked different events, or they lack the metric.
    """
    if len(entrants) < 2:
        raise RunError(
            f"one scorer, '{entrants[0].name}', has nothing to be compared with",
            hint="name another run, or evaluate this one beside baselines",
        )
    first, *others = entrants
    scopes = 2 + len(set(first.outcomes.domains))
    flips = flips_for(scopes * len(others))
    made = [
        Contest(first, other, compare(first.outcomes, other.outcomes, metric, flips=flips))
        for other in others
    ]
    found = iter(adjusted([one for contest in made for one in contest.comparisons]))
    return [
        replace(contest, comparisons=[next(found) for _ in contest.comparisons]) for contest in made
    ]


def evaluated_part(run: Run) -> str:
    """Return the part of the run's outcomes: test or validation.

    Raises:
        RunError: the run has not been evaluated, or its results cannot be read.
    """
    hint = f"crossfeed evaluate {shlex.quote(str(run.path))}"
    results = run.path / "results.json"
    if not (results.exists() and _outcomes_file(run).exists()):
        raise RunError(f"'{run.path}' has not been evaluated", hint=hint)
    try:
        return str(json.loads(results.read_text("utf-8"))["part"])
    except (OSError, ValueError, KeyError, TypeError):
        raise RunError(f"'{results}' cannot be read", hint=hint) from None


def _require_same_ground(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs:
        if run.facts["dataset_hash"] != first.facts["dataset_hash"]:
            raise RunError(
                f"'{run.path}' and '{first.path}' were trained on different datasets",
                hint="compare runs on one dataset",
            )
        if evaluated_part(run) != evaluated_part(first):
            raise RunError(
                f"'{run.path}' was evaluated on the {evaluated_part(run)} part, '{first.path}' on "
                f"the {evaluated_part(first)} part",
                hint="evaluate both on the same part: crossfeed evaluate RUN --part test",
            )


def _by_settings(runs: Sequence[Run]) -> list[list[Run]]:
    """Return the runs in groups that differ only in their seed.

    Raises:
        RunError: two runs of a group have the same seed.
    """
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        group, seed = groups.setdefault(_settings(run), {}), run.config.train.seed
        if seed in group:
            raise RunError(
                f"'{group[seed].path}' and '{run.path}' have the same settings and the same seed, "
                f"{seed}: one training cannot count twice",
                hint="name each training once; train others with --set train.seed=N",
            )
        group[seed] = run
    return [list(group.values()) for group in groups.values()]


def _settings(run: Run) -> str:
    """Return the settings that identify a scorer: all except the seed and how it ran."""
    aside = {"seed", *(name.removeprefix("train.") for name in RUNNING)}
    train = run.config.train.model_dump_json(exclude=aside)
    return json.dumps([run.facts.get("crossfeed"), run.config.model.model_dump_json(), train])


def _names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """Return the first folder of each group, shortened as far as it stays unique."""
    folders = [group[0].path.resolve().name for group in groups]
    if len(set(folders)) < len(folders):
        folders = [str(group[0].path) for group in groups]
    return [
        f"{folder} ({len(group)} seeds)" if len(group) > 1 else folder
        for folder, group in zip(folders, groups, strict=True)
    ]


def _outcomes_file(run: Run) -> Path:
    return run.path / "outcomes.parquet"


def _own(outcomes: Sequence[Outcomes], run: Run) -> Outcomes:
    """Return the outcomes of the run's own scorer, the first ones, named after its folder."""
    return replace(outcomes[0], scorer=str(run.path))


def _baseline(known: dict[str, Outcomes], name: str, run: Run) -> Outcomes:
    if name not in known:
        raise RunError(
            f"'{run.path}' was not evaluated beside '{name}'; beside: {', '.join(known) or 'none'}",
            hint=f"crossfeed evaluate {shlex.quote(str(run.path))} --baselines {name}",
        )
    return known[name]
