"""How much the domains of a run gain from each other, and which ones it should not serve.

Training the run's own network with its own settings on parts of the data answers three questions.
Is a domain better with the others than alone (negative transfer)? How well does the history in one
domain predict each other one (matrix)? How much do the others lose without a domain
(leave-one-domain-out)? All trainings are kept in the run's folder, and finished ones are not
repeated.

Dims: N the largest domains, by training clicks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from crossfeed.data.dataset import Dataset, Part
from crossfeed.errors import RunError
from crossfeed.evaluation.baselines import Popularity
from crossfeed.evaluation.evaluate import Results, evaluate
from crossfeed.evaluation.outcomes import Outcomes
from crossfeed.evaluation.statistics.comparisons import Comparison, adjusted, compare, flips_for
from crossfeed.run import Run
from crossfeed.scorer import Scorer
from crossfeed.studies.narrow import is_trainable, train_alone, train_narrowed

__all__ = ["Transfer", "find_worse", "held_back", "measure_transfer", "require_domains"]

FORMAT_VERSION = 1
LARGEST = 8
"""Domains in the matrix and in leave-one-domain-out, which train one network each."""

Row = list[float | None]
"""One figure per domain; None if there is none."""


@dataclass(frozen=True)
class Transfer:
    """The measurements, all by `metric`."""

    metric: str
    part: str
    against_alone: list[Comparison]
    """The run against a network per domain: micro, macro, each domain; adjusted by Holm."""
    domains: tuple[str, ...]
    """(N,) names of the rows and columns below."""
    popularity: Row
    """(N,) popularity in each domain, which uses no history."""
    joint: Row
    """(N,) the run in each domain."""
    matrix: list[Row]
    """(N, N) quality in the column's domain of a network that sees only the history in the row's
    domain."""
    without: list[Row]
    """(N, N) quality in the column's domain of a network that never saw the row's domain. None on
    the diagonal, and if the other domains have no training or no validation click."""

    def to_json(self) -> dict[str, object]:
        """Return the content of transfer.json."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}


def require_domains(dataset: Dataset) -> None:
    """Refuse a dataset of one domain, which has no other to gain from.

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
    """Train the networks for the three questions, and answer these on one part.

    Args:
        run: a finished run; the trainings go to its folder `transfer`.
        part: the ranked part.
        metric: a metric of the evaluation.
        largest: N, the number of domains in the matrix and in leave-one-domain-out.

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
        name = f"from-{domain:04}-of-{len(chosen):04}"  # it learns clicks of the chosen domains
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
        against_alone=adjusted(compare(joint.outcomes, alone.outcomes, metric)),
        domains=names,
        popularity=figures(Popularity(dataset)),
        joint=_by_domain(joint, names, metric),
        matrix=matrix,
        without=without,
    )


def held_back(run: Run) -> dict[str, str]:
    """Return the domains that this run should not serve, and why.

    A domain is held back if the run is significantly worse there, on validation clicks, than
    popularity or than a network trained on that domain alone. The test is paired by user and
    adjusted (Holm) over all domains and both rivals. The test part is not used.
    """
    dataset = run.dataset()
    rivals = {"popularity": Popularity(dataset), "training on it alone": _alone(run, dataset)}
    return find_worse(
        evaluate(run, dataset, part=Part.VALIDATION).outcomes,
        {
            name: evaluate(rival, dataset, part=Part.VALIDATION).outcomes
            for name, rival in rivals.items()
        },
    )


def find_worse(
    joint: Outcomes, rivals: Mapping[str, Outcomes], *, metric: str = "ndcg@10"
) -> dict[str, str]:
    """Return the domains with a scorer that is surely worse than one of its rivals, and why.

    Args:
        joint: the scorer that is judged.
        rivals: name -> another scorer on the same validation events.
        metric: the metric that is compared.
    """
    flips = flips_for(len(rivals) * len(set(joint.domains)))
    found = [
        (name, one)
        for name, rival in rivals.items()
        for one in compare(joint, rival, metric, flips=flips)[2:]  # domains alone
    ]
    return {
        one.scope: f"{metric} {one.first:.4f}, {name} {one.second:.4f}, p {one.p_holm:.4f}, "
        "on validation"
        for (name, _), one in zip(found, adjusted([one for _, one in found]), strict=True)
        if one.better == "second"
    }


def _alone(run: Run, dataset: Dataset) -> Scorer:
    return train_alone(dataset, out=run.path / "transfer" / "alone", config=run.config)


def _train(
    run: Run, dataset: Dataset, out: Path, targets: Sequence[int], history: Sequence[int]
) -> Scorer:
    return train_narrowed(dataset, out=out, config=run.config, targets=targets, history=history)


def _largest(dataset: Dataset, count: int) -> list[int]:
    """Return the domains with most training clicks, in catalogue order."""
    domains = dataset.event_domain[dataset.events(Part.TRAIN)]
    clicks = np.bincount(domains, minlength=len(dataset.catalogue.domains))
    return sorted(np.argsort(-clicks, kind="stable")[:count].tolist())


def _by_domain(results: Results, names: Sequence[str], metric: str) -> Row:
    domains = results.domains
    return [domains[name][metric] if name in domains else None for name in names]
