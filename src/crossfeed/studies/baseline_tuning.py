"""The choice of a baseline's settings on validation clicks only."""

from __future__ import annotations

from dataclasses import dataclass

from crossfeed.data.dataset import Dataset, Part
from crossfeed.evaluation.baselines import BASELINES, require_baselines
from crossfeed.evaluation.evaluate import evaluate
from crossfeed.evaluation.metrics import LOWER_IS_BETTER
from crossfeed.scorer import Scorer

__all__ = ["Trial", "Tuned", "tune_baseline"]


@dataclass(frozen=True)
class Trial:
    """One setting and its figure on validation."""

    settings: str
    value: float


@dataclass(frozen=True)
class Tuned:
    """The best of the trials."""

    scorer: Scorer
    settings: str
    """In words; empty if the baseline has no settings."""
    trials: tuple[Trial, ...]


def tune_baseline(name: str, dataset: Dataset, *, metric: str = "ndcg@10") -> Tuned:
    """Fit a baseline with each of its settings, at most 10, and keep the best.

    Args:
        name: a baseline of `BASELINES`.
        dataset: fitted on its training part, chosen on its validation part by the micro mean; the
            test part is never used.
        metric: a metric of the evaluation.

    Raises:
        ConfigError: the baseline is unknown, or the dataset is too large for it.
        MissingExtraError: it needs a package that is not installed.
    """
    require_baselines([name], dataset)
    choose = min if metric in LOWER_IS_BETTER else max
    best: Scorer | None = None
    trials: list[Trial] = []
    for settings, fit in BASELINES[name].trials().items():
        scorer = fit(dataset)
        value = evaluate(scorer, dataset, part=Part.VALIDATION).micro[metric]
        trials.append(Trial(settings, value))
        chosen = choose(trials, key=lambda trial: trial.value)
        if chosen is trials[-1]:
            best = scorer
    assert best is not None  # every baseline has a trial
    return Tuned(best, chosen.settings, tuple(trials))
