"""Files of a data set, injured at random: bits flipped, lines cut or doubled, numbers out of any range."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from client.datasets._source import Source
from mmrank.errors import MmrankError
from tests.client.datasets.fixtures_logs import read_logs

LONGEST_SECONDS = 20.0
Injury = tuple[str, float, int]
KINDS = ("flip", "cut", "duplicate", "drop", "nul", "huge", "quote", "blank", "split", "swap")
HUGE = (b"9" * 400, b"1e999", b"-1e300", b"99999999999999999999", b"nan", b"0.5", b"1e18")
INJURIES = st.lists(
    st.tuples(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6
)


def injured(text: bytes, injuries: Iterable[Injury]) -> bytes:
    """The bytes of a file after each of those, at a place that is a share of its length."""
    for kind, share, value in injuries:
        at = int(share * len(text))
        start, end = text.rfind(b"\n", 0, at) + 1, text.find(b"\n", at) + 1 or len(text)
        before, line, after = text[:start], text[start:end], text[end:]
        if kind == "flip":
            text = text[:at] + bytes([value]) + text[at + 1 :]
        elif kind == "cut":
            text = text[:at]
        elif kind == "duplicate":
            text = before + line * (2 + value % 3) + after
        elif kind == "drop":
            text = before + after
        elif kind in ("nul", "quote", "blank", "split"):
            text = (
                text[:at]
                + {"nul": b"\0", "quote": b"\"'"[value % 2 :][:1], "blank": b"\n\n", "split": b"\t"}[kind]
                + text[at:]
            )
        elif kind == "huge":
            digits = len(line) - len(line.lstrip(b"0123456789"))
            text = before + (line[:digits] if value % 2 else b"") + HUGE[value % len(HUGE)] + line[digits:] + after
        else:  # two fields of a line for one another
            mark = b"\t" if b"\t" in line else b"," if b"," in line else b":"
            fields = line.split(mark)
            text = before + mark.join(fields[1:] + fields[:1]) + after
    return text


@cache
def bytes_of(write: Callable[[Path], None]) -> Mapping[str, bytes]:
    """What a fixture writes, by path."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def read_injured(
    module: Any, write: Callable[[Path], None], file: int, injuries: Iterable[Injury], **settings: Any
) -> Source | MmrankError:
    """What a reader makes of a fixture one of whose files is injured: a source, or an error that is meant; in time."""
    files = dict(bytes_of(write))
    name = list(files)[file % len(files)]
    files[name] = injured(files[name], injuries)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for relative, content in files.items():
            path = Path(folder) / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        try:
            made: Source | MmrankError = read_logs(module, Path(folder).resolve(), **settings)
        except MmrankError as error:
            made = error
    assert time.monotonic() - began < LONGEST_SECONDS
    return made
