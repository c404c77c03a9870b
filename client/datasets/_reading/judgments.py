"""A table of graded judgments, one (query, item) a row, as one list a query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from client.datasets._reading import values
from client.datasets._reading.behaviour import Parts, Rows, Vocabulary
from client.datasets._reading.blocks import Block, Layout, Progress, blocks
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import Items
from client.datasets._reading.values import Names
from client.datasets._source import NONE, Lists, lists_of, nothing_listed
from mmrank.errors import ConfigError
from mmrank.slates import LARGEST

PARTS: Mapping[str, int] = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("validation", "valid", "val", "dev", "vali"), 1),
    **dict.fromkeys(("test", "eval", "evaluation"), 2),
}
"""What the values of a column of parts mean."""


@dataclass(frozen=True, kw_only=True)
class JudgmentColumns:
    """Where a table of judgments has what. query: the words, or the id of `texts`, a table of (file, id, text).

    grade: a number, or a word that `gains` give a number for. query_id: names queries in TREC files; the words where
    None. split: a column of parts. group: one that clients are made by.
    """

    file: str
    query: str
    item: str
    grade: str
    gains: Mapping[str, float] = field(default_factory=dict)
    query_id: str | None = None
    split: str | None = None
    group: str | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    layout: Layout = field(default_factory=Layout)

    def __post_init__(self) -> None:
        if self.texts and set(self.texts) != {"file", "id", "text"}:
            raise ConfigError(
                f"Expected judgments.texts={dict(self.texts)} as {{file: queries.csv, id: query_id, text: query}}."
            )
        for word, gain in self.gains.items():
            if not 0 <= gain <= LARGEST:
                raise ConfigError(f"Expected judgments.gains: {word}={gain} to be a number in [0, {LARGEST:,.0f}].")

    def columns(self) -> tuple[str, ...]:
        """Every column of the file that is read."""
        named = (self.query, self.item, self.grade, self.query_id, self.split, self.group)
        return tuple(dict.fromkeys(name for name in named if name))


def read_judgments(
    root: Path,
    columns: JudgmentColumns,
    items: Items,
    names: Vocabulary,
    *,
    findings: Findings,
    progress: Progress | None = None,
) -> Lists:
    """A list for each query that was judged. A row whose item or query is unknown, or whose grade is none, is left out
    and said; of an item that is judged twice the better grade stands.
    """
    ids, reader = Names(), Rows(items, findings)
    texts = _texts(root, columns, findings) if columns.texts else None
    parts = Parts(names, own=ids)
    for block in blocks(
        root, columns.file, columns.columns(), layout=columns.layout, findings=findings, progress=progress
    ):
        kept = np.ones(len(block), bool)
        item = reader.items(block, columns.item, kept)
        grade, bad = _grades(block[columns.grade], columns.gains)
        text = f"column {columns.grade}: no grade from 0 to {LARGEST:,.0f}; the row is left out"
        reader.leave(block, "grade", text, bad, kept)
        own, query = values.text(block[columns.query_id or columns.query]), _words(block, columns, texts)
        blank = pc.or_(pc.equal(own, ""), pc.equal(query, "")).to_numpy(zero_copy_only=False)
        text = f"column {columns.query}: a query without words; the row is left out"
        reader.leave(block, "query_join", text, blank, kept)
        part = np.full(len(block), NONE, np.int8) if columns.split is None else _parts(block[columns.split])
        parts.add(
            kept,
            item=item,
            grade=grade,
            own=own.dictionary_encode(),
            query=query.dictionary_encode(),
            part=part,
            group=reader.named(block, columns.group),
        )
    if not parts:
        findings.add("warning", "empty", columns.file, "no row after the header")
        return nothing_listed(judged=True)
    return _lists(parts.joined(columns.file), ids.names())


def _lists(rows: Mapping[str, np.ndarray], ids: Sequence[str]) -> Lists:
    """Rows by query id, in the order in which the queries first come."""
    order = np.argsort(rows["own"], kind="stable")
    own = rows["own"][order]
    begins = np.flatnonzero(np.r_[True, own[1:] != own[:-1]]) if len(own) else np.zeros(0, np.int64)
    first = order[begins]
    return lists_of(
        judged=True,
        query_id=tuple(ids[index] for index in own[begins].tolist()),
        start=np.r_[begins, len(own)].astype(np.int64),
        item=rows["item"][order].astype(np.int32),
        relevance=rows["grade"][order].astype(np.float32),
        query=rows["query"][first].astype(np.int32),
        part=rows["part"][first].astype(np.int8),
        group=rows["group"][first].astype(np.int32),
    )


def _grades(array: pa.Array, gains: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    if not gains:
        found, bad = values.numbers(array)
        return found, bad | np.isnan(found) | (found < 0) | (found > LARGEST)
    encoded = values.text(array).dictionary_encode()
    table = np.array([gains.get(word, np.nan) for word in encoded.dictionary.to_pylist()] + [np.nan])
    found = table[encoded.indices.to_numpy(zero_copy_only=False)]
    return found, np.isnan(found)


def _texts(root: Path, columns: JudgmentColumns, findings: Findings) -> dict[str, str]:
    """Words by query id."""
    found: dict[str, str] = {}
    wanted = (columns.texts["id"], columns.texts["text"])
    for block in blocks(root, columns.texts["file"], wanted, layout=Layout(), findings=findings):
        found.update(zip(values.strings(block[wanted[0]]), values.strings(block[wanted[1]]), strict=True))
    return found


def _words(block: Block, columns: JudgmentColumns, texts: Mapping[str, str] | None) -> pa.StringArray:
    written = values.text(block[columns.query])
    if texts is None:
        return written
    return pa.array([texts.get(query, "") for query in written.to_pylist()], pa.string())


def _parts(array: pa.Array) -> np.ndarray:
    encoded = values.text(array).dictionary_encode()
    table = np.array([PARTS.get(word.lower(), NONE) for word in encoded.dictionary.to_pylist()] + [NONE], np.int8)
    return table[encoded.indices.to_numpy(zero_copy_only=False)]
