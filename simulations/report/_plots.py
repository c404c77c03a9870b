"""The report's plots as inline SVG: each drawn twice, wide for a desktop and narrow for a phone.

Nothing here knows of run folders: plain numbers in, a string of SVG out, the same bytes each time.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, SOFT, GRID = "#1d2430", "#667085", "#e4e7ec"
COLOURS = {
    "federated_dp": "#c2410c",
    "federated": "#2456c9",
    "centralised": "#0f766e",
    "unpersonalised": "#7c6bb0",
    "local_only": "#9a7b1c",
    "personalised": "#7a4fb5",
    "oracle": "#98a2b3",
}
"""Of the trained rows; every baseline is grey."""

SIZES = {"wide": (9.6, 11.0), "narrow": (3.9, 10.0)}
"""Width in inches and font size in points of the two drawings."""

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's own font
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def colour(row: str) -> str:
    """Where a row is drawn, this is its colour, in every plot."""
    return COLOURS.get(row, "#98a2b3")


def style(font_size: float, *, salt: str = "") -> Any:
    """The look of every plot as matplotlib settings."""
    return {**_STYLE, "font.size": font_size, "svg.hashsalt": salt}


def drawn(name: str, draw: Callable[[Axes, bool], None], *, height: float) -> str:
    """`draw` on a wide and on a narrow figure, `height` inches each; the page's style shows one of them."""
    figures = []
    for size, (width, font) in SIZES.items():
        with matplotlib.rc_context(style(font, salt=f"{name}-{size}")):
            figure = Figure(figsize=(width, height), layout="constrained")
            draw(figure.subplots(), size == "narrow")
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        figures.append(f'<div class="{size}">{_inline(buffer.getvalue())}</div>')
    return f'<div class="plot" role="img" aria-label="{name}">{"".join(figures)}</div>'


