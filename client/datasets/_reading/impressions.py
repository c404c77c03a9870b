"""A table of impressions: what was shown to whom, and what was clicked; a list a row, or an item a row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from client.datasets._reading import values
from client.datasets._reading.behaviour import Parts, Rows, Vocabulary
from client.datasets._reading.blocks import Block, Layout, Progress, blocks
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import Items
from client.datasets._reading.values import Names
from client.datasets._source import Lists, lists_of
from mmrank.errors import DatasetError

_BETWEEN = re.compile(r"[\s,;|]+")
_OPEN = "[]() \"'"


@dataclass(frozen=True, kw_only=True)
class ImpressionColumns:
    """Where a table of impressions has what.

    items: one item a row, or the whole list in its order (a list column, JSON, or ids with spaces or commas between).
    clicked: 0, 1 (2 a purchase), or true and false, beside each item; of a list also the ids that were clicked.
    id: names the impression, and joins the rows of one; rows of one person, time and query belong together where None.
    position: 0 or 1 the top. propensity: the chance that the item was looked at. score: of the shop's own ranker.
    """

    file: str
    items: str
    clicked: str
    user: str | None = None
    time: str | None = None
    query: str | None = None
    id: str | None = None
    position: str | None = None
    propensity: str | None = None
    score: str | None = None
    group: str | None = None
    time_unit: str = "auto"
    layout: Layout = field(default_factory=Layout)

    def columns(self) -> tuple[str, ...]:
        """Every column of the file that is read."""
        named = (self.items, self.clicked, self.user, self.time, self.query, self.id, self.position, self.propensity)
        return tuple(dict.fromkeys(name for name in (*named, self.score, self.group) if name))


def read_impressions(
    root: Path,
    columns: ImpressionColumns,
    items: Items,
    names: Vocabulary,
    *,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Lists:
    """The impressions of a table. An item that the catalogue lacks is left out of its list; a row without a person or
    with a time that is none is left out, and said.
    """
    reader = Rows(items, findings, time_unit=columns.time_unit, now_days=now_days)
    ids = Names()
    parts = Parts(names, own=ids)
    lists_seen = 0
    for block in blocks(
        root, columns.file, columns.columns(), layout=columns.layout, findings=findings, progress=progress
    ):
        flat, whole = _flat(block, columns, findings)
        kept = np.ones(len(flat), bool)
        found: dict[str, Any] = {
            "item": reader.items(flat, columns.items, kept),
            "user": reader.people(flat, columns.user, kept),
            "time": reader.times(flat, columns.time, kept),
            "relevance": _clicked(reader, flat, columns, kept),
            "query": reader.named(flat, columns.query),
            "group": reader.named(flat, columns.group),
            "position": reader.numbers(flat, columns.position, kept),
            "propensity": _propensity(reader, flat, columns.propensity, kept),
            "score": reader.numbers(flat, columns.score, kept),
        }
        if columns.id is not None:
            found["own"] = values.encoded(flat[columns.id])
        elif whole is not None:
            found["own"] = lists_seen + whole
            found["position"] = _places(whole)
            lists_seen += len(block)
        parts.add(kept, **found)
    return _lists(parts.joined(columns.file), ids.names())


def _lists(rows: dict[str, np.ndarray], ids: Sequence[str]) -> Lists:
    """Rows of one impression together, by position where there is one."""
    if "own" not in rows:
        key = np.stack([rows["user"].astype(np.float64), np.nan_to_num(rows["time"]), rows["query"].astype(np.float64)])
        rows["own"] = np.unique(key, axis=1, return_inverse=True)[1].reshape(-1)
    position = rows["position"]
    order = np.lexsort((np.arange(len(position)), np.nan_to_num(position, nan=np.inf), rows["own"]))
    own = rows["own"][order]
    begins = np.flatnonzero(np.r_[True, own[1:] != own[:-1]]) if len(own) else np.zeros(0, np.int64)
    first = order[begins]
    return lists_of(
        judged=False,
        query_id=tuple(ids[index] for index in own[begins].tolist()) if ids else (),
        start=np.r_[begins, len(own)].astype(np.int64),
        user=rows["user"][first].astype(np.int32),
        query=rows["query"][first].astype(np.int32),
        group=rows["group"][first].astype(np.int32),
        time=rows["time"][first],
        item=rows["item"][order].astype(np.int32),
        relevance=rows["relevance"][order].astype(np.float32),
        position=_from_the_top(position[order]),
        propensity=rows["propensity"][order].astype(np.float32),
        score=rows["score"][order].astype(np.float32),
    )


def _from_the_top(position: np.ndarray) -> np.ndarray:
    """int32, 0 the top: positions that begin with 1 are counted from 0; -1 where there is none."""
    known = np.isfinite(position)
    if known.any() and position[known].min() >= 1:
        position = position - 1
    return np.where(known, np.nan_to_num(position), -1).astype(np.int32)


def _flat(block: Block, columns: ImpressionColumns, findings: Findings) -> tuple[Block, np.ndarray | None]:
    """The block with a row for each item, and the row of the block that each was in; None where it was so already."""
    lists = _as_lists(block[columns.items])
    if lists is None:
        return block, None
    items = pc.list_flatten(lists)
    parent = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    made = {name: array.take(pa.array(parent)) for name, array in block.columns.items() if name != columns.items}
    made[columns.items] = items
    for name in (columns.clicked, columns.propensity, columns.score):
        if name is not None:
            made[name] = _beside(block, name, lists, parent, items, findings, ids=name == columns.clicked)
    return Block(file=block.file, columns=made, rows=block.rows[parent]), parent


def _beside(
    block: Block, name: str, lists: pa.ListArray, parent: np.ndarray, items: pa.Array, findings: Findings, *, ids: bool
) -> pa.Array:
    """The values of a column of lists for each item: as many as items or, where `ids`, the items that were clicked."""
    column = _as_lists(block[name], always=True)
    if column is None:
        raise DatasetError(f"{block.file}: column {name} holds no lists.")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    others = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    shown = [row or [] for row in lists.to_pylist()]
    given = [row or [] for row in column.to_pylist()]
    found: list[str | None] = []
    unlike = []
    for row, (here, there) in enumerate(zip(shown, given, strict=True)):
        flags = lengths[row] == others[row] and not (ids and any(value in here for value in there))
        if flags:
            found += there
        elif ids:
            clicked = set(there)
            found += ["1" if item in clicked else "0" for item in here]
        else:
            unlike.append(row)
            found += [None] * len(here)
    if unlike:
        text = f"column {name}: not as many values as items; they are left out"
        findings.add("warning", "lengths", block.file, text, count=len(unlike), lines=block.rows[unlike])
    return pa.array(found, pa.string())


def _as_lists(array: pa.Array, *, always: bool = False) -> pa.ListArray | None:
    """Lists of text, of a list column or of text that holds several ids; None where each row is one id."""
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        return pc.cast(array, pa.list_(pa.string()))
    written = values.text(array)
    if not always and not pc.any(pc.match_substring_regex(written, r"[\s,;|\[]")).as_py():
        return None
    made = [[part.strip(_OPEN) for part in _BETWEEN.split(row.strip(_OPEN)) if part] for row in written.to_pylist()]
    return pa.array(made, pa.list_(pa.string()))


def _clicked(reader: Rows, block: Block, columns: ImpressionColumns, kept: np.ndarray) -> np.ndarray:
    array = block[columns.clicked]
    if pa.types.is_string(array.type):
        lower = pc.utf8_lower(values.text(array))
        yes = pc.is_in(lower, pa.array(["true", "yes", "t", "y"]))
        no = pc.is_in(lower, pa.array(["false", "no", "f", "n", ""]))
        array = pc.if_else(yes, "1", pc.if_else(no, "0", lower))
    flat = Block(file=block.file, columns={columns.clicked: array}, rows=block.rows)
    return np.nan_to_num(np.maximum(reader.numbers(flat, columns.clicked, kept), 0.0))


def _propensity(reader: Rows, block: Block, column: str | None, kept: np.ndarray) -> np.ndarray:
    found = reader.numbers(block, column, kept)
    if column is not None:
        text = f"column {column}: a propensity that is not in (0, 1]; the row is left out"
        reader.leave(block, "propensity", text, (found <= 0) | (found > 1), kept)
    return found


def _places(parent: np.ndarray) -> np.ndarray:
    """float64 [n]: the place of each within its run of equal numbers, which rise."""
    if not len(parent):
        return np.zeros(0)
    begins = np.flatnonzero(np.r_[True, parent[1:] != parent[:-1]])
    return (np.arange(len(parent)) - np.repeat(begins, np.diff(np.r_[begins, len(parent)]))).astype(np.float64)
