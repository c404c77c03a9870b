"""Files under one root: found by name or pattern, never outside of it, opened as streams of UTF-8."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from client.datasets._reading.findings import Findings
from mmrank.errors import ConfigError, DatasetError, nearest

ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".tar.gz")
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""Byte order marks; they name the encoding, whatever the configuration says."""
PACKINGS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
"""How a file is packed, by the end of its name."""
CHUNK = 1 << 20
LONGEST_LINE = 16 << 20
"""Bytes. A file that unpacks to one endless line must not fill the memory."""
_SHOWN_COLUMNS, _SHOWN_LETTERS = 30, 60
_COMPARED = 10_000
"""Names of files among which a mistyped one is looked for: a folder may hold a million pictures."""


def data_root(root: str | Path | None, *, holds: str) -> Path:
    """`root` as a folder that exists, its links followed. Raises ConfigError that says what it should hold."""
    remedy = f"set it to the folder that holds {holds}: --set dataset.root=PATH."
    if not root:
        raise ConfigError(f"Expected dataset.root={root!r} to be a folder; {remedy}")
    folder = Path(root).expanduser()
    if folder.is_file():
        packed = "an archive: unpack it, and " if folder.name.lower().endswith(ARCHIVES) else ""
        raise ConfigError(
            f"Expected dataset.root={str(folder)!r} to be a folder, and it is {packed or 'a file; '}{remedy}"
        )
    if not folder.is_dir():
        raise ConfigError(f"Expected dataset.root={str(folder)!r} to be a folder that exists; {remedy}")
    return folder.resolve()


def within(root: Path, relative: str | Path) -> Path | None:
    """The file `relative` to the resolved folder `root`; None where it leads out of it, by `..`, a link or a device,
    or nowhere: by links in a circle, or a name that no disk takes.
    """
    try:
        path = (root / relative).resolve()
    except (OSError, RuntimeError, ValueError):
        return None
    return path if path.is_relative_to(root) else None


def shards(root: Path, pattern: str) -> tuple[Path, ...]:
    """The files of a table, sorted by name: one file, all files of a folder, or those that a pattern meets.

    Raises DatasetError where there is none, where one leads out of the root, and for an archive.
    """
    if within(root, pattern.split("*", 1)[0]) is None or Path(pattern).is_absolute():
        raise DatasetError(
            f"{pattern[:200]!r}: leads out of {root}, or nowhere; a data set reads its own folder alone."
        )
    try:
        found, what = _named(root, pattern)
    except (OSError, ValueError) as error:  # longer than a name may be, or ** beside letters
        raise DatasetError(f"{pattern[:200]!r}: no name or pattern of files ({error.args[-1]}).") from None
    if not found:
        raise DatasetError(f"{root}: {what}")
    for item in found:
        if within(root, item.relative_to(root)) is None:
            raise DatasetError(f"{item.relative_to(root)}: a link that leads out of {root}; copy the file into it.")
        if item.name.lower().endswith(ARCHIVES):
            raise DatasetError(f"{item.relative_to(root)}: an archive, where a table should be; unpack it.")
    return tuple(found)


def _named(root: Path, pattern: str) -> tuple[list[Path], str]:
    """(the files that the pattern names, by name; what is to be said where there are none)."""
    path = root / pattern
    if path.is_dir():
        found = sorted(item for item in path.iterdir() if item.is_file() and not item.name.startswith((".", "_")))
        return found, f"the folder {pattern} holds no file."
    if any(letter in pattern for letter in "*?["):
        return sorted(item for item in root.glob(pattern) if item.is_file()), f"no file is called {pattern}."
    return [path] if path.is_file() else [], f"there is no file {pattern}.{_similar(path)}"


def open_text(path: Path, *, encoding: str, findings: Findings, name: str) -> Utf8Stream:
    """The file, unpacked where its name ends in .gz, .bz2, .zst or .lz4, as UTF-8 without a byte order mark.

    Raises DatasetError for a file that can't be opened, is empty, or an encoding that Python does not know.
    """
    try:
        "".encode(encoding)
    except (LookupError, UnicodeError, ValueError):
        raise ConfigError(
            f"Expected encoding={encoding!r} to be one of text that Python knows, for example gb18030."
        ) from None
    try:
        stream = pa.input_stream(str(path), compression=PACKINGS.get(path.suffix.lower()))
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{name}: can't be opened ({error}).") from error
    return Utf8Stream(stream, encoding=encoding, findings=findings, name=name)


