"""What a training shows: a bar that fits a narrow terminal, the remaining time, and epochs."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from crossfeed.training.watch import display as displaying
from crossfeed.training.watch.alarms import Alarm
from crossfeed.training.watch.display import Display
from crossfeed.training.watch.health import Health

LOSSES = {"discriminator": 3.987, "generator": -0.512, "anchor": 5.123, "gap": 0.089}


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(displaying, "time", made)
    return made


def terminal(width: int) -> Console:
    return Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)


def shown_bar(width: int) -> str:
    """Return the last state of the bar on a terminal of some width."""
    console = terminal(width)
    with Display(epochs=30, steps=1_234, stage="train", console=console) as display:
        for step in (1, 600):
            display.step(epoch=11, step=step, losses=LOSSES)
    assert isinstance(console.file, io.StringIO)
    return [line for line in console.file.getvalue().splitlines() if "━" in line][-1]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_bar_steps_and_remaining_time_are_shown_whole(width: int) -> None:
    line = shown_bar(width)
    assert re.search(r"train epoch 12/30 [━╸╺ ]{20} 14174/37020 [-0-9]:[-0-9]{2}:[-0-9]{2} ", line)


def test_losses_take_the_room_that_is_left() -> None:
    assert "discriminator 3.987  generator -0.512  anchor 5.123  gap 0.089" in shown_bar(160)
    assert "disc" in shown_bar(80) and "…" in shown_bar(80) and "anchor" not in shown_bar(80)


def paced(clock: Clock, *, seconds: float, epochs: int, steps: int = 100) -> str:
    """Return what is said in an epoch whose steps take so many seconds, the first one longer."""
    console = Console(file=io.StringIO(), width=80)
    display = Display(epochs=epochs, steps=steps, stage="train", console=console)
    clock.now += 60
    for step in range(1, steps + 1):
        clock.now += seconds
        display.pace(epoch=0, step=step)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_remaining_time_is_announced_once_after_the_first_steps(clock: Clock) -> None:
    # 2,975 steps are left when the pace is known.
    assert paced(clock, seconds=0.2, epochs=30) == "train: about 10 min if it takes all 30 epochs\n"
    assert paced(clock, seconds=3, epochs=30) == (
        "train: about 2 h 29 min if it takes all 30 epochs\n"
    )
    assert paced(clock, seconds=1, epochs=1) == "train: about 75 s if it takes 1 epoch\n"


def test_a_training_of_seconds_announces_nothing(clock: Clock) -> None:
    assert paced(clock, seconds=0.001, epochs=30) == ""
    assert paced(clock, seconds=10, epochs=1, steps=20) == ""


def test_an_alarm_comes_with_advice() -> None:
    console = Console(file=io.StringIO(), width=80)
    display = Display(epochs=3, steps=3, stage="train", console=console)
    health = Health(0.505, None, {}, None, None, None, {})
    display.health(health, [Alarm("separation", "50.5% of the pairs are in order")])
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "  health: separation 0.505",
        "  alarm (separation): 50.5% of the pairs are in order",
        "  hint: leave train.correction at 1 and train.objective at softmax, or lower "
        "train.proposal_share",
    ]