def learning_curve(curves: Mapping[str, Sequence[tuple[int, float]]], levels: Mapping[str, float]) -> str:
    """curves: (round, validation nDCG@10) by row; levels: rows that do not train in rounds, drawn as lines across."""

    def draw(axes: Axes, narrow: bool) -> None:
        for row, value in levels.items():
            axes.axhline(value, color=colour(row), linewidth=1.3, linestyle=(0, (4, 3)), label=row)
        for row, points in curves.items():
            rounds, values = zip(*points, strict=True)
            axes.plot(rounds, values, color=colour(row), linewidth=2.2, marker="o", markersize=4, label=row)
        axes.set_xlabel("round")
        axes.set_ylabel("nDCG@10 on validation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2 if narrow else 4, fontsize="small")

    return drawn("Learning curve", draw, height=3.3)


def epsilon_curve(rounds: Sequence[int], largest: Sequence[float], median: Sequence[float], budget: float) -> str:
    """What the clients' ledgers stand at after each round, and where they refuse."""

    def draw(axes: Axes, narrow: bool) -> None:
        axes.plot(rounds, largest, color=COLOURS["federated_dp"], linewidth=2.2, label="largest of any client")
        axes.plot(rounds, median, color=SOFT, linewidth=1.5, linestyle=(0, (4, 3)), label="median client")
        if budget < float("inf"):
            axes.axhline(budget, color=INK, linewidth=1.0, label=f"budget {budget:g}")
        axes.set_xlabel("round")
        axes.set_ylabel("epsilon so far")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=1 if narrow else 3, fontsize="small")

    return drawn("Epsilon by round", draw, height=3.0)


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One line of a dot plot: what it is called, the row that gives its colour, mean and interval."""

    name: str
    row: str
    mean: float
    low: float
    high: float


def dots(rows: Sequence[Dot], *, label: str, name: str = "Rows with intervals") -> str:
    """One line for each of `rows`, the best on top; one far off to the right is an arrow, so that the others show."""
    rows = sorted(rows, key=lambda dot: dot.mean)
    near = _near(rows)

    def draw(axes: Axes, narrow: bool) -> None:
        low, high = min(dot.low for dot in near), max(dot.high for dot in near)
        margin = 0.24 if narrow else 0.12  # room for the figure that stands right of the interval
        edge = high + margin * (high - low) + 1e-9
        for place, dot in enumerate(rows):
            ink = colour(dot.row)
            if dot not in near:
                axes.annotate(f"{dot.mean:.3f} →", (edge, place), ha="right", va="center", color=SOFT)
                continue
            axes.plot([dot.low, dot.high], [place, place], color=ink, linewidth=2.6, solid_capstyle="round")
            axes.plot(dot.mean, place, "o", color=ink, markersize=7, markeredgecolor="white")
            axes.annotate(
                f"{dot.mean:.3f}", (dot.high, place), (7, 0), textcoords="offset points", va="center", color=SOFT
            )
        axes.set_yticks(range(len(rows)), [dot.name for dot in rows])
        axes.tick_params(axis="y", colors=INK, length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlim(low - 0.04 * (high - low), edge)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.set_xlabel(label)

    return drawn(name, draw, height=0.9 + 0.31 * len(rows))


def _near(rows: Sequence[Dot]) -> list[Dot]:
    """Without the best one where it stands further off than all others are apart."""
    *others, best = rows
    if len(others) < 3:
        return list(rows)
    reach = max(dot.high for dot in others) - min(dot.low for dot in others)
    return others if best.low - max(dot.high for dot in others) > reach else list(rows)


def histogram(row: str, values: Sequence[float], *, label: str) -> str:
    """How `values`, one a client, are spread around 0."""

    def draw(axes: Axes, narrow: bool) -> None:
        reach = max((abs(value) for value in values), default=0.0) or 1.0
        edges = [reach * (2 * step / 24 - 1) for step in range(25)]
        worse, better = [value for value in values if value < 0], [value for value in values if value >= 0]
        for side, ink in ((worse, "#98a2b3"), (better, colour(row))):
            axes.hist(side, bins=edges, color=ink, edgecolor="white", linewidth=0.6)
        axes.axvline(0.0, color=INK, linewidth=1.0)
        axes.set_xlabel(label)
        axes.set_ylabel("clients")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    return drawn("Distribution over clients", draw, height=2.8)


def counts_plot(values: Sequence[float], *, label: str, of: str) -> str:
    """How positive `values` are spread, on a logarithmic axis where the largest is far from the least."""

    def draw(axes: Axes, narrow: bool) -> None:
        low, high = float(min(values)), float(max(values))
        wide = high > 50 * low
        steps = [step / 30 for step in range(31)]
        edges = (
            [low * (high / low) ** step for step in steps] if wide else [low + (high - low) * step for step in steps]
        )
        axes.hist(values, bins=edges if high > low else 1, color=COLOURS["federated"], edgecolor="white", linewidth=0.6)
        if wide:
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel(label)
        axes.set_ylabel(of)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))

    return drawn(f"Distribution: {label}", draw, height=2.4)


def shares_plot(names: Sequence[str], parts: Mapping[str, Sequence[float]], *, label: str) -> str:
    """A bar for each of `names`, cut into `parts`: how much of each it has."""

    def draw(axes: Axes, narrow: bool) -> None:
        left = [0.0] * len(names)
        inks = [*COLOURS.values(), "#5b8def", "#d9a441", GRID]
        for (part, values), ink in zip(parts.items(), inks, strict=False):
            axes.barh(range(len(names)), values, left=left, color=ink, label=part, edgecolor="white", linewidth=0.4)
            left = [start + value for start, value in zip(left, values, strict=True)]
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.set_xlabel(label)
        axes.legend(ncols=2 if narrow else 4, loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize="small")

    return drawn(f"By client: {label}", draw, height=1.4 + 0.22 * len(names))


def _inline(svg: str) -> str:
    """The <svg> element alone, scaled to its column, its width and height left to the view box."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)width="([\d.]+)pt"', r'<svg \1style="max-width:\2pt;width:100%"', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    return re.sub(r'\s(?:xmlns:xlink|xmlns)="[^"]*"', "", svg).replace("xlink:href", "href").strip()