def text_lines(root: Path, pattern: str, *, findings: Findings, encoding: str = "utf-8") -> Iterator[Line]:
    """Every line that is not blank, without its end, of the files `pattern` under root. Raises as `open_text`."""
    for path in shards(root, pattern):
        name = str(path.relative_to(root))
        with open_text(path, encoding=encoding, findings=findings, name=name) as stream:
            for number, raw in enumerate(lines_of(stream, name), 1):
                text = raw.decode("utf-8").rstrip("\r\n")
                if text.strip():
                    yield Line(file=name, number=number, text=text)


def lines_of(stream: Utf8Stream, name: str) -> Iterator[bytes]:
    """Every line with its end. Raises DatasetError for one of more than LONGEST_LINE bytes."""
    reader = io.BufferedReader(stream, CHUNK)
    number = 1
    while line := reader.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise DatasetError(f"{name}, line {number}: a line of more than {LONGEST_LINE >> 20} MB; is it text?")
        yield line
        number += 1


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a text file, counted from 1."""

    file: str
    number: int
    text: str


class Utf8Stream(io.RawIOBase):
    """Bytes of a text file, made valid UTF-8: what its encoding has no character for is replaced, and said.

    newlines: how many were read so far.
    """

    def __init__(self, stream: BinaryIO, *, encoding: str, findings: Findings, name: str) -> None:
        super().__init__()
        self._stream, self._findings, self.name = stream, findings, name
        head = self._take(4)
        if not head:
            raise DatasetError(f"{name}: the file is empty.")
        mark, encoding = next(((mark, known) for mark, known in MARKS if head.startswith(mark)), (b"", encoding))
        self._pending = head[len(mark) :]
        self.encoding = codecs.lookup(encoding).name
        self._strict = codecs.getincrementaldecoder(self.encoding)("strict")
        self.newlines = 0
        self._left = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview | bytearray) -> int:  # type: ignore[override]
        while not self._left and not self._ended:
            self._left = self._next()
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def _take(self, size: int) -> bytes:
        try:
            return self._stream.read(size)
        except (OSError, pa.ArrowException) as error:
            raise DatasetError(f"{self.name}: can't be read to its end ({error}); is it cut off?") from error

    def _next(self) -> bytes:
        raw = self._pending + self._take(CHUNK)
        self._pending = b""
        self._ended = not raw
        before = self._strict.getstate()
        try:
            text = self._strict.decode(raw, final=self._ended)
        except UnicodeDecodeError:
            self._strict.setstate(before)
            text = self._mended(raw)
        else:
            if self.encoding == "utf-8" and not before[0] and not self._strict.getstate()[0]:
                self.newlines += raw.count(b"\n")
                return raw
        made = text.encode("utf-8", "replace")  # UTF-16 may hold half a pair, which UTF-8 has no bytes for
        self.newlines += made.count(b"\n")
        return made

    def _mended(self, raw: bytes) -> str:
        loose = codecs.getincrementaldecoder(self.encoding)("replace")
        loose.setstate(self._strict.getstate())
        text = loose.decode(raw, final=self._ended)
        self._strict.setstate(loose.getstate())
        first = text.find("\ufffd")
        self._findings.add(
            "warning",
            "encoding",
            self.name,
            f"bytes that are not {self.encoding}, replaced by \ufffd; if the file is in another encoding, set it, "
            "for example encoding: gb18030",
            count=text.count("\ufffd"),
            lines=(self.newlines + text.count("\n", 0, first) + 1,),
            by_row=False,
        )
        return text


def _similar(path: Path) -> str:
    names = [item.name for item in islice(path.parent.iterdir(), _COMPARED)] if path.parent.is_dir() else []
    return nearest(path.name, names)


def column_of(name: str, known: Sequence[str], *, file: str) -> str:
    """`name` where the table has it. Raises DatasetError with what it has."""
    if name not in known:
        shown = ", ".join(_shown(column) for column in known[:_SHOWN_COLUMNS])
        shown += ", ..." if len(known) > _SHOWN_COLUMNS else ""
        raise DatasetError(f"{file}, line 1: no column {name!r}; it has: {shown or 'none'}.{nearest(name, known)}")
    return name


def _shown(column: str) -> str:
    """A name as it may stand in a message, whatever stands in the file."""
    printable = "".join(letter if letter.isprintable() else "\ufffd" for letter in column[:_SHOWN_LETTERS])
    return printable + ("..." if len(column) > _SHOWN_LETTERS else "")
