"""The charts of a report, about as wide as a phone, so that text stays readable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator

from crossfeed.evaluation.report.contents import Epoch, Table
from crossfeed.evaluation.report.svg import GRID, INK, SERIES, chart_style, inline_svg, plain
from crossfeed.evaluation.statistics.comparisons import Estimate

__all__ = ["bars_chart", "health_chart", "heat_map", "losses_chart", "validation_chart"]

_WIDTH = 5.0
"""Inches; 72 units of the view box each."""
_ROW = 0.115
"""Height of one bar in inches."""
_SHADE = 0.7
"""Opacity of the best cell of a heat map; text must stay readable on it."""


def losses_chart(epochs: Sequence[Epoch]) -> str:
    """Return the losses of both players by epoch, one panel each: their scales differ."""
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.losses))
    numbers = [epoch.number for epoch in epochs]
    curves = {name: [epoch.losses.get(name) for epoch in epochs] for name in names}
    return _panels(numbers, curves, name="losses", title=f"Losses by epoch: {', '.join(names)}")


def health_chart(health: Table) -> str:
    """Return the columns of a table of epochs, one panel each."""
    numbers = [int(name) for name, _ in health.rows]
    curves = {
        column: [row[place] for _, row in health.rows]
        for place, column in enumerate(health.columns)
    }
    return _panels(numbers, curves, name="health", title="Health of the training by epoch")


def validation_chart(epochs: Sequence[Epoch], *, metric: str, best: int | None) -> str:
    """Return the validation metric by epoch, the chosen epoch marked."""
    with matplotlib.rc_context(chart_style()):
        figure = Figure(figsize=(_WIDTH, 3.0), layout="constrained")
        axes = figure.subplots()
        numbers = [epoch.number for epoch in epochs]
        _line(axes, numbers, [epoch.micro for epoch in epochs], SERIES[0])
        _line(axes, numbers, [epoch.macro for epoch in epochs], SERIES[1])
        axes.legend(axes.lines, ["micro", "macro"], frameon=False, loc="lower right")
        if best is not None:
            axes.axvline(best, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_title(f"best: epoch {best}", fontsize=10)
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation {metric}")
        return inline_svg(figure, name="validation", title=f"Validation {metric} by epoch")


def bars_chart(scorers: Mapping[str, Sequence[Estimate]], *, metric: str) -> str:
    """Return bars of each scorer with 95% intervals: one group per scope, the first on top."""
    scopes = [one.scope for one in next(iter(scorers.values()))]
    thickness = 1 / (len(scorers) + 1)
    places = np.arange(len(scopes))
    height = _ROW * len(scopes) * (len(scorers) + 1) + 0.9
    with matplotlib.rc_context(chart_style()):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.subplots()
        for number, estimates in enumerate(scorers.values()):
            by_scope = {one.scope: one for one in estimates}
            found = [by_scope[scope] for scope in scopes]
            means = np.array([one.mean for one in found])
            axes.barh(
                places + (number + 1) * thickness - 0.5,
                means,
                thickness * 0.9,
                color=SERIES[number % len(SERIES)],
                xerr=np.abs(_ends(found) - means),
                error_kw={"ecolor": INK, "elinewidth": 0.8},
            )
        axes.set_yticks(places, [plain(scope) for scope in scopes])
        axes.set_ylim(len(scopes) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", linewidth=0.6)
        axes.set_xlabel(metric)
        names = [plain(name) for name in scorers]
        handles = [Patch(color=SERIES[number % len(SERIES)]) for number in range(len(names))]
        figure.legend(handles, names, frameon=False, loc="outside upper left", ncols=3)
        return inline_svg(figure, name="bars", title=f"{metric} by domain: {', '.join(names)}")


def heat_map(table: Table, *, metric: str) -> str:
    """Return a table as shaded cells; the shade compares the cells of one column."""
    values = np.array([[np.nan if one is None else one for one in row] for _, row in table.rows])
    shades = _shades(values)
    rows, columns = values.shape
    with matplotlib.rc_context(chart_style()):
        figure = Figure(figsize=(2.0 + 0.5 * columns, 1.3 + 0.3 * rows), layout="constrained")
        axes = figure.subplots()
        for row, column in np.argwhere(~np.isnan(values)).tolist():
            cell = Rectangle((column, row), 1, 1, facecolor=SERIES[0], alpha=shades[row, column])
            axes.add_patch(cell)
            text = f"{values[row, column]:.3f}".removeprefix("0")
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=9)
        axes.set_xlim(0, columns)
        axes.set_ylim(rows, 0)
        names = [plain(name, longest=16) for name in table.columns]
        axes.set_xticks(np.arange(columns) + 0.5, names, rotation=40, ha="left")
        axes.set_yticks(np.arange(rows) + 0.5, [plain(name, longest=30) for name, _ in table.rows])
        axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
        axes.spines[:].set_visible(False)
        return inline_svg(figure, name="transfer", title=f"{metric} by history shown")


def _panels(
    numbers: Sequence[int],
    curves: Mapping[str, Sequence[float | None]],
    *,
    name: str,
    title: str,
) -> str:
    rows = -(-len(curves) // 2)
    with matplotlib.rc_context(chart_style()):
        figure = Figure(figsize=(_WIDTH, 1.7 * rows), layout="constrained")
        panels = figure.subplots(rows, 2, sharex=True, squeeze=False).ravel()
        for panel, (curve, values) in zip(panels, curves.items(), strict=False):
            _line(panel, numbers, values, SERIES[0])
            panel.set_title(plain(curve), fontsize=10)
        for panel in panels[len(curves) :]:
            panel.set_axis_off()
        for panel in panels[-2:]:
            panel.set_xlabel("epoch")
        return inline_svg(figure, name=name, title=title)


def _line(axes: Axes, numbers: Sequence[int], values: Sequence[float | None], colour: str) -> None:
    known = [np.nan if value is None else value for value in values]
    axes.plot(numbers, known, color=colour, marker="o", markersize=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=GRID, linewidth=0.6)


def _ends(estimates: Sequence[Estimate]) -> np.ndarray:
    """Return (2, S) the ends of each interval; the mean itself if there is none."""
    return np.array(
        [
            [one.mean if end is None else end for one, end in zip(estimates, ends, strict=True)]
            for ends in ([one.low for one in estimates], [one.high for one in estimates])
        ]
    )


def _shades(values: np.ndarray) -> np.ndarray:
    """Return opacities: each column from its lowest to its highest value."""
    lowest = np.nanmin(np.where(np.isnan(values), np.inf, values), axis=0)
    highest = np.nanmax(np.where(np.isnan(values), -np.inf, values), axis=0)
    span = np.where(highest > lowest, highest - lowest, 1.0)
    return np.asarray(_SHADE * (values - lowest) / span)
