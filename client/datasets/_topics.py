"""Queries of judged collections: `id<TAB>words`, JSON lines, or TREC's <top> and <topic>, told apart by their start."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from client.datasets._reading.files import Line, text_lines
from client.datasets._reading.findings import Findings
from mmrank.errors import DatasetError

LONGEST_QUERY = 2000
"""Letters of a query that are kept."""
ID_WORDS = frozenset({"qid", "query_id", "query-id", "queryid", "id", "_id", "topic", "topic_id", "num", "number"})
"""What the first column is called where a table has a header."""
TEXT_KEYS = ("text", "query", "title", "contents")
_TAG = re.compile(r"<(/?[A-Za-z][\w-]*)([^<>]*)>")
_NUMBER = re.compile(r"\bnumber\s*=\s*[\"']?([^\"'\s>]+)")


def read_topics(root: Path, patterns: Iterable[str], findings: Findings, *, encoding: str = "utf-8") -> dict[str, str]:
    """The words of each query, by its id and, where that is a number with zeros in front, by the bare number too.

    What has no id or no words is left out and said. Raises DatasetError where no query is left.
    """
    found: dict[str, str] = {}
    patterns = tuple(patterns)
    for pattern in patterns:
        for query_id, words, line in _topics(text_lines(root, pattern, findings=findings, encoding=encoding)):
            words = " ".join(html.unescape(words).split())[:LONGEST_QUERY]
            if not query_id or not words:
                _say(findings, line, "topic", "a query without an id or without words, left out")
            elif query_id in found and found[query_id] != words:
                _say(findings, line, "topic_twice", "a query with other words than an earlier one of its id, left out")
            else:
                found[query_id] = words
    if not found:
        raise DatasetError(
            f"{', '.join(patterns)}: no query in it; expected lines of id<TAB>words, or topics in tags "
            "(<top>, <num>, <title>)."
        )
    zeroed = {name: name.lstrip("0") for name in found if name.startswith("0") and name.isdecimal()}
    bare = {number: found[name] for name, number in zeroed.items() if number}
    return {**bare, **found}


def _say(findings: Findings, line: Line, code: str, text: str) -> None:
    findings.add("warning", code, line.file, text, lines=(line.number,), by_row=False)


def _topics(lines: Iterator[Line]) -> Iterator[tuple[str, str, Line]]:
    """(id, words, line) of each query of the files, however each is written."""
    markup: _Markup | None = None
    file, form = "", ""
    for line in lines:
        if line.file != file:
            if markup is not None:
                yield from markup.end()
            file, form = line.file, line.text.lstrip()[:1]
            markup = _Markup() if form == "<" else None
            first = line.text.split("\t")[0].strip().lower()
            if form not in ("<", "{") and first in ID_WORDS:
                continue
        if markup is not None:
            yield from markup.read(line)
        elif form == "{":
            yield (*_of_json(line.text), line)
        else:
            yield (*_of_row(line.text), line)
    if markup is not None:
        yield from markup.end()


def _of_row(text: str) -> tuple[str, str]:
    """
    >>> _of_row("1037798\\twho is robert gray"), _of_row("10001:comparability of pay analyses"), _of_row("7")
    (('1037798', 'who is robert gray'), ('10001', 'comparability of pay analyses'), ('7', ''))
    """
    separator = "\t" if "\t" in text else ":"
    query_id, _, words = text.partition(separator)
    return query_id.strip(), words.partition("\t")[0]


def _of_json(text: str) -> tuple[str, str]:
    try:
        row = orjson.loads(text)
    except orjson.JSONDecodeError:
        return "", ""
    if not isinstance(row, dict):
        return "", ""
    query_id = next((row[key] for key in row if key.lower() in ID_WORDS), "")
    words = next((row[key] for key in TEXT_KEYS if isinstance(row.get(key), str)), "")
    return (str(query_id).strip() if isinstance(query_id, str | int) else ""), words


class _Markup:
    """Topics in tags, which TREC's older files do not close: a field goes on until the next tag."""

    def __init__(self) -> None:
        self._line: Line | None = None
        self._id, self._words, self._reading = "", "", ""

    def read(self, line: Line) -> Iterator[tuple[str, str, Line]]:
        """The topics that this line ends."""
        place = 0
        for tag in _TAG.finditer(line.text):
            self._take(line.text[place : tag.start()])
            place = tag.end()
            yield from self._open(tag[1].lower(), tag[2], line)
        self._take(line.text[place:])

    def end(self) -> Iterator[tuple[str, str, Line]]:
        """The last topic, where no tag closed it."""
        if self._line is not None:
            number = re.sub(r"^\s*number\s*:", "", self._id, flags=re.IGNORECASE).strip()
            words = re.sub(r"^\s*topic\s*:", "", self._words, flags=re.IGNORECASE)
            yield number, words, self._line
        self._line, self._id, self._words, self._reading = None, "", "", ""

    def _open(self, name: str, attributes: str, line: Line) -> Iterator[tuple[str, str, Line]]:
        if name in ("top", "topic", "/top", "/topic"):
            yield from self.end()
            if not name.startswith("/"):
                number = _NUMBER.search(attributes)
                self._line, self._id = line, number[1] if number else ""
                self._reading = "words"
        elif name in ("num", "number", "qid", "id"):
            self._id, self._reading = "", "id"
        elif name in ("title", "query"):
            self._words, self._reading = "", "words"
        else:
            self._reading = ""

    def _take(self, text: str) -> None:
        """Text between tags; what is longer than a query can be is not kept."""
        if self._line is None:
            return
        if self._reading == "id" and len(self._id) < LONGEST_QUERY:
            self._id += text
        elif self._reading == "words" and len(self._words) < LONGEST_QUERY:
            self._words += f"{text} "
