"""A report as one self-contained HTML page: no script, and no font or picture from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from crossfeed.evaluation.report.charts import (
    bars_chart,
    health_chart,
    heat_map,
    losses_chart,
    validation_chart,
)
from crossfeed.evaluation.report.contents import Report
from crossfeed.evaluation.statistics.comparisons import Comparison, Estimate

__all__ = ["render"]

_SCOPES = {"micro": "all clicks (micro)", "macro": "all domains (macro)"}


def render(report: Report) -> str:
    """Return the page; every name is escaped, the charts consist only of checked parts."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "figure": _figure,
        "interval": _interval,
        "count": lambda value: f"{value:,}",
        "percent": lambda value: f"{100 * value:.1f}%",
        "chance": lambda p: f"{p:.4f}" if p >= 0.0001 else "<0.0001",
        "scope": lambda scope: _SCOPES.get(scope, scope),
    }
    folder = files(__package__)
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    style = Markup((folder / "page.css").read_text("utf-8"))
    return template.render(report=report, style=style, charts=_charts(report))


def _charts(report: Report) -> dict[str, Markup]:
    """Return the charts with figures; ElementTree escaped every name in them."""
    drawn = {}
    if report.epochs:
        drawn["losses"] = losses_chart(report.epochs)
    if any(epoch.micro is not None for epoch in report.epochs):
        drawn["validation"] = validation_chart(
            report.epochs, metric=report.validation_metric, best=report.best_epoch
        )
    if report.health:
        drawn["health"] = health_chart(report.health)
    if report.quality:
        drawn["bars"] = bars_chart(report.quality.scorers, metric=report.quality.metric)
    if report.transfer:
        drawn["transfer"] = heat_map(report.transfer.matrix, metric=report.transfer.metric)
    return {name: Markup(chart) for name, chart in drawn.items()}


def _interval(one: Estimate | Comparison, signed: bool = False) -> str:
    if one.low is None or one.high is None:
        return "one user"
    sign = "+" if signed else "-"
    return f"{one.low:{sign}.4f} to {one.high:{sign}.4f}"


def _figure(value: float | None) -> str:
    """Format a count as an integer and any other figure with four digits."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
