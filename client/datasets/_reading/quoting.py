"""Where the rows of a CSV file stand: a second parser, which counts lines as an editor does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Row(NamedTuple):
    """A row as the parser of blocks tells it apart. line: where it begins, from 1; letters: its length.

    closed: False where the file ends within a quoted field. torn: whether it runs over several lines and a quote in it
    is followed by letters: what looks like the end of a field may be the beginning of another row's.
    """

    line: int
    letters: int
    closed: bool
    torn: bool


def rows_of(lines: Iterable[str], *, separator: str, quotes: bool) -> Iterator[Row]:
    r"""The rows in lines that keep their ends; a blank line between rows is none.

    >>> [row.line for row in rows_of(["id,title\n", "1,\"red\n", "shoe\"\n", "2,hat\n"], separator=",", quotes=True)]
    [1, 2, 4]
    """
    begins, letters, inside, odd = 1, 0, False, False
    for number, line in enumerate(lines, 1):
        if not letters and line in ("\n", "\r", "\r\n"):
            begins = number + 1
            continue
        letters += len(line)
        if quotes and (inside or '"' in line):
            inside, strange = _end_of(line, separator, inside)
            odd = odd or strange
        if not inside:
            yield Row(begins, letters, True, odd and number > begins)
            begins, letters, odd = number + 1, 0, False
    if inside:
        yield Row(begins, letters, False, odd)


def _end_of(line: str, separator: str, inside: bool) -> tuple[bool, bool]:
    """(Whether a quoted field is open at the end of the line, whether letters follow a quote that ends one).

    inside: whether one was open at its beginning.

    >>> _end_of('1,"a ""b" c', ",", False), _end_of('1,5" disk', ",", False), _end_of('1,"a', ",", False)
    ((False, True), (False, False), (True, False))
    """
    at, odd = 0, False
    if not inside and line.startswith('"'):
        at, inside = 1, True
    while True:
        if not inside:
            opening = line.find(separator + '"', at)
            if opening < 0:
                return False, odd
            at, inside = opening + 2, True
        closing = line.find('"', at)
        if closing < 0:
            return True, odd
        at = closing + 1
        if line.startswith('"', at):
            at += 1
        else:
            inside = False
            odd = odd or (at < len(line) and line[at] not in (separator, "\r", "\n"))
