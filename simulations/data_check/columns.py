"""Columns that look personal: what training does not need should not lie in the folder at all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from client.datasets._reading import values
from client.datasets._reading.blocks import Layout, blocks, names_of
from client.datasets._reading.findings import Findings
from client.datasets._source import Source
from client.datasets.tables import columns_of
from mmrank.errors import DatasetError

TABLES = ("items", "events", "judgments", "impressions")
NAMES = re.compile(
    r"e[-_ ]?mail|phone|mobile|(^|_)tel(_|$)|address|street|zip_?code|post_?code|(^|_)ip(_|$|_?addr)|birth"
    r"|(^|_)dob(_|$)|passport|(^|_)ssn(_|$)|first_?name|last_?name|full_?name|surname|邮箱|邮件|手机|电话|地址|身份证|姓名|生日",
    re.IGNORECASE,
)
WRITTEN = {
    "e-mail addresses": r"^[^@\s]+@[^@\s]+\.[A-Za-z]{2,}$",
    "telephone numbers": r"^(\+\d{1,3}[- ]?)?(\(\d{2,4}\)[- ]?)?\d{3,4}[- ]\d{3,4}[- ]?\d{0,4}$|^\+\d{9,14}$"
    r"|^1[3-9]\d{9}$",
    "IP addresses": r"^\d{1,3}(\.\d{1,3}){3}$",
}
"""What values of a column look like."""
LOOKED_AT = 2000
SHARE = 0.2
"""Of the values of a column, how many must look so."""


def check_columns(source: Source, root: Path, dataset: Mapping[str, Any], findings: Findings) -> None:
    """Warn of columns that look personal: those that nothing reads, and ids that are somebody's address."""
    if source.name != "tables":
        return  # a format's own columns are known
    columns = columns_of(**{name: dataset[name] for name in TABLES if dataset.get(name) is not None})
    for name in TABLES:
        table = getattr(columns, name)
        if table is None:
            continue
        needed = set(table.columns())
        for column, reason in _personal(root, table.file, table.layout):
            if column not in needed:
                findings.add(
                    "warning",
                    f"personal_{column}",
                    table.file,
                    f"column {column} looks personal ({reason}) and nothing reads it; leave it out of the folder",
                )
            elif name != "items":
                findings.add(
                    "warning",
                    f"personal_{column}",
                    table.file,
                    f"column {column} looks personal ({reason}); put a random number for each person in its place",
                )


def _personal(root: Path, file: str, layout: Layout) -> Iterator[tuple[str, str]]:
    """(column, why) of a table's first rows."""
    quiet = Findings()
    names = names_of(root, file, layout=layout, findings=quiet)
    try:
        first = next(blocks(root, file, names, layout=layout, findings=quiet), None)
    except DatasetError:
        return  # two columns of one name, say, of which none is read
    for name in names:
        if NAMES.search(name):
            yield name, "by its name"
        elif first is not None:
            reason = _looks(first[name])
            if reason is not None:
                yield name, f"it holds {reason}"


def _looks(array: pa.Array) -> str | None:
    if pa.types.is_nested(array.type) or pa.types.is_floating(array.type) or pa.types.is_temporal(array.type):
        return None
    written = values.text(array.slice(0, LOOKED_AT))
    written = written.filter(pc.not_equal(written, ""))
    for reason, pattern in WRITTEN.items():
        if len(written) and pc.mean(pc.match_substring_regex(written, pattern)).as_py() >= SHARE:
            return reason
    return None
