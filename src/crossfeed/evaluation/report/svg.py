"""A figure as SVG inside a page: scales with it, takes its colours, shares no id with another."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

__all__ = ["COLOURS", "GRID", "INK", "SERIES", "inline_svg", "plain"]

INK, GRID = "#010101", "#010102"
SERIES = tuple(f"#0101{number:02x}" for number in range(16, 22))
"""Placeholder colours that no chart uses; the page replaces them, also in dark mode."""

COLOURS: Mapping[str, str] = {
    INK: "var(--ink)",
    GRID: "var(--line)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES)},
}

_STYLE: dict[Any, object] = {  # Any: matplotlib types each name as a literal
    "svg.fonttype": "none",  # text stays text: screen readers, search and selection work
    "text.parse_math": False,  # $ in a name has no meaning
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": GRID,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
}

_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")
_COLOUR = re.compile(r"#[0-9a-f]{6}")
_FONT = re.compile(r"font: ([0-9.]+)px [^;]*")


def plain(text: str, *, longest: int = 24) -> str:
    """Return a name for a chart: without control characters, and shortened if long."""
    clean = _UNPRINTABLE.sub("\ufffd", text)
    return clean if len(clean) <= longest else clean[: longest - 1] + "\u2026"


def chart_style() -> matplotlib.RcParams:
    """Return matplotlib's settings for every chart of a page, for `matplotlib.rc_context`."""
    style = matplotlib.RcParams(matplotlib.rcParamsDefault)
    style.update(_STYLE)
    return style


def inline_svg(figure: Figure, *, name: str, title: str) -> str:
    """Return a figure as an `svg` element.

    Args:
        figure: drawn in the stand-in colours.
        name: prefix that makes its ids unique on the page.
        title: its description for screen readers.
    """
    drawn = io.BytesIO()
    with warnings.catch_warnings(), matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        # Widths are guessed with matplotlib's font; the browser draws the text, with any glyph.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(drawn.getvalue())
    for child in list(root):
        if child.tag.endswith("metadata"):
            root.remove(child)
    for element in root.iter():
        _adapt(element)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(element: ElementTree.Element) -> None:
    """Drop namespaces, which HTML does not use, unused ids, and colours."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    if element.tag == "g":
        attributes.pop("id", None)
    if "style" in attributes:
        attributes["style"] = _restyle(attributes["style"])
    element.attrib = attributes


def _restyle(style: str) -> str:
    coloured = _COLOUR.sub(lambda found: COLOURS.get(found[0], found[0]), style)
    return _FONT.sub(r"font-size: \1px", coloured)
