"""Columns of a table, block by block: CSV, TSV, JSON lines and Parquet, one file or shards, memory flat.

Text stays text: an id keeps its leading zeros, and what a number is, values.py says.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from client.datasets._reading.files import PACKINGS, column_of, lines_of, open_text, shards
from client.datasets._reading.findings import Findings
from client.datasets._reading.quoting import Row, rows_of
from mmrank.errors import ConfigError, DatasetError

Format = Literal["csv", "tsv", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = ("csv", "tsv", "jsonl", "parquet")
ENDINGS: Mapping[str, Format] = {
    ".csv": "csv",
    ".txt": "csv",
    ".tsv": "tsv",
    ".tab": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
BLOCK_BYTES = 16 << 20
"""A row that is longer is taken for a quote that nobody closed."""
BLOCK_ROWS = 65_536
SEPARATORS = ",;\t|"

Progress = Callable[[int], None]
"""Called with the rows that were read since the last call."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a text table is written. header: names of the columns of a file that has no header line.

    format, separator: one of FORMATS, and one letter; told from the file's name and its first line where None. quotes:
    whether a field may stand in double quotes; in CSV it may, in TSV it may not, where None.
    """

    format: str | None = None
    separator: str | None = None
    encoding: str = "utf-8"
    quotes: bool | None = None
    header: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise ConfigError(f"Expected format={self.format!r} to be one of {', '.join(FORMATS)}.")
        if self.separator is not None and (len(self.separator) != 1 or not self.separator.isascii()):
            raise ConfigError(f"Expected separator={self.separator!r} to be one ASCII character, such as ';'.")


@dataclass(frozen=True, kw_only=True)
class Block:
    """n rows of one file. columns: n values each, as text or as the file has them; rows: int64 [n], counted from 1."""

    file: str
    columns: Mapping[str, pa.Array]
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, name: str) -> pa.Array:
        return self.columns[name]


def blocks(
    root: Path,
    pattern: str,
    columns: Sequence[str],
    *,
    layout: Layout,
    findings: Findings,
    progress: Progress | None = None,
) -> Iterator[Block]:
    """The columns `columns` of the table `pattern` under `root`.

    A ragged row is left out and said. Raises DatasetError for a file that is absent, empty, lacks a column or can't be
    told apart into rows, with its name and line.
    """
    wanted = tuple(dict.fromkeys(columns))
    for path in shards(root, pattern):
        name = str(path.relative_to(root))
        form = layout.format or format_of(name)
        if form == "parquet":
            found = _parquet(path, name, wanted)
        elif form == "jsonl":
            found = _json_lines(path, name, wanted, layout, findings)
        else:
            found = _Text(path, name, layout, form, findings).blocks(wanted)
        for block in found:
            if progress is not None:
                progress(len(block))
            findings.rows[name] += len(block)
            yield block


def names_of(root: Path, pattern: str, *, layout: Layout, findings: Findings) -> tuple[str, ...]:
    """The columns of a table's first file; of JSON lines those of the first line."""
    path = shards(root, pattern)[0]
    name = str(path.relative_to(root))
    form = layout.format or format_of(name)
    if form == "parquet":
        return tuple(_opened_parquet(path, name).schema_arrow.names)
    if form == "jsonl":
        with open_text(path, encoding=layout.encoding, findings=findings, name=name) as stream:
            first = next(lines_of(stream, name), b"")
        try:
            row = orjson.loads(first)
        except orjson.JSONDecodeError as error:
            raise DatasetError(f"{name}, line 1: not JSON ({error}).") from error
        return tuple(row) if isinstance(row, dict) else ()
    return _Text(path, name, layout, form, findings).header


def format_of(name: str) -> Format:
    """The format that a file's name ends in, packed or not. Raises DatasetError for another ending."""
    bare = name.lower()
    for packing in PACKINGS:
        bare = bare.removesuffix(packing)
    ending = Path(bare).suffix
    if ending not in ENDINGS:
        raise DatasetError(
            f"{name}: its name does not say which format it has; set format: {' | '.join(FORMATS)} beside file."
        )
    return ENDINGS[ending]


