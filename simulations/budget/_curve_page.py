"""curve.html: the curve, its table and its recommended point in one file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

from simulations.report import _page, _plots
from simulations.report._sections import count, number


def page(found: Mapping[str, Any], draw: Callable[[Any, bool], None]) -> str:
    """HTML from curve.json's content and a function that draws it."""
    return _page.page(
        f"mmrank: what epsilon is worth, {found['name']}",
        [
            _headline(found),
            '<p class="banner"><strong>Simulation only.</strong> Every figure here is exact and was not paid for. A '
            "real federation has no such curve; to choose epsilon by one on real people's data is a release.</p>",
            _page.section(
                "Ranking quality against epsilon",
                _page.paragraph(found["promise"], kind="soft"),
                _plots.drawn("Quality against epsilon", draw, height=4.4),
            ),
            _page.section(
                "Every point", _table(found), *(_page.paragraph(note, kind="soft") for note in found["notes"])
            ),
            _page.section("How the point was chosen", _page.paragraph(found["recommended"]["rule"])),
        ],
    )


def _headline(found: Mapping[str, Any]) -> str:
    recommended = found["recommended"]["epsilon"]
    free = next((point for point in found["points"] if not math.isfinite(float(point["epsilon"]))), None)
    boxes = [("–" if recommended is None else f"ε = {recommended:g}", "recommended, by the rule below")]
    chosen = next((point for point in found["points"] if point["epsilon"] == recommended), None)
    if chosen is not None:
        boxes.append((f"{chosen['ndcg@10']['mean']:.3f}", "nDCG@10 there"))
        share = chosen["share_of_non_private"]
        if share is not None:
            low, high = share["ci95"]
            boxes.append((f"{share['mean']:.0%}", f"of the non-private gain [{low:.0%}, {high:.0%}]"))
    if free is not None:
        boxes.append((f"{free['ndcg@10']['mean']:.3f}", "nDCG@10 without noise"))
    boxes.append((str(found["seeds"]), "seeds a point"))
    data = found["dataset"]
    lead = (
        f"The same federation on {data['name']}, {count(data['clients'], 'client')}, at "
        f"{count(sum(math.isfinite(float(p['epsilon'])) for p in found['points']), 'promise')} and without any."
    )
    return (
        f"<h1>What ε is worth: {escape(found['name'])}</h1>"
        + _page.paragraph(lead, kind="lead")
        + _page.cards(boxes)
        + _page.paragraph(found["recommended"]["why"])
    )


def _table(found: Mapping[str, Any]) -> str:
    header = ("ε", "nDCG@10", "gain ratio", "of the non-private", "over unpersonalised", "σ", "ε spent")
    return _page.table(header, [_line(point) for point in found["points"]])


def _line(point: Mapping[str, Any]) -> list[str]:
    return [
        number(point["epsilon"]),
        _interval(point["ndcg@10"], 4),
        *(_interval(point[name], 2) for name in ("gain_ratio", "share_of_non_private", "retained_over_unpersonalised")),
        f"{point['noise_multiplier']:.3g}",
        number(point["epsilon_spent"]),
    ]


def _interval(measure: Mapping[str, Any] | None, digits: int) -> str:
    if measure is None:
        return "–"
    low, high = measure["ci95"]
    return f"{measure['mean']:.{digits}f}<small class='soft'>{low:.{digits}f} – {high:.{digits}f}</small>"
