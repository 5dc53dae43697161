"""Which epoch is the best, when a fit ends, and what follows a collapse: by figures alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossfeed.config import TrainConfig
from crossfeed.training.loop.progress import FitProgress
from crossfeed.training.loop.selection import Recovery, Selection


def judged(
    values: list[float | None], *, epochs: int = 99, patience: int = 99
) -> tuple[list[bool], FitProgress]:
    """Judge figures until the fit ends; return which epochs were the best so far."""
    progress = FitProgress()
    selection = Selection(progress, TrainConfig(patience=patience), epochs=epochs)
    best = []
    for value in values:
        best.append(selection.judge(value))
        progress.epoch += 1
        if progress.finished:
            break
    return best, progress


def test_the_best_epoch_is_the_first_with_the_highest_figure() -> None:
    best, progress = judged([0.1, 0.3, 0.2, 0.3])
    assert best == [True, True, False, False]
    assert (progress.best, progress.best_epoch, progress.finished) == (0.3, 1, False)
    assert progress.best_rates == [1.0, 1.0]


def test_it_ends_after_as_many_epochs_without_a_better_one_as_patience_says() -> None:
    best, progress = judged([0.1, 0.3, 0.2, 0.2, 0.4, 0.5], patience=2)
    assert best == [True, True, False, False] and progress.finished
    assert progress.best_epoch == 1


def test_it_ends_after_the_last_epoch() -> None:
    best, progress = judged([0.1, 0.2, 0.3], epochs=2)
    assert best == [True, True] and progress.finished


def test_without_figures_the_newest_epoch_is_the_best() -> None:
    best, progress = judged([None, None, None], epochs=3, patience=1)
    assert best == [True] * 3 and progress.finished
    assert progress.best_epoch == 2


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 5))
def test_whatever_the_figures_the_best_is_kept_and_patience_is_not_exceeded(
    values: list[float], patience: int
) -> None:
    best, progress = judged([*values], epochs=len(values), patience=patience)
    seen = values[: len(best)]
    assert progress.finished
    assert progress.best == max(seen) and progress.best_epoch == seen.index(max(seen))
    assert len(progress.best_rates) == progress.best_epoch + 1
    assert len(seen) - 1 - progress.best_epoch <= patience


def recovering(progress: FitProgress, collapses: list[bool], **train: object) -> list[Recovery]:
    """Judge epochs with rising figures, some of which collapsed, and return what followed."""
    settings = TrainConfig.model_validate({"on_collapse": "roll-back", **train})
    selection = Selection(progress, settings, epochs=99)
    followed: list[Recovery] = []
    for collapsed in collapses:
        selection.judge(float(progress.epoch))
        progress.epoch += 1
        followed.append(selection.recover(collapsed=collapsed, has_healthy="keep" in followed))
    return followed


def test_a_collapse_goes_back_with_half_the_rate_three_times_and_then_ends() -> None:
    progress = FitProgress()
    followed = recovering(progress, [False, True, True, False, True, True])
    assert followed == ["keep", "roll back", "roll back", "keep", "roll back", "stop"]
    assert progress.roll_backs == 3 and progress.finished
    # The weights come from epoch 1 at the full rate, epoch 4 at a quarter, epoch 6 at an eighth.
    assert progress.rates == [1.0, 0.25, 0.125]


def test_the_schedule_of_the_best_weights_leaves_out_epochs_that_were_rolled_back() -> None:
    progress = FitProgress()
    recovering(progress, [False, True, True, False])
    assert progress.best_epoch == 3
    assert progress.best_rates == [1.0, 0.25]


@pytest.mark.parametrize(
    ("collapses", "train"),
    [([True, True], {}), ([False, True], {"on_collapse": "warn"})],
    ids=["no healthy epoch", "warnings only"],
)
def test_nothing_follows_a_collapse(collapses: list[bool], train: dict[str, object]) -> None:
    progress = FitProgress()
    assert set(recovering(progress, collapses, **train)) == {"nothing"}
    assert (progress.roll_backs, progress.rates) == (0, [1.0, 1.0])