class _Text:
    """A CSV or TSV file: pyarrow's parser over a stream of valid UTF-8."""

    def __init__(self, path: Path, name: str, layout: Layout, form: str, findings: Findings) -> None:
        self.path, self.name, self.layout, self.findings = path, name, layout, findings
        self.quotes = (form != "tsv") if layout.quotes is None else layout.quotes
        with open_text(path, encoding=layout.encoding, findings=Findings(), name=name) as stream:
            head = io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8", newline="").read(1 << 17)
        self.separator = layout.separator or ("\t" if form == "tsv" else _separator(head))
        self.header = layout.header or self._first_row(head)

    def blocks(self, wanted: Sequence[str]) -> Iterator[Block]:
        for column in wanted:
            column_of(column, self.header, file=self.name)
            if self.header.count(column) > 1:
                raise DatasetError(f"{self.name}, line 1: two columns are called {column!r}; rename one.")
        ragged: list[int] = []
        with open_text(self.path, encoding=self.layout.encoding, findings=self.findings, name=self.name) as stream:
            row = 1 if self.layout.header is not None else 2
            try:
                for batch in self._reader(stream, wanted, ragged):
                    rows = _rows_from(row, batch.num_rows, ragged)
                    if len(rows):
                        row = int(rows[-1]) + 1
                        columns = dict(zip(wanted, batch.select(wanted).columns, strict=True))
                        yield Block(file=self.name, columns=columns, rows=rows)
            except pa.ArrowException as error:
                raise self._unreadable(error, row) from error
            last = max([row - 1, *ragged])
            if stream.newlines not in (last, last - 1):
                self._relocate()

    def _reader(self, stream: io.RawIOBase, wanted: Sequence[str], ragged: list[int]) -> Any:
        def skip(row: pyarrow.csv.InvalidRow) -> str:
            ragged.append(row.number)
            self.findings.rows[self.name] += 1
            self.findings.add(
                "warning",
                "ragged",
                self.name,
                f"a row of {row.actual_columns} fields under a header of {row.expected_columns}, left out",
                lines=(row.number,),
                lost=True,
            )
            return "skip"

        return pyarrow.csv.open_csv(
            io.BufferedReader(stream, BLOCK_BYTES),  # a short read is an end to pyarrow
            read_options=pyarrow.csv.ReadOptions(
                use_threads=False, block_size=BLOCK_BYTES, column_names=self.layout.header
            ),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter=self.separator,
                quote_char='"' if self.quotes else False,
                newlines_in_values=self.quotes,
                invalid_row_handler=skip,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()),
                include_columns=list(wanted),
                strings_can_be_null=False,
            ),
        )

    def _first_row(self, head: str) -> tuple[str, ...]:
        quoting: Any = csv.QUOTE_MINIMAL if self.quotes else csv.QUOTE_NONE
        reader = csv.reader(io.StringIO(head, newline=""), delimiter=self.separator, quoting=quoting)
        names = tuple(next((row for row in reader if row), ()))
        if not any(name.strip() for name in names):
            raise DatasetError(f"{self.name}, line 1: no header; name the columns with header: [...] beside file.")
        return names

    def _unreadable(self, error: pa.ArrowException, row: int) -> DatasetError:
        if "straddling" in str(error) or "out of sync" in str(error):
            longest = max(self._rows(), key=lambda found: found.letters)
            return self._unclosed(longest.line, f"within {BLOCK_BYTES >> 20} MB")
        return DatasetError(f"{self.name}, after row {row - 1}: {error}.")

    def _unclosed(self, line: int, where: str) -> DatasetError:
        return DatasetError(
            f"{self.name}, line {line}: a quote is opened and not closed {where}; close it, or set quotes: false "
            "beside file where quotes are letters like others."
        )

    def _relocate(self) -> None:
        """Lines for the rows that findings name, by a second parser that counts both. Raises DatasetError for a quote
        that nobody closed: all rows after it stand in one field, and would be lost without a word.
        """
        wanted = self.findings.rows_of(self.name)
        line_of: dict[int, int] = {}
        for number, row in enumerate(self._rows(), 1):
            if not row.closed:
                raise self._unclosed(row.line, "until the end of the file")
            if row.torn:
                text = (
                    "a row of several lines in which letters follow a quote: is one not closed, and another row lost "
                    "in it? double a quote that is meant"
                )
                self.findings.add("warning", "quotes", self.name, text, lines=(row.line,), by_row=False)
            if number in wanted:
                line_of[number] = row.line
        self.findings.relocate(self.name, line_of)

    def _rows(self) -> Iterator[Row]:
        with open_text(self.path, encoding=self.layout.encoding, findings=Findings(), name=self.name) as stream:
            lines = io.TextIOWrapper(io.BufferedReader(stream), encoding="utf-8", newline="")
            yield from rows_of(lines, separator=self.separator, quotes=self.quotes)


def _rows_from(first: int, count: int, left_out: Sequence[int]) -> np.ndarray:
    """int64 [count]: the numbers from `first` on that are not among `left_out`, which ascends.

    >>> _rows_from(2, 3, [3, 9]).tolist()
    [2, 4, 5]
    """
    gone = np.array([row for row in left_out if row >= first], np.int64)
    rows = np.arange(first, first + count + len(gone), dtype=np.int64)
    return rows[~np.isin(rows, gone)][:count]


