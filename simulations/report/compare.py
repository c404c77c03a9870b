"""Several runs in one table and one plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from simulations.report import _page, _plots
from simulations.report._sections import number

SHOWN = ("content", "federated", "federated_dp", "centralised")
"""Rows that a comparison plots of each run; the table has the reported one."""


def lines(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """One line a run, plain text, in the order given: what a terminal prints."""
    table = []
    for name, result in results.items():
        row = result["reported"]
        measure, gain = result["metrics"].get(row, {}).get("ndcg@10"), result["gain_ratio"].get(row)
        privacy = result["privacy"]
        table.append(
            {
                "run": name,
                "data": result["dataset"]["name"],
                "row": row,
                "nDCG@10": "–" if measure is None else _interval(measure, 3),
                "gain": "–" if gain is None else _interval(gain, 2),
                "ε": f"{number(privacy['epsilon_max'])} per {privacy['unit']}"
                if privacy["mechanism"] != "no_privacy"
                else "∞",
                "rounds": str(result["rounds"]),
                "seconds": f"{result['seconds']['total']:.0f}",
            }
        )
    return table


def compare(results: Mapping[str, Mapping[str, Any]]) -> str:
    """An HTML page over results by run name."""
    table = lines(results)
    dots = [
        _plots.Dot(
            name=f"{name} · {row}",
            row=row,
            mean=result["metrics"][row]["ndcg@10"]["mean"],
            low=result["metrics"][row]["ndcg@10"]["ci95"][0],
            high=result["metrics"][row]["ndcg@10"]["ci95"][1],
        )
        for name, result in results.items()
        for row in SHOWN
        if row in result["metrics"]
    ]
    versions = {(result["dataset"]["name"], result["dataset"]["version"]) for result in results.values()}
    warning = (
        '<p class="banner">These runs were measured on different data: their figures can\'t be compared.</p>'
        if len(versions) > 1
        else ""
    )
    return _page.page(
        "mmrank: runs compared",
        [
            f"<h1>{len(results)} runs compared</h1>",
            warning,
            _page.section("The reported row of each", _html(table)),
            _page.section("Rows with intervals", _plots.dots(dots, label="nDCG@10 on test", name="Runs compared"))
            if dots
            else "",
        ],
    )


def _html(table: Sequence[Mapping[str, str]]) -> str:
    return _page.table(list(table[0]), ([escape(value) for value in line.values()] for line in table)) if table else ""


def _interval(measure: Mapping[str, Any], digits: int) -> str:
    low, high = measure["ci95"]
    return f"{measure['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
