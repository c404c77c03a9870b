"""What was found in tables and pictures: faults in plain words, counted, with the first places of each."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, Literal

from mmrank.errors import DatasetError

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")
PLACES = 5
"""Of one fault in one file, how many lines are named."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One kind of fault in one file. text: what it is and what became of it; lines: the first places, rows of a table
    where by_row until the file was read to its end. lost: whether each is a row that is left out.

    level: `error` where the data can't be used so, `warning` where a part is left out or doubtful, `note` otherwise.
    """

    level: Level
    code: str
    file: str
    text: str
    count: int = 1
    lines: tuple[int, ...] = ()
    by_row: bool = True
    lost: bool = False

    def __str__(self) -> str:
        """
        >>> print(Finding(level="warning", code="price", file="items.csv", text="no price", count=7, lines=(3, 9)))
        items.csv, lines 3, 9 and 5 more: no price
        """
        if not self.lines:
            return f"{self.file}: {self.text}" + (f" ({self.count} times)" if self.count > 1 else "")
        more = self.count - len(self.lines)
        named = ", ".join(map(str, self.lines)) + (f" and {more} more" if more > 0 else "")
        return f"{self.file}, line{'s' if len(self.lines) > 1 else ''} {named}: {self.text}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "code": self.code,
            "file": self.file,
            "lines": list(self.lines),
            "count": self.count,
            "text": self.text,
        }


@dataclass
class Findings:
    """Collects findings; the same fault of the same file and column is counted, not repeated.

    rows: read so far, by file. told: what of the reading was told from somebody's rows, and so may turn with them, a
    sentence each with its remedy.
    """

    _found: dict[tuple[str, str, str], Finding] = field(default_factory=dict)
    rows: Counter[str] = field(default_factory=Counter)
    told: list[str] = field(default_factory=list)

    def add(
        self,
        level: Level,
        code: str,
        file: str,
        text: str,
        *,
        count: int = 1,
        lines: Iterable[int] = (),
        by_row: bool = True,
        lost: bool = False,
    ) -> None:
        """Count `count` more of the fault; the first text stands. by_row: `lines` are rows of a table so far."""
        lines = tuple(int(line) for line in islice(_different(lines), PLACES))
        key = (code, file, text.split(":")[0] if text.startswith("column ") else "")
        known = self._found.get(key)
        if known is None:
            self._found[key] = Finding(
                level=level, code=code, file=file, text=text, count=count, lines=lines, by_row=by_row, lost=lost
            )
            return
        self._found[key] = replace(known, count=known.count + count, lines=(known.lines + lines)[:PLACES])

    def rows_of(self, file: str) -> set[int]:
        """The rows that are named for one file, where they were counted by row; see `relocate`."""
        return {line for found in self._found.values() if found.file == file and found.by_row for line in found.lines}

    def relocate(self, file: str, line_of: Mapping[int, int]) -> None:
        """Put lines in place of rows: a quoted field may run over several lines, and rows are what a parser counts."""
        for key, found in self._found.items():
            if found.file == file and found.by_row:
                self._found[key] = replace(found, lines=tuple(line_of.get(line, line) for line in found.lines))

    def of(self, level: Level) -> tuple[Finding, ...]:
        """Those of a level, in the order in which they were found."""
        return tuple(found for found in self._found.values() if found.level == level)

    def __iter__(self) -> Iterator[Finding]:
        for level in LEVELS:
            yield from self.of(level)

    def counted(self, code: str) -> int:
        """How many of that fault there are, in all files."""
        return sum(found.count for found in self._found.values() if found.code == code)

    def most_lost(self) -> str:
        """A sentence that names the fault by which the most rows are left out, or nothing."""
        lost = [found for found in self._found.values() if found.lost]
        worst = max(lost, key=lambda found: found.count, default=None)
        return "" if worst is None else f" Most rows are left out by this: {worst}."

    def check(self, bad_rows: float) -> None:
        """Raise DatasetError with the first error, or where more than that share of a file's rows is left out."""
        self._raise_errors()
        for file, read in self.rows.items():
            faults = [found for found in self._found.values() if found.file == file and found.lost]
            lost = sum(found.count for found in faults)
            if lost > math.ceil(bad_rows * read):
                worst = max(faults, key=lambda found: found.count)
                raise DatasetError(
                    f"{file}: {lost} of {read} rows are left out, and at most {bad_rows:.0%} may be; most of them: "
                    f"{worst}. Mend the table, or raise dataset.bad_rows."
                )

    def _raise_errors(self) -> None:
        errors = self.of("error")
        if errors:
            more = f" ({len(errors) - 1} more errors; mmrank data check lists them.)" if len(errors) > 1 else ""
            raise DatasetError(f"{errors[0]}{more}")


def _different(lines: Iterable[int]) -> Iterator[int]:
    """Each once: a list in one row may lack several items."""
    last = None
    for line in lines:
        if line != last:
            yield line
        last = line
