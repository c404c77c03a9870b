"""Learning-to-rank sets in the format of SVMlight: LETOR, MSLR-WEB, Yahoo, Istella, or your own.

A line is `grade qid:1 1:0.5 2:0.1 # docid = GX000-00`, and all lines of a query are its list. The folder `root` holds
train, vali and test files (train.txt, set1.valid.txt, testset.txt, packed with gz or not), or folders Fold1 to Fold5 of
them, of which `fold` is read; `files: {train: ..., validation: ..., test: ...}` names others. Without a validation file
it is cut out of training by the query's hash; one file alone is divided by its queries.

The ranker reads texts, so each row is an item of its own, QUERY:DOCUMENT (the place in its list where no comment says
`docid = `), and its title is its features as words: `f12b3` is feature 12 in bin 3, and a feature of 0 has no word.
The bins' edges are public constants (`edges: public`), a ladder of your own (`edges: [0.1, 1, 10]`), or each feature's
deciles over the first 20,000 rows of training (`edges: train`). A feature belongs to a query and a document, so such a
title tells of the query, and a catalogue is public: in a judged collection everything is, in a shop's log nothing.
With `items:` (a table, as of tables) rows join to real items by the comment's document id, its first word where it says
no `docid = `, and the features are left out. `topics:` gives queries their words; they are called q1 otherwise.

A grade below 0 means that nobody judged (LETOR 4.0's semi-supervised sets); a value of NULL or nan is none; Istella's
1.797e308 is in the highest bin, and its files are said to be Latin-1 (`encoding`). Format: cs.cornell.edu/people/tj/
svm_light/svm_rank.html, sourceforge.net/p/lemur/wiki/RankLib File Format. Sets: microsoft.com/en-us/research/project/
mslr and letor-learning-rank-information-retrieval (research use; Qin and Liu 2013, arXiv 1306.2597), Yahoo Webscope C14
(by agreement; Chapelle and Chang 2011), quickrank.isti.cnr.it/istella-dataset (non-commercial; Dato et al. 2016).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from client.datasets._feature_words import Edges, FeatureWords
from client.datasets._judged import Judged, files_in, part_of, parts_of
from client.datasets._reading.blocks import BLOCK_ROWS, Progress
from client.datasets._reading.files import Line, text_lines
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import items_of
from client.datasets._shaping.loader import loader
from client.datasets._shaping.parts import SPLITS
from client.datasets._shaping.settings import Shape
from client.datasets._source import NONE, Lists, Source
from client.datasets._svmlight_row import Row, row_of
from client.datasets._topics import read_topics
from client.datasets.tables import columns_of, read_columns
from mmrank.errors import DatasetError

HOLDS = (
    "train, vali and test files in the format of SVMlight (grade qid:1 1:0.5 ...), or folders Fold1 to Fold5 of them"
)
SIZE = "MSLR-WEB10K 10,000 queries and 136 features; others as they are"
ENDINGS = (".txt", ".dat", ".svm", ".svmlight", ".libsvm", ".letor")


def read(
    root: Path,
    *,
    fold: int = 1,
    files: Mapping[str, str] | None = None,
    edges: Edges = "public",
    items: Mapping[str, Any] | None = None,
    topics: str | None = None,
    encoding: str = "utf-8",
    shape: Shape,
    findings: Findings,
    now_days: float | None = None,
    progress: Progress | None = None,
) -> Source:
    """See the module. Raises ConfigError for a setting, DatasetError for files that are none of the format."""
    chosen = parts_of(files, "files") if files is not None else _files(root, fold)
    names = ", ".join(chosen)
    kept: _Items = _Pairs(root, edges, names) if items is None else _joined(root, items, shape, findings, progress)
    known = {} if topics is None else read_topics(root, [topics], findings)
    reader = _Reader(kept, findings)
    for pattern, part in sorted(chosen.items(), key=lambda file: file[1]):
        for line in text_lines(root, pattern, findings=findings, encoding=encoding):
            reader.read(line, part)
            if progress is not None and reader.seen % BLOCK_ROWS == 0:
                progress(BLOCK_ROWS)
        kept.settle()
    if progress is not None:
        progress(reader.seen % BLOCK_ROWS)
    if not len(reader.judged):
        raise DatasetError(f"{names}: no row `grade qid:1 1:0.5 2:0.1 ...` in it that can be used.{_first(findings)}")
    words = {name: known.get(name, f"q{name}") for name in reader.judged.of}
    lists, queries = reader.judged.lists(words, shape, findings, names)
    return kept.source(lists, queries, findings)


def _joined(
    root: Path, items: Mapping[str, Any], shape: Shape, findings: Findings, progress: Progress | None
) -> _Joined:
    columns = columns_of(items=items)
    return _Joined(
        read_columns(root, columns, shape=shape, name="svmlight", findings=findings, progress=progress),
        columns.items.file,
    )


def _files(root: Path, fold: int) -> dict[str, int]:
    """Part by file, as their names say it. Raises DatasetError where they do not."""
    folder = f"Fold{fold}/" if any(root.glob("Fold[0-9]*")) else ""
    if not (root / folder).is_dir():
        raise DatasetError(f"{root}: there is no folder {folder}; set dataset.fold to one that there is.")
    names = files_in(root / folder)
    said = {name: part_of(name) for name in names}
    for part in range(len(SPLITS)):
        same = [name for name in names if said[name] == part]
        if len(same) > 1:
            raise DatasetError(
                f"{root}: {len(same)} files for {SPLITS[part]} ({', '.join(same[:5])}); name one with dataset.files: "
                "{train: ..., validation: ..., test: ...}."
            )
    chosen = {f"{folder}{name}": part for name, part in said.items() if part != NONE}
    alone = [name for name in names if any(ending in name.lower() for ending in ENDINGS)]
    if not chosen and len(alone) == 1:
        return {f"{folder}{alone[0]}": NONE}
    if not chosen:
        raise DatasetError(f"{root}: it should hold {HOLDS}; or name the files with dataset.files.")
    return chosen


class _Items(Protocol):
    """What a row's item is."""

    def item(self, row: Row, name: str, place: int) -> int | str:
        """The index of the item of a row, the place-th of the query `name`; why it has none."""
        ...

    def settle(self) -> None:
        """The files of a part have been read."""
        ...

    def source(self, lists: Lists, queries: Sequence[str], findings: Findings) -> Source: ...