def _separator(head: str) -> str:
    """What stands most often between the header's fields; a comma where nothing does.

    >>> _separator("id;name;price\\n1;a,b;2")
    ';'
    """
    line = next((line for line in io.StringIO(head, newline=None) if line.strip()), "")
    return max(SEPARATORS, key=line.count)


def _json_lines(path: Path, name: str, wanted: Sequence[str], layout: Layout, findings: Findings) -> Iterator[Block]:
    """One object a line; `a.b` looks into an object inside. A line that is none is left out and said."""
    ways = {column: tuple(column.split(".")) for column in wanted}
    with open_text(path, encoding=layout.encoding, findings=findings, name=name) as stream:
        taken: list[dict[str, Any]] = []
        lines: list[int] = []
        seen: set[str] = set()
        any_object = False
        for number, line in enumerate(lines_of(stream, name), 1):
            if not line.strip():
                continue
            try:
                row = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                row, fault = None, f"not JSON ({error})"
            else:
                fault = "no object in braces"
            if not isinstance(row, dict):
                text = f"{fault}, left out; each line is one object"
                findings.rows[name] += 1
                findings.add("warning", "json", name, text, lines=(number,), by_row=False, lost=True)
                continue
            any_object = True
            found = {column: _inside(row, way) for column, way in ways.items()}
            seen.update(column for column, value in found.items() if value is not None)
            taken.append(found)
            lines.append(number)
            if len(taken) == BLOCK_ROWS:
                yield _json_block(name, wanted, taken, lines)
                taken, lines = [], []
        if taken:
            yield _json_block(name, wanted, taken, lines)
    absent = [column for column in wanted if column not in seen]
    if not any_object:
        raise DatasetError(
            f"{name}: no line is a JSON object; write one object a line, with no bracket around them and no comma "
            "between."
        )
    if absent:
        raise DatasetError(f"{name}: no line has {', '.join(absent)}; name another, or leave it out.")


def _inside(row: dict[str, Any], way: tuple[str, ...]) -> Any:
    if ".".join(way) in row:
        return row[".".join(way)]
    value: Any = row
    for key in way:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _json_block(name: str, wanted: Sequence[str], taken: list[dict[str, Any]], lines: list[int]) -> Block:
    columns = {column: _json_array([row[column] for row in taken]) for column in wanted}
    return Block(file=name, columns=columns, rows=np.array(lines, np.int64))


def _json_array(values: list[Any]) -> pa.Array:
    """Lists of text where any value is a list, text otherwise; a number is written as JSON writes it, and a whole one
    without a point: 7.0 is what a missing value beside it makes of 7.
    """
    if any(isinstance(value, list) for value in values):
        made = [
            None if value is None else [_plain(inner) for inner in (value if isinstance(value, list) else [value])]
            for value in values
        ]
        return pa.array(made, pa.list_(pa.string()))
    return pa.array([_plain(value) for value in values], pa.string())


def _plain(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2.0**63:
        value = int(value)
    return orjson.dumps(value).decode()


def _opened_parquet(path: Path, name: str) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"{name}: not Parquet, or damaged ({error}).") from error


def _parquet(path: Path, name: str, wanted: Sequence[str]) -> Iterator[Block]:
    file = _opened_parquet(path, name)
    schema = file.schema_arrow
    for column in wanted:
        column_of(column, schema.names, file=name)
        if schema.names.count(column) > 1:
            raise DatasetError(f"{name}: two columns are called {column!r}; rename one.")
        kind = schema.field(column).type
        inner = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
        if pa.types.is_nested(inner) and not pa.types.is_fixed_size_list(kind):
            raise DatasetError(f"{name}: column {column!r} holds {kind}; write what is inside as columns of its own.")
    row = 1
    try:
        for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=list(wanted)):
            rows = np.arange(row, row + batch.num_rows, dtype=np.int64)
            batch.validate(full=True)  # text that is none would stop whoever looks into it
            row += batch.num_rows
            columns = [_usual(column) for column in batch.columns]
            yield Block(file=name, columns=dict(zip(batch.schema.names, columns, strict=True)), rows=rows)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(f"{name}, after row {row - 1}: damaged ({error}).") from error


def _usual(array: pa.Array) -> pa.Array:
    """The same in a type that Arrow can compute with."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    for kind, usual in ((pa.string_view(), pa.string()), (pa.binary_view(), pa.binary()), (pa.float16(), pa.float32())):
        if array.type == kind:
            return array.cast(usual)
    return array
