"""What the domains of a run give each other, and which of them should not be served by it.

Three questions, each answered by training the run's own network, with its own settings, on a part
of the data: is a domain better off with the others than alone (negative transfer)? What does the
history in one domain tell about each other one (matrix)? What do the others lose without a domain
(leave-one-domain-out)? All trainings lie in the run's folder, and one that is finished is not
repeated.

Dims: N the largest domains, by training clicks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import RunError
from crossfeed.evaluation.baselines import Popularity
from crossfeed.evaluation.evaluate import Results, evaluate
from crossfeed.evaluation.statistics.comparisons import Comparison, compare, holm
from crossfeed.run import Run
from crossfeed.scorer import Scorer
from crossfeed.studies.narrow import is_trainable, train_alone, train_narrowed

__all__ = ["Transfer", "held_back", "measure_transfer", "require_domains"]

FORMAT_VERSION = 1
LARGEST = 8
"""Domains in the matrix and in leave-one-domain-out, which train one network each."""

Row = list[float | None]
"""One figure per domain; None where there is none."""


@dataclass(frozen=True)
class Transfer:
    """What was measured; `metric` throughout."""

    metric: str
    part: str
    against_alone: list[Comparison]
    """The run against a network per domain: micro, macro, each domain; adjusted by Holm."""
    domains: tuple[str, ...]
    """(N,) names of the rows and columns below."""
    popularity: Row
    """(N,) popularity in each domain: what no history gives."""
    joint: Row
    """(N,) the run in each domain."""
    matrix: list[Row]
    """(N, N) the column's domain, by a network that saw the history in the row's domain alone."""
    without: list[Row]
    """(N, N) the column's domain, by a network that never saw the row's domain; None in it, and
    where the other domains have nothing to learn from or to choose an epoch by."""

    def to_json(self) -> dict[str, object]:
        """Return the content of transfer.json."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}


def require_domains(dataset: Dataset) -> None:
    """Refuse a dataset of one domain, which no other one can give anything.

    Raises:
        RunError: naming the domain.
    """
    domains = dataset.catalogue.domains
    if len(domains) < 2:
        raise RunError(
            f"'{dataset.path}' has one domain, '{domains[0]}'; transfer is measured between two "
            "or more",
            hint="evaluate it without --transfer",
        )


def measure_transfer(
    run: Run, *, part: Part = Part.TEST, metric: str = "ndcg@10", largest: int = LARGEST
) -> Transfer:
    """Train what the three questions need, and answer them on one part.

    Args:
        run: a finished run; the trainings go to its folder `transfer`.
        part: what is ranked.
        metric: a metric of the evaluation.
        largest: N, how many domains the matrix and leave-one-domain-out have.

    Raises:
        RunError: the dataset has one domain.
    """
    dataset, folder = run.dataset(), run.path / "transfer"
    require_domains(dataset)
    joint = evaluate(run, dataset, part=part)
    alone = evaluate(_alone(run, dataset), dataset, part=part)
    chosen = _largest(dataset, largest)
    names = tuple(dataset.catalogue.domains[domain] for domain in chosen)
    view = dataset.narrowed(targets=chosen)

    def figures(scorer: Scorer) -> Row:
        return _by_domain(evaluate(scorer, view, part=part), names, metric)

    every = range(len(dataset.catalogue.domains))
    matrix, without = [], []
    for domain in chosen:
        name = f"from-{domain:04}-of-{len(chosen):04}"  # it learns the chosen domains' clicks
        source = _train(run, dataset, folder / name, chosen, [domain])
        matrix.append(figures(source))
        others = [other for other in every if other != domain]
        row: Row = [None] * len(chosen)
        if is_trainable(dataset, others):
            row = figures(_train(run, dataset, folder / f"without-{domain:04}", others, others))
            row[chosen.index(domain)] = None
        without.append(row)
    return Transfer(
        metric=metric,
        part=part.name.lower(),
        against_alone=_adjusted(compare(joint.outcomes, alone.outcomes, metric)),
        domains=names,
        popularity=figures(Popularity(dataset)),
        joint=_by_domain(joint, names, metric),
        matrix=matrix,
        without=without,
    )


def held_back(run: Run, *, metric: str = "ndcg@10") -> dict[str, str]:
    """Return the domains that this run should not serve, and why.

    A domain is held back where the run is surely worse, on validation clicks, than popularity or
    than a network trained on the domain alone: paired by user, adjusted (Holm) over all domains
    and both rivals. The test part takes no part in it.
    """
    dataset = run.dataset()
    rivals = {"popularity": Popularity(dataset), "training on it alone": _alone(run, dataset)}
    joint = evaluate(run, dataset, part=Part.VALIDATION).outcomes
    found = []
    for name, rival in rivals.items():
        outcomes = evaluate(rival, dataset, part=Part.VALIDATION).outcomes
        found += [(name, one) for one in compare(joint, outcomes, metric)[2:]]  # domains alone
    adjusted = _adjusted([one for _, one in found])
    return {
        one.scope: f"{metric} {one.first:.4f}, {name} {one.second:.4f}, p {one.p_holm:.4f}, "
        "on validation"
        for (name, _), one in zip(found, adjusted, strict=True)
        if one.better == "second"
    }


def _alone(run: Run, dataset: Dataset) -> Scorer:
    return train_alone(dataset, out=run.path / "transfer" / "alone", config=run.config)


def _train(
    run: Run, dataset: Dataset, out: Path, targets: Sequence[int], history: Sequence[int]
) -> Scorer:
    return train_narrowed(dataset, out=out, config=run.config, targets=targets, history=history)


def _largest(dataset: Dataset, count: int) -> list[int]:
    """Return the domains with most training clicks, in the order of the catalogue."""
    domains = dataset.event_domain[dataset.events(Part.TRAIN)]
    clicks = np.bincount(domains, minlength=len(dataset.catalogue.domains))
    return sorted(np.argsort(-clicks, kind="stable")[:count].tolist())


def _by_domain(results: Results, names: Sequence[str], metric: str) -> Row:
    domains = results.domains
    return [domains[name][metric] if name in domains else None for name in names]


def _adjusted(comparisons: list[Comparison]) -> list[Comparison]:
    adjusted = holm([one.p for one in comparisons])
    return [replace(one, p_holm=p) for one, p in zip(comparisons, adjusted, strict=True)]
