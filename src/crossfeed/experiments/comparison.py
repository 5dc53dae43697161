"""Runs against each other and against baselines, on the events that all were judged on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from crossfeed.errors import RunError
from crossfeed.evaluation.outcomes import Outcomes, read_outcomes
from crossfeed.evaluation.statistics import Comparison, compare, holm, mean_over_seeds
from crossfeed.run import Run

__all__ = ["Contest", "Entrant", "contests", "entrants"]


@dataclass(frozen=True)
class Entrant:
    """A scorer, and the runs that its outcomes are the mean of."""

    outcomes: Outcomes
    runs: tuple[str, ...]
    """Folders of the trainings that differ in their seed alone."""

    @property
    def name(self) -> str:
        """Return the name under which it is shown."""
        return self.outcomes.scorer


@dataclass(frozen=True)
class Contest:
    """The first entrant against another one."""

    first: Entrant
    second: Entrant
    comparisons: list[Comparison]
    """Micro, macro, then each domain; adjusted for all contests of one call."""


def entrants(runs: Sequence[Run], *, baselines: Sequence[str] = ()) -> list[Entrant]:
    """Read what runs kept of their evaluation; trainings that differ in the seed are one entrant.

    Args:
        runs: runs on one dataset, evaluated on one part of it.
        baselines: baselines that were evaluated with the first run.

    Raises:
        RunError: a run has not been evaluated, or on something else than the first.
    """
    _require_same_ground(runs)
    read = {run.path: read_outcomes(run.path / "outcomes.parquet") for run in runs}
    found = [
        Entrant(
            mean_over_seeds([read[run.path][0] for run in group], name=_name(group)),
            tuple(str(run.path) for run in group),
        )
        for group in _by_settings(runs)
    ]
    known = {one.scorer: one for one in read[runs[0].path][1:]}
    for name in baselines:
        if name not in known:
            raise RunError(
                f"'{runs[0].path}' was not evaluated beside '{name}'; "
                f"beside: {', '.join(known) or 'nothing'}",
                hint=f"crossfeed evaluate {runs[0].path} --baselines {name}",
            )
        found.append(Entrant(known[name], ()))
    return found


def contests(entrants: Sequence[Entrant], *, metric: str) -> list[Contest]:
    """Compare the first entrant with each other one; Holm over all comparisons together.

    Raises:
        RunError: there are fewer than two, or they were not judged on the same events.
    """
    if len(entrants) < 2:
        raise RunError(
            f"one scorer, '{entrants[0].name}', has nothing to be compared with",
            hint="name another run, or a baseline: --baselines popularity",
        )
    first, *others = entrants
    made = [
        Contest(first, other, compare(first.outcomes, other.outcomes, metric)) for other in others
    ]
    adjusted = iter(holm([one.p for contest in made for one in contest.comparisons]))
    return [
        replace(
            contest,
            comparisons=[replace(one, p_holm=next(adjusted)) for one in contest.comparisons],
        )
        for contest in made
    ]


def _require_same_ground(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs:
        if not (run.path / "outcomes.parquet").exists():
            raise RunError(
                f"'{run.path}' has not been evaluated", hint=f"crossfeed evaluate {run.path}"
            )
        if run.facts["dataset_hash"] != first.facts["dataset_hash"]:
            raise RunError(
                f"'{run.path}' and '{first.path}' were trained on different datasets",
                hint="compare runs on one dataset",
            )
        if _part(run) != _part(first):
            raise RunError(
                f"'{run.path}' was evaluated on the {_part(run)} part, '{first.path}' on the "
                f"{_part(first)} part",
                hint="evaluate both on the same part: crossfeed evaluate RUN --part test",
            )


def _part(run: Run) -> str:
    return str(json.loads((run.path / "results.json").read_text("utf-8"))["part"])


def _by_settings(runs: Sequence[Run]) -> list[list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        train = run.config.train.model_copy(update={"seed": 0})
        settings = run.config.model_copy(update={"train": train})
        groups.setdefault(settings.model_dump_json(), []).append(run)
    return list(groups.values())


def _name(group: Sequence[Run]) -> str:
    seeds = f" ({len(group)} seeds)" if len(group) > 1 else ""
    return f"{group[0].path.name}{seeds}"
