"""Scores that another ranker gave, from a TREC run file: `query Q0 item rank score tag` a line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from client.datasets._reading.files import text_lines
from client.datasets._reading.findings import Findings
from client.datasets._reading.values import LARGEST
from mmrank.catalog import Catalog
from mmrank.errors import ConfigError, DatasetError


def brought(
    root: Path, rows: Mapping[str, str], catalog: Catalog, findings: Findings
) -> dict[str, dict[str, dict[int, float]]]:
    """By row and query id, the score of each item. Items that the catalogue lacks are left out.

    Raises DatasetError for a line that is none, with its file and number; ConfigError for a row's name.
    """
    found: dict[str, dict[str, dict[int, float]]] = {}
    for name, pattern in rows.items():
        if not name.isidentifier():
            raise ConfigError(f"Expected dataset.rows: {name!r} to be a plain name, such as mybaseline.")
        found[name] = {}
        _read(root, pattern, catalog, findings, found[name])
    return found


def _read(root: Path, pattern: str, catalog: Catalog, findings: Findings, into: dict[str, dict[int, float]]) -> None:
    for line in text_lines(root, pattern, findings=findings):
        try:
            query, _, item, _, score = line.text.split()[:5]
            value = float(score)
            if not abs(value) <= LARGEST:
                raise ValueError("no finite number of 32 bits")
        except ValueError:
            raise DatasetError(
                f"{line.file}, line {line.number}: {line.text[:80]!r} is no line of a TREC run; "
                "expected: query Q0 item rank score tag."
            ) from None
        index = catalog.index_of.get(item)
        if index is None:
            text = "an item that the catalogue lacks, left out"
            findings.add("warning", "run", line.file, text, lines=(line.number,), by_row=False)
        else:
            into.setdefault(query, {})[index] = value
