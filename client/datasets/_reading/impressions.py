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
from client.datasets._reading.behaviour import TOO_MUCH, Parts, Rows, Vocabulary, tell_unit
from client.datasets._reading.blocks import Block, Layout, Progress, blocks
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import Items
from client.datasets._reading.values import Names
from client.datasets._source import Lists, lists_of, nothing_listed
from mmrank.errors import DatasetError
from mmrank.slates import LARGEST

_BETWEEN = re.compile(r"[\s,;|]+")
_SEVERAL = r"[\s,;|\[]"
_OPEN = "[]() \"'"
_YES, _NO = ("true", "yes", "t", "y"), ("false", "no", "f", "n", "")
_FLAGS = frozenset((*_YES, *_NO, "0", "1", "2", "0.0", "1.0", "2.0"))
"""What stands beside each item of a list, where the clicked ids do not."""


@dataclass(frozen=True, kw_only=True)
class ImpressionColumns:
    """Where a table of impressions has what.

    items: one item a row, or the whole list in its order (a list column, JSON, or ids with spaces or commas between).
    clicked: 0, 1 (2 a purchase), or true and false, beside each item; of a list also the ids that were clicked.
    id: names the impression, and joins its rows (of one person: two may count theirs alike); rows of one person, time
    and query belong together where None.
    position: 0 or 1 the top, as each list begins. propensity: the chance that the item was looked at. score: of the
    shop's own ranker.
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
    an id, or with a time that is none, is left out, and said. Raises DatasetError as `blocks`, and for a table that
    holds lists here and single items there.
    """
    reader = Rows(items, findings, time_unit=columns.time_unit, now_days=now_days)
    tell_unit("impressions", columns.time, columns.time_unit, findings)
    ids = Names()
    parts = Parts(names, own=ids)
    lists_seen = 0
    in_lists: bool | None = None
    for block in blocks(
        root, columns.file, columns.columns(), layout=columns.layout, findings=findings, progress=progress
    ):
        flat, whole = _flat(block, columns, items, findings, in_lists=bool(in_lists))
        if whole is not None and in_lists is False:
            raise DatasetError(
                f"{block.file}, line {block.rows[0]}: lists from here on, where the rows before have one item each; "
                "write all of them alike."
            )
        in_lists = whole is not None
        findings.rows[block.file] += len(flat) - len(block)
        kept = np.ones(len(flat), bool)
        found: dict[str, Any] = {
            "item": reader.items(flat, columns.items, kept),
            "user": reader.people(flat, columns.user, kept),
            "time": reader.times(flat, columns.time, kept),
            "relevance": _clicked(reader, flat, columns, kept),
            "query": reader.named(flat, columns.query),
            "group": reader.named(flat, columns.group),
            "position": _positions(reader, flat, columns.position, kept),
            "propensity": _propensity(reader, flat, columns.propensity, kept),
            "score": reader.numbers(flat, columns.score, kept),
        }
        if columns.id is not None:
            found["own"] = values.encoded(flat[columns.id])
            blank = pc.equal(values.text(flat[columns.id]), "").to_numpy(zero_copy_only=False)
            reader.leave(flat, "impression", f"column {columns.id}: no id; the row is left out", blank, kept)
        elif whole is not None:
            found["own"] = lists_seen + whole
            lists_seen += len(block)
        if whole is not None:
            found["position"] = _places(whole)
        parts.add(kept, **found)
    if not parts:
        findings.add("warning", "empty", columns.file, "no row after the header")
        return nothing_listed(judged=False)
    return _lists(parts.joined(columns.file), ids.names())


def _lists(rows: dict[str, np.ndarray], ids: Sequence[str]) -> Lists:
    """Rows of one impression, and of one person, together, by position where there is one."""
    if "own" not in rows:
        key = np.stack([rows["user"].astype(np.float64), np.nan_to_num(rows["time"]), rows["query"].astype(np.float64)])
        rows["own"] = np.unique(key, axis=1, return_inverse=True)[1].reshape(-1)
    position = rows["position"]
    order = np.lexsort((np.arange(len(position)), np.nan_to_num(position, nan=np.inf), rows["user"], rows["own"]))
    own, user = rows["own"][order], rows["user"][order]
    another = (own[1:] != own[:-1]) | (user[1:] != user[:-1])
    begins = np.flatnonzero(np.r_[True, another]) if len(own) else np.zeros(0, np.int64)
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
        position=_from_the_top(position[order], begins),
        propensity=rows["propensity"][order].astype(np.float32),
        score=rows["score"][order].astype(np.float32),
    )


