"""The profile of a training as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from crossfeed.cli.output import make_table, title

if TYPE_CHECKING:
    from crossfeed.training.watch.profile import ProfileReport

__all__ = ["print_profile"]

_OPERATORS = 10


def print_profile(console: Console, report: ProfileReport) -> None:
    """Print the time by stage, then torch's operators that took most of it."""
    speed = report.clicks / report.seconds
    console.print(
        title(
            f"{report.steps} steps on {report.device}, threads: {report.threads}; "
            f"{report.seconds:.1f} s, {speed:,.0f} clicks/s"
        )
    )
    stages = make_table("stage", "share", "seconds", "times", "ms each")
    for one in report.stages:
        each = 1000 * one.seconds / one.times if one.times else 0.0
        stages.add_row(
            one.stage, f"{one.share:.1%}", f"{one.seconds:.2f}", f"{one.times:,}", f"{each:.3f}"
        )
    console.print(stages)
    if not report.operators:
        console.print("the training was too short for its operators to be recorded")
        return
    console.print(title(f"operators of {report.operator_steps} steps"))
    operators = make_table("operator", "share", "ms a step", "calls a step")
    for own in report.operators[:_OPERATORS]:
        operators.add_row(
            own.operator,
            f"{own.share:.1%}",
            f"{1000 * own.seconds / report.operator_steps:.3f}",
            f"{own.calls / report.operator_steps:.1f}",
        )
    console.print(operators)
