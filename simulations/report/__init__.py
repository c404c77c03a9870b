"""report.html: what a run learned and what privacy it cost, in one file that needs nothing else.

It is made from the run's folder alone, so it can be made again at any time. What a simulation alone may know is
marked as such. Clients' queries and histories are shown for synthetic data only; for data of real people
they go to debug/report-debug.html.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import yaml

from mmrank.errors import ConfigError
from simulations._folder import RunFolder, read_table, write_text
from simulations.report import _page
from simulations.report._pictures import examples_html, thumbnail
from simulations.report._sections import (
    clients_section,
    curve_section,
    epsilon_section,
    headline,
    left_out_section,
    off_policy_section,
    rows_section,
    splits_section,
    timing_section,
)
from simulations.report.compare import compare

__all__ = ["compare", "read_result", "thumbnail", "write_report"]

BANNER = (
    "A simulation sees everything. The exact metrics, curves and counts on this page could not be had from a real "
    "federation, where only privatised updates, protocol codes and each ledger's public total leave a client."
)
PEOPLE = "This page shows queries and histories of real people. Keep it with the data it came from."


def read_result(run: Path) -> dict[str, Any]:
    """result.json of a run's folder. Raises ConfigError where the run has not finished or is no run."""
    path = RunFolder(run).result
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{run} holds no finished run (no result.json); finish it with mmrank simulate ... --out {run} --resume."
        ) from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is damaged ({error}); remove it and run again with --resume.") from error


def write_report(run: Path) -> Path:
    """Make report.html, and debug/report-debug.html for real people's data; the first one's path."""
    folder = RunFolder(run)
    result = read_result(run)
    examples = json.loads(folder.examples.read_text("utf-8"))["examples"] if folder.examples.exists() else []
    shown = result["dataset"]["synthetic"]
    if examples and not shown:
        people = [f'<p class="banner"><strong>{escape(PEOPLE)}</strong></p>', _examples_section(examples)]
        title = f"{result['run']}: queries and histories (simulation only)"
        write_text(folder.debug / "report-debug.html", _page.page(title, [f"<h1>{escape(title)}</h1>", *people]))
    body = _sections(folder, result, _examples_section(examples) if shown else "")
    write_text(folder.report, _page.page(f"mmrank: {result['run']}", body))
    return folder.report


def _sections(folder: RunFolder, result: Mapping[str, Any], queries: str) -> list[str]:
    clients = json.loads(folder.clients.read_text("utf-8")) if folder.clients.exists() else {}
    config = yaml.safe_dump(folder.settings().to_dict(), sort_keys=False, allow_unicode=True)
    settings = f"<details><summary>Every setting</summary><pre>{escape(config)}</pre></details>"
    return [
        headline(result),
        f'<p class="banner"><strong>Simulation only.</strong> {escape(BANNER)}</p>',
        rows_section(result),
        curve_section(read_table(folder.curves), result),
        epsilon_section(read_table(folder.rounds), result),
        queries,
        clients_section(clients, result),
        splits_section(result),
        off_policy_section(result),
        left_out_section(result),
        timing_section(result),
        _page.section("Configuration", settings),
    ]


def _examples_section(examples: list[dict[str, Any]]) -> str:
    if not examples:
        return ""
    return _page.section(
        "The same question, asked by a stranger and by one person",
        _page.paragraph(
            "Both lists are the reported model's, for slates of the test part; the first has the person's history "
            "emptied. Green frames mark what the person clicked or bought. The queries were drawn at random among "
            "those whose person has a history, not picked for their looks.",
            kind="soft",
        ),
        examples_html(examples),
    )
