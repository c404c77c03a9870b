"""What readers of judged collections share: which part a file is, and rows of grades as one list a query."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from client.datasets._reading.findings import Findings
from client.datasets._shaping.parts import SPLITS, Parts
from client.datasets._shaping.settings import Shape
from client.datasets._source import NONE, Lists, lists_of
from mmrank.errors import ConfigError, nearest
from mmrank.slates import LARGEST

TRAIN, VALIDATION, TEST = range(len(SPLITS))
_PART = re.compile(r"(?<![a-z])(?:(?P<train>train)|(?P<validation>val|dev)|(?P<test>test))")


def part_of(name: str) -> int:
    """The part that a file's name says, as an index of SPLITS; NONE where it says none.

    >>> [part_of(name) for name in ("train.txt", "set1.valid.txt", "qrels/dev.tsv", "testset.txt", "latest.txt")]
    [0, 1, 1, 2, -1]
    """
    found = _PART.search(name.lower())
    return NONE if found is None else SPLITS.index(found.lastgroup)  # type: ignore[arg-type]


def parts_of(files: Mapping[str, str], setting: str) -> dict[str, int]:
    """Part by pattern, of a setting {train: pattern, validation: pattern, test: pattern}; vali and dev mean validation.

    Raises ConfigError for another key, or what is no pattern.
    """
    if not isinstance(files, Mapping) or not files:
        raise ConfigError(f"Expected dataset.{setting}={files!r} as {{train: FILE, validation: FILE, test: FILE}}.")
    for part, pattern in files.items():
        if part_of(str(part)) == NONE or not isinstance(pattern, str):
            raise ConfigError(
                f"Expected dataset.{setting}: {part}={pattern!r} as a file for one of {', '.join(SPLITS)}."
                f"{nearest(str(part), SPLITS)}"
            )
    return {pattern: part_of(part) for part, pattern in files.items()}


def files_in(folder: Path) -> list[str]:
    """The names of the files in a folder, sorted; hidden ones left out."""
    return sorted(item.name for item in folder.iterdir() if item.is_file() and not item.name.startswith("."))


def grade_of(word: str) -> float | None:
    """A grade that a slate may hold, below 0 too; None for what is none.

    >>> grade_of("2"), grade_of("-1"), grade_of("nan"), grade_of("1e9"), grade_of("good")
    (2.0, -1.0, None, None, None)
    """
    try:
        grade = float(word)
    except ValueError:
        return None
    return grade if math.isfinite(grade) and abs(grade) <= LARGEST else None


class Judged:
    """Grades as they are read: queries by number, and rows of (query, item, grade) as columns."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}
        self.part: list[int] = []
        self._query, self._item, self._grade = array("i"), array("i"), array("f")

    def __len__(self) -> int:
        return len(self._item)

    def number(self, query_id: str, part: int) -> int:
        """Of a query, a new one in that part where the id is new."""
        number = self.of.setdefault(query_id, len(self.part))
        if number == len(self.part):
            self.part.append(part)
        return number

    def add(self, query: int, item: int, grade: float) -> None:
        """One row."""
        self._query.append(query)
        self._item.append(item)
        self._grade.append(grade)

    def lists(self, words: Mapping[str, str], shape: Shape, findings: Findings, file: str) -> tuple[Lists, list[str]]:
        """(one list for each query that has a row, in the order in which they came; the words of each by number).

        words: by query id. file: which findings of the parts are told of.
        """
        query = np.frombuffer(self._query, np.int32)
        order = np.argsort(query, kind="stable")
        present, begins = np.unique(query[order], return_index=True)
        ids = list(self.of)
        names = [ids[number] for number in present.tolist()]
        texts: dict[str, int] = {}
        numbers = [texts.setdefault(words[name], len(texts)) for name in names]
        part = np.array([self.part[number] for number in present.tolist()], np.int8)
        made = lists_of(
            judged=True,
            query_id=tuple(names),
            start=np.r_[begins, len(order)].astype(np.int64),
            item=np.frombuffer(self._item, np.int32)[order],
            relevance=np.frombuffer(self._grade, np.float32)[order],
            query=np.array(numbers, np.int32),
            part=settled(part, [words[name] for name in names], shape, findings, file),
        )
        return made, list(texts)


def settled(part: np.ndarray, words: list[str], shape: Shape, findings: Findings, file: str) -> np.ndarray:
    """int8 [Q]: the parts that the files say, completed.

    Where no file is for training, or only for it, nothing says a part. Without a test file the validation file is the
    test part; without a validation part it is cut out of training, by the hash of the words.
    """
    there = set(part.tolist()) - {NONE}
    if TRAIN not in there or there == {TRAIN}:
        if there:
            text = "only one kind of part has files, so the parts are made of all queries by their words"
            findings.add("note", "parts", file, text)
        return np.full(len(part), NONE, np.int8)
    if NONE in part:
        text = (
            "queries of files that are for no part; name the files with their parts in the settings, or they are unused"
        )
        findings.add("warning", "parts_unknown", file, text, count=int((part == NONE).sum()))
    if TEST not in there:
        findings.add("note", "parts", file, "no test file: the validation file is the test part")
        part = np.where(part == VALIDATION, TEST, part)
    share = shape.split.validation_fraction
    if VALIDATION not in part and share:
        text = f"no file is left for validation: {share:.0%} of the training queries are, by the hash of their words"
        findings.add("note", "parts_validation", file, text)
        cut = Parts(by="query", edges=(0.0, 0.0, 0.0, 0.0), shares=(share, 0.0), public=True)
        held = np.array([cut.of_query(text) == VALIDATION for text in words], bool)
        part = np.where((part == TRAIN) & held, VALIDATION, part)
    return part.astype(np.int8)
