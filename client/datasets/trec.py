"""TREC test collections: qrels, topics and documents, also in the layouts of MS MARCO, T2Ranking and BEIR.

The folder `root` holds qrels (`301 0 FBIS3-10082 1` a line; three fields, `query-id corpus-id score`, in BEIR's): files
with qrels in their name, or in a folder qrels, or what `qrels: FILE` or `qrels: {train: ..., test: ...}` names. Topics
are files with topics or queries in their name, or `topics:`; lines of `id<TAB>words` or `id:words`, JSON lines, or
`<top><num> Number: 301 <title> ...` and `<topic number="301"><query>`, whose title is the query; zeros in front of a
number do not count. Documents are a table that `items:` maps as in tables (with pictures, prices), or else a file with
collection, corpus or documents in its name: JSON lines with an id (docid, _id, id, ...), title and text, or a TSV with
them in this order. A ranker of others comes as a TREC run: `rows: {mybaseline: run.txt}`.

The documents that were judged for a query are its list; a negative grade (junk, in web tracks) is 0, and of a document
that was judged twice the better grade stands. Where only what is relevant was judged (MS MARCO) there is little to
rank: set `candidates: {from: bm25, fill: true}`. Parts are those that the qrels' names say (train, dev, test), with
what is missing cut out; where they say none, queries are dealt by their words. A query of two parts keeps the first.

Formats: trec.nist.gov/data/qrels_eng, get_qrels.c of github.com/usnistgov/trec_eval, microsoft.github.io/msmarco,
huggingface.co/datasets/THUIR/T2Ranking, github.com/beir-cellar/beir. Licence and citation are each collection's own;
many of NIST's documents need an agreement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from client.datasets._judged import Judged, files_in, grade_of, part_of, parts_of
from client.datasets._reading.blocks import BLOCK_ROWS, Layout, Progress, format_of, names_of
from client.datasets._reading.files import Line, text_lines
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import ItemColumns
from client.datasets._shaping.loader import loader
from client.datasets._shaping.parts import SPLITS
from client.datasets._shaping.settings import Shape
from client.datasets._source import Source
from client.datasets._topics import ID_WORDS, read_topics
from client.datasets.tables import Columns, columns_of, read_columns
from mmrank.errors import DatasetError

HOLDS = "qrels, topics (or queries), and a collection of documents (or a table that items: maps)"
SIZE = "that of each collection"
IDS = ("docid", "doc_id", "docno", "_id", "id", "pid", "item_id", "product_id", "asin")
TEXTS = ("title", "text", "contents", "body", "abstract", "description")
PACKED = (".gz", ".bz2", ".zst", ".lz4")


def read(
    root: Path,
    *,
    qrels: str | Mapping[str, str] | None = None,
    topics: str | Sequence[str] | None = None,
    items: Mapping[str, Any] | None = None,
    encoding: str = "utf-8",
    shape: Shape,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """See the module. encoding: of qrels and topics. Raises ConfigError for a setting, DatasetError for what can't be
    used.
    """
    chosen = _qrels(root, qrels)
    named = _named(root, ("topics", "queries"), "topics") if topics is None else topics
    words = read_topics(root, [named] if isinstance(named, str) else named, findings, encoding=encoding)
    columns = Columns(items=_collection(root, findings)) if items is None else columns_of(items=items)
    documents = read_columns(root, columns, shape=shape, name="trec", findings=findings, progress=progress)
    reader = _Reader(documents, columns.items.file, words, findings)
    for pattern, part in sorted(chosen.items(), key=lambda file: file[1] % (len(SPLITS) + 1)):  # those of no part last
        for line in text_lines(root, pattern, findings=findings, encoding=encoding):
            reader.read(line, part)
            if progress is not None and reader.seen % BLOCK_ROWS == 0:
                progress(BLOCK_ROWS)
    if progress is not None:
        progress(reader.seen % BLOCK_ROWS)
    names = ", ".join(chosen)
    if not len(reader.judged):
        first = next((f" {found}." for found in findings), "")
        raise DatasetError(f"{names}: no judgment `qid 0 docid grade` in it that can be used.{first}")
    lists, queries = reader.judged.lists(words, shape, findings, names)
    return replace(documents, lists=(lists,), queries=queries)


def _qrels(root: Path, given: str | Mapping[str, str] | None) -> dict[str, int]:
    """Part by file."""
    if isinstance(given, str):
        return {given: part_of(given)}
    if given is not None:
        return parts_of(given, "qrels")
    inside = [f"qrels/{name}" for name in files_in(root / "qrels")] if (root / "qrels").is_dir() else []
    return {name: part_of(name) for name in (inside or _named(root, ("qrels",), "qrels"))}


def _named(root: Path, words: Sequence[str], setting: str) -> list[str]:
    """The files whose name has one of the words. Raises DatasetError where there is none."""
    found = [name for name in files_in(root) if any(word in name.lower() for word in words)]
    if not found:
        raise DatasetError(f"{root}: no file has {' or '.join(words)} in its name; name it with dataset.{setting}.")
    return found


def _collection(root: Path, findings: Findings) -> ItemColumns:
    """Where the collection has what. Raises DatasetError where there is none, or it has no id."""
    found = [
        name
        for name in _named(root, ("collection", "corpus", "documents", "docs"), "items")
        if name.lower()
        .removesuffix(_packing(name))
        .endswith((".jsonl", ".json", ".ndjson", ".tsv", ".csv", ".parquet"))
    ]
    if len(found) != 1:
        raise DatasetError(
            f"{root}: {len(found)} files that may be the collection ({', '.join(found[:5])}); name one with "
            "dataset.items: {file: ..., id: ..., title: [...]}."
        )
    layout = Layout()
    names = names_of(root, found[0], layout=layout, findings=findings)
    ids = [name for name in names if name.lower() in IDS]
    if format_of(found[0]) == "tsv" and not ids:
        header = ("id", "text") if len(names) == 2 else ("id", *(f"column_{place}" for place in range(1, len(names))))
        return ItemColumns(file=found[0], id="id", title=header[1:], layout=Layout(header=header))
    if not ids:
        raise DatasetError(f"{found[0]}: none of its columns is an id ({', '.join(IDS)}); map them with dataset.items.")
    return ItemColumns(file=found[0], id=ids[0], title=tuple(name for name in TEXTS if name in names), layout=layout)


def _packing(name: str) -> str:
    return next((ending for ending in PACKED if name.lower().endswith(ending)), "")


class _Reader:
    """Lines of qrels as grades of documents. seen: how many lines there were."""

    def __init__(self, documents: Source, file: str, words: Mapping[str, str], findings: Findings) -> None:
        self.judged, self.seen = Judged(), 0
        self._index_of, self._file, self._words, self._findings = documents.catalog.index_of, file, words, findings

    def read(self, line: Line, part: int) -> None:
        """One line; a bad one is said, and left out."""
        self.seen += 1
        fields = line.text.split()
        if fields[0].startswith("#") or (line.number == 1 and fields[0].lower() in ID_WORDS):
            return
        fault = self._take(fields, part)
        if fault is not None:
            code, text = fault
            self._say(line, "warning", code, f"{text}; the row is left out")
        elif (grade_of(fields[-1]) or 0.0) < 0:
            self._say(line, "note", "negative", "a grade below 0, taken as 0")

    def _take(self, fields: Sequence[str], part: int) -> tuple[str, str] | None:
        if len(fields) not in (3, 4):
            return "ragged", f"a line of {len(fields)} fields; expected: qid 0 docid grade"
        query, document, grade = fields[0], fields[-2], grade_of(fields[-1])
        if grade is None:
            return "grade", "no grade at its end"
        if query not in self._words:
            return "query_join", "a query that the topics lack"
        index = self._index_of.get(document)
        if index is None:
            return "item_join", f"a document that {self._file} lacks"
        number = self.judged.number(query, part)
        if self.judged.part[number] != part:
            return "query_twice", "a query that another part has"
        self.judged.add(number, index, max(grade, 0.0))
        return None

    def _say(self, line: Line, level: Any, code: str, text: str) -> None:
        self._findings.add(level, code, line.file, text, lines=(line.number,), by_row=False)


load = loader(read, holds=HOLDS)