class _Pairs:
    """Each row is an item of its own."""

    def __init__(self, root: Path, edges: Edges, file: str) -> None:
        self._root, self._file, self._words = root, file, FeatureWords(edges)
        self._ids: dict[str, None] = {}

    def item(self, row: Row, name: str, place: int) -> int | str:
        item_id = f"{name}:{row.document or place}"
        if item_id in self._ids:
            return "a document that an earlier row of the query has"
        self._ids[item_id] = None
        self._words.add(row.features, row.values)
        return len(self._ids) - 1

    def settle(self) -> None:
        self._words.settle()

    def source(self, lists: Lists, queries: Sequence[str], findings: Findings) -> Source:
        text = "titles are features of a query and a document: public in a judged collection, and in no shop's log"
        findings.add("note", "titles", self._file, text)
        ids = tuple(self._ids)
        made = items_of(ids, [""] * len(ids), name="svmlight", file=self._file, root=self._root)
        return Source(
            name="svmlight",
            catalog=replace(made.catalog, titles=self._words.titles()),
            findings=findings,
            lists=(lists,),
            queries=queries,
        )


class _Joined:
    """Rows join to the items of a table."""

    def __init__(self, items: Source, file: str) -> None:
        self._items, self._file = items, file

    def item(self, row: Row, name: str, place: int) -> int | str:
        index = self._items.catalog.index_of.get(row.document or row.first)
        return f"a document that {self._file} lacks" if index is None else index

    def settle(self) -> None:
        pass

    def source(self, lists: Lists, queries: Sequence[str], findings: Findings) -> Source:
        return replace(self._items, lists=(lists,), queries=queries)


class _Reader:
    """Lines as grades of items. seen: how many lines there were."""

    def __init__(self, items: _Items, findings: Findings) -> None:
        self.judged, self.seen = Judged(), 0
        self._items, self._findings = items, findings
        self._places: dict[str, int] = {}

    def read(self, line: Line, part: int) -> None:
        """One line; a bad one is said, and leaves no trace."""
        self.seen += 1
        row = None if line.text.lstrip().startswith("#") else row_of(line.text)
        if isinstance(row, tuple):
            self._say(line, *row)
        elif row is not None:
            self._take(line, row, part)

    def _take(self, line: Line, row: Row, part: int) -> None:
        name = self._name(line, row.query, part)
        self._places[name] = self._places.get(name, 0) + 1
        if row.grade < 0:
            text = "a grade below 0, which says that nobody judged; the row is left out"
            self._findings.add("note", "unjudged", line.file, text, lines=(line.number,), by_row=False)
            return
        item = self._items.item(row, name, self._places[name])
        if isinstance(item, str):
            self._say(line, "document", item)
        else:
            self.judged.add(self.judged.number(name, part), item, row.grade)

    def _name(self, line: Line, query: str, part: int) -> str:
        """The query's id; of one that an earlier part has, with the part behind it: each file may count from 1."""
        number = self.judged.of.get(query)
        if number is None or self.judged.part[number] == part:
            return query
        text = f"a qid that {SPLITS[self.judged.part[number]]} has too, taken for another query (qid.part)"
        self._findings.add("warning", "qid_twice", line.file, text, lines=(line.number,), by_row=False)
        return f"{query}.{SPLITS[part]}"

    def _say(self, line: Line, code: str, text: str) -> None:
        text = f"{text}; the row is left out"
        self._findings.add("warning", code, line.file, text, lines=(line.number,), by_row=False)


def _first(findings: Findings) -> str:
    return next((f" {found}." for found in findings), "")


load = loader(read, holds=HOLDS)
