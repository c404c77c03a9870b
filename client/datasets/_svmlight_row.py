"""One line of SVMlight's format for ranking: `grade qid:query feature:value ... # comment`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import contains

from client.datasets._feature_words import LARGEST_FEATURE
from client.datasets._judged import grade_of
from client.datasets._reading.items import LONGEST_ID

_DOCUMENT = re.compile(r"\bdocid\s*=\s*(\S+)")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line. document: of the comment, '' where it names none; first: the comment's first word."""

    grade: float
    query: str
    features: Sequence[int]
    values: Sequence[float]
    document: str
    first: str


def row_of(text: str) -> Row | tuple[str, str]:
    """A line, or (code, why it is none).

    >>> row_of("2 qid:10 1:0.5 3:NULL # docid = GX01 inc = 1")
    Row(grade=2.0, query='10', features=[1, 3], values=[0.5, nan], document='GX01', first='docid')
    >>> row_of("2 1:0.5")
    ('qid', 'no qid after the grade')
    """
    numbers, _, comment = text.partition("#")
    fields = numbers.split()
    grade = grade_of(fields[0]) if fields else None
    if grade is None:
        return "grade", "no grade in front"
    query = fields[1][4:] if len(fields) > 1 and fields[1].startswith("qid:") else ""
    if not query or ":" in query or not _plain(query):
        return "qid", "no qid after the grade"
    pairs = _pairs(fields[2:])
    if pairs is None:
        return "feature", f"a feature that is no feature:value, or not in 0 to {LARGEST_FEATURE}"
    named = _DOCUMENT.search(comment)
    document = named[1] if named and _plain(named[1]) else ""
    return Row(
        grade=grade,
        query=query,
        features=pairs[0],
        values=pairs[1],
        document=document,
        first=(comment.split(maxsplit=1) or [""])[0],
    )


def _pairs(fields: Sequence[str]) -> tuple[list[int], list[float]] | None:
    """(features, values), a value of NULL as NaN; None where one is no `feature:value`.

    >>> _pairs(["1:0.5", "2:NULL"]), _pairs(["1:0.5:2", "3"]), _pairs(["-1:0.5"])
    (([1, 2], [0.5, nan]), None, None)
    """
    words = " ".join(fields).replace(":", " ").split()
    if len(words) != 2 * len(fields) or not all(map(contains, fields, repeat(":"))):
        return None
    if len(words) and "NULL" in words:
        words = ["nan" if word == "NULL" else word for word in words]
    try:
        return list(map(_FEATURES.__getitem__, words[::2])), list(map(float, words[1::2]))
    except ValueError:
        return None


class _Features(dict[str, int]):
    """Numbers of features by how they are written: a file writes the same few a million times."""

    def __missing__(self, written: str) -> int:
        number = int(written)
        if not 0 <= number <= LARGEST_FEATURE:
            raise ValueError(written)
        if written == str(number):
            self[written] = number
        return number


_FEATURES = _Features()


def _plain(name: str) -> bool:
    return name.isprintable() and 2 * len(name) < LONGEST_ID