def _from_the_top(position: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """int32, 0 the top: positions that begin with 1 are counted from 0; -1 where there is none.

    Each list says it for itself, or one person's row would move everybody's.
    """
    known = np.isfinite(position)
    if known.any():
        lowest = np.minimum.reduceat(np.where(known, position, np.inf), begins)
        position = position - np.repeat(lowest >= 1, np.diff(np.r_[begins, len(position)]))
    return np.where(known, np.nan_to_num(position), -1).astype(np.int32)


def _flat(
    block: Block, columns: ImpressionColumns, known: Items, findings: Findings, *, in_lists: bool
) -> tuple[Block, np.ndarray | None]:
    """The block with a row for each item, and the row of the block that each was in; None where it was so already.

    in_lists: whether the rows before held lists, so that one item is a list of one.
    """
    lists = _as_lists(block[columns.items], always=in_lists)
    if lists is None or (not in_lists and _are_ids(block[columns.items], known)):
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
    unlike = []  # what is blank is unknown, and no fault
    for row, (here, there) in enumerate(zip(shown, given, strict=True)):
        alike = lengths[row] == others[row]
        if alike and not (ids and any(value in here for value in there) and not _are_flags(there)):
            found += there
        elif ids:
            clicked = set(there)
            found += ["1" if item in clicked else "0" for item in here]
        else:
            unlike += [row] if there else []
            found += [None] * len(here)
    if unlike:
        text = f"column {name}: not as many values as items; they are left out"
        findings.add("warning", "lengths", block.file, text, count=len(unlike), lines=block.rows[unlike])
    return pa.array(found, pa.string())


def _are_ids(array: pa.Array, known: Items) -> bool:
    """Whether most texts that look like lists are items as they stand, whose ids have spaces or commas in them."""
    if pa.types.is_nested(array.type):
        return False
    written = values.text(array)
    several = written.filter(pc.match_substring_regex(written, _SEVERAL))
    return bool(len(several)) and float((known.codes(several) >= 0).mean()) > 0.5


def _are_flags(given: list[str | None]) -> bool:
    return all((value or "").lower() in _FLAGS for value in given)


def _as_lists(array: pa.Array, *, always: bool = False) -> pa.ListArray | None:
    """Lists of text, of a list column or of text that holds several ids; None where each row is one id."""
    if pa.types.is_fixed_size_list(array.type):
        array = pc.cast(array, pa.list_(array.type.value_type))
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        inner = values.text(pc.list_flatten(array))
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(lengths)], pa.int32()), inner)
    written = values.text(array)
    if not always and not pc.any(pc.match_substring_regex(written, _SEVERAL)).as_py():
        return None
    made = [[part.strip(_OPEN) for part in _BETWEEN.split(row.strip(_OPEN)) if part] for row in written.to_pylist()]
    return pa.array(made, pa.list_(pa.string()))


def _clicked(reader: Rows, block: Block, columns: ImpressionColumns, kept: np.ndarray) -> np.ndarray:
    array = block[columns.clicked]
    if not (pa.types.is_boolean(array.type) or pa.types.is_integer(array.type) or pa.types.is_floating(array.type)):
        lower = pc.utf8_lower(values.text(array))
        yes, no = pc.is_in(lower, pa.array(_YES)), pc.is_in(lower, pa.array(_NO))
        array = pc.if_else(yes, "1", pc.if_else(no, "0", lower))
    flat = Block(file=block.file, columns={columns.clicked: array}, rows=block.rows)
    found = np.nan_to_num(np.maximum(reader.numbers(flat, columns.clicked, kept), 0.0))
    reader.leave(block, "grade", f"column {columns.clicked}: {TOO_MUCH}", found > LARGEST, kept)
    return found


def _positions(reader: Rows, block: Block, column: str | None, kept: np.ndarray) -> np.ndarray:
    found = reader.numbers(block, column, kept)
    if column is not None:
        text = f"column {column}: no position from 0 to {LARGEST:,.0f}; the row is left out"
        reader.leave(block, "position", text, (found < 0) | (found > LARGEST), kept)
    return found


def _propensity(reader: Rows, block: Block, column: str | None, kept: np.ndarray) -> np.ndarray:
    found = reader.numbers(block, column, kept)
    if column is not None:
        text = f"column {column}: a propensity that is not in (0, 1]; the row is left out"
        reader.leave(block, "propensity", text, (found < np.finfo(np.float32).tiny) | (found > 1), kept)
    return found


def _places(parent: np.ndarray) -> np.ndarray:
    """float64 [n]: the place of each within its run of equal numbers, which rise."""
    if not len(parent):
        return np.zeros(0)
    begins = np.flatnonzero(np.r_[True, parent[1:] != parent[:-1]])
    return (np.arange(len(parent)) - np.repeat(begins, np.diff(np.r_[begins, len(parent)]))).astype(np.float64)
