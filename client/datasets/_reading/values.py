"""From columns as they stand in files to ids, numbers, prices and times; what can't be read is told, not guessed.

Every function takes a pyarrow array of n values and gives numpy arrays of length n.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mmrank.errors import ConfigError, DatasetError

UNITS: dict[str, float] = {"s": 86_400.0, "ms": 86_400e3, "us": 86_400e6, "ns": 86_400e9, "days": 1.0}
"""How many of each are a day."""
NONE = -1
"""The number of no name."""
LARGEST = float(np.finfo(np.float32).max)
"""Of a number: what is beyond it is infinite wherever 32 bits hold it."""
_AT_ONCE = 65_536
_LARGEST_TIME = {"days": 1e5, "yyyymmdd": 3e7, "s": 1e11, "ms": 1e14, "us": 1e17}
"""A number up to here is taken for one in that unit: until the year 2243, or 5138 in seconds."""

_NUMBER = r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$"
_INTEGRAL = r"^([-+]?\d+)\.0*$"
_DATE_TIME = r"^\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?)?$"
_ZONE = r" ?(Z|UTC|GMT|[-+]\d{2}(:?\d{2})?)$"
_ZONED = r"^\d{4}-\d{2}-\d{2}[T ]\d{2}:.*\d" + _ZONE
_OTHER_TIMES = (
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%Y%m%d",
    "%m/%d/%Y %I:%M:%S %p",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%Y年%m月%d日",
)
"""Tried after ISO 8601, one after another on what is left; a day before a month between slashes is never guessed."""


def text(array: pa.Array) -> pa.StringArray:
    """As text without white space around it; '' where absent. A whole number that a table holds as a float is one; the
    texts of a list stand side by side.

    >>> text(pa.array([7.0, None, 2.5])).to_pylist()
    ['7', '', '2.5']
    >>> text(pa.array([["warm", "red"], None])).to_pylist()
    ['warm red', '']
    """
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    if not pa.types.is_string(array.type):
        array = _as_text(array)
    return pc.fill_null(pc.utf8_trim_whitespace(array), "")


def _as_text(array: pa.Array) -> pa.StringArray:
    """Of what is no text; null where absent."""
    kind = array.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.array([_decoded(item) for item in array.to_pylist()], pa.string())
    if pa.types.is_nested(kind):
        return pa.array([_side_by_side(item) for item in array.to_pylist()], pa.string())
    if pa.types.is_floating(kind):
        known = pc.and_(pc.is_finite(array), pc.less(pc.abs(array), 2.0**63))
        whole = pc.and_(known, pc.equal(array, pc.floor(array)))
        integers = pc.cast(pc.cast(pc.if_else(whole, array, None), pa.int64(), safe=False), pa.string())
        written = pc.if_else(pc.is_nan(array), None, pc.cast(array, pa.string()))
        return pc.coalesce(integers, written)  # Arrow writes 1e16 with an exponent, and another table would not
    written = pc.cast(array, pa.string())
    return pc.replace_substring_regex(written, _INTEGRAL, r"\1") if pa.types.is_decimal(kind) else written


def _decoded(item: bytes | None) -> str | None:
    """Text, or hexadecimal digits where it is none: to replace what can't be read would make two ids one."""
    if item is None:
        return None
    try:
        return item.decode()
    except UnicodeDecodeError:
        return item.hex()


def _side_by_side(item: object) -> str | None:
    if isinstance(item, list):
        return " ".join(str(inner) for inner in item if inner is not None)
    return None if item is None else str(item)


@dataclass
class Names:
    """Numbers for texts: people, queries, groups; shared by the tables of a data set, so that a name has one number.

    Blocks are encoded one by one, and brought together once: to look each name up as it comes costs more than reading.
    """

    _known: pa.StringArray = field(default_factory=lambda: pa.array([], pa.string()))

    def __len__(self) -> int:
        return len(self._known)

    def codes(self, blocks: Sequence[pa.DictionaryArray]) -> np.ndarray:
        """int32 [n], of all values of the blocks in their order; NONE for '' and null. New names get new numbers."""
        if not blocks:
            return np.zeros(0, np.int32)
        before = pa.DictionaryArray.from_arrays(pa.array([], pa.int32()), self._known)
        chunks = pa.chunked_array([before, *(_without_blank(block) for block in blocks)]).unify_dictionaries().chunks
        self._known = chunks[-1].dictionary
        if len(self._known) >= 2**31:
            raise DatasetError(f"{len(self._known)} different names; at most {2**31 - 1}.")
        found = [pc.fill_null(chunk.indices, NONE).to_numpy(zero_copy_only=False) for chunk in chunks[1:]]
        return np.concatenate(found).astype(np.int32, copy=False)

    def names(self) -> Texts:
        """By number."""
        return Texts(self._known)


class Texts(Sequence[str]):
    """Strings in an Arrow array: a fifth of the memory of a tuple."""

    def __init__(self, array: pa.StringArray) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Texts: ...
    def __getitem__(self, index: int | slice) -> str | Texts:
        return Texts(self.array[index]) if isinstance(index, slice) else self.array[index].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self.array), _AT_ONCE):
            yield from self.array.slice(start, _AT_ONCE).to_pylist()


def encoded(array: pa.Array) -> pa.DictionaryArray:
    """The column as text, each different one once."""
    return text(array).dictionary_encode()


def _without_blank(block: pa.DictionaryArray) -> pa.DictionaryArray:
    """Null where the text is ''."""
    place = pc.index(block.dictionary, "").as_py()
    if place < 0:
        return block
    indices = pc.if_else(pc.equal(block.indices, place), None, block.indices)
    return pa.DictionaryArray.from_arrays(indices, block.dictionary)


def _alone(array: pa.Array) -> pa.Array:
    """Of lists the one that each holds; a list of several is no number, however it is written."""
    if not pa.types.is_nested(array.type):
        return array
    rows = [item if isinstance(item, list) else [str(item)] for item in array.to_pylist()]
    return pa.array([str(row[0]) if len(row) == 1 else "several" if row else None for row in rows], pa.string())


def numbers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """(float64 [n], NaN where absent or no number; bool [n], True for what is there and is no number of 32 bits)."""
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.int8())
    if _is_number(array.type):
        found = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        absent = array.is_null().to_numpy(zero_copy_only=False) | np.isnan(found)
        known = np.abs(found) <= LARGEST
        return np.where(known, found, np.nan), ~absent & ~known
    written = text(_alone(array))
    try:
        found = pc.cast(written, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid:  # one is none: look at each
        pass
    else:
        known = np.abs(found) <= LARGEST
        return np.where(known, found, np.nan), ~known
    there = pc.not_equal(written, "")
    good = pc.match_substring_regex(written, _NUMBER)
    found = pc.cast(pc.if_else(good, written, None), pa.float64()).to_numpy(zero_copy_only=False)
    known = np.abs(found) <= LARGEST
    return np.where(known, found, np.nan), there.to_numpy(zero_copy_only=False) & ~known


def prices(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """As `numbers`, above or equal 0; a currency may stand beside the number, and thousands may be marked.

    >>> prices(pa.array(["$1,299.00", "12,99 €", "1.299,50", "¥88", "free", "-1", ""]))[0].tolist()
    [1299.0, 12.99, 1299.5, 88.0, nan, nan, nan]
    """
    if _is_number(array.type):
        found, bad = numbers(array)
    else:
        array = text(_alone(array))
        bare = pc.replace_substring_regex(array, r"^[^\d\-+.]{1,5}|[^\d.]{1,5}$", "")
        bare = pc.replace_substring_regex(bare, r"[\s' ]", "")
        comma = pc.match_substring_regex(bare, r"^\d{1,3}(\.\d{3})+,\d+$|^\d+,\d{1,2}$")
        points = pc.replace_substring(pc.replace_substring(bare, ".", ""), ",", ".")
        bare = pc.if_else(comma, points, pc.replace_substring_regex(bare, r",(\d{3})", r"\1"))
        found, _ = numbers(bare)
        bad = pc.not_equal(array, "").to_numpy(zero_copy_only=False) & np.isnan(found)
    negative = found < 0
    return np.where(negative, np.nan, found), bad | negative


def times(array: pa.Array, unit: str = "auto") -> tuple[np.ndarray, np.ndarray]:
    """(float64 [n], days since 1970-01-01 UTC, NaN where none; bool [n], True for what is there and is no time).

    Numbers are in `unit`, which `auto` tells from their median: see unit_of. Text is ISO 8601, or one of _OTHER_TIMES.
    A time without a zone is taken as UTC. Raises ConfigError for an unknown unit.
    """
    if unit not in ("auto", "yyyymmdd", *UNITS):
        raise ConfigError(f"Expected time_unit={unit!r} to be one of auto, yyyymmdd, {', '.join(UNITS)}.")
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        micros = pc.cast(array, pa.timestamp("us", tz=getattr(array.type, "tz", None)), safe=False)
        found = _days(pc.cast(micros, pa.int64()))
        return found, np.zeros(len(found), bool)
    if not _is_number(array.type):
        array = text(array)
    found, bad = numbers(array) if _numeric(array) else _texts(array)
    if _numeric(array):
        unit = unit_of(found) if unit == "auto" else unit
        if unit == "yyyymmdd":
            found, bad = _texts(text(array))
        else:
            found = found / UNITS[unit]
    return found, bad


def time_unit(array: pa.Array) -> str:
    """The unit of a column of times: see unit_of; `auto` where it is no column of numbers, or none is known yet."""
    if not _is_number(array.type):
        array = text(array)
    found = numbers(array)[0] if _numeric(array) else np.zeros(0)
    return unit_of(found) if np.isfinite(found).any() else "auto"


def unit_of(values: np.ndarray) -> str:
    """The unit in which the median of those numbers is a time since 1970: days up to 1e5, YYYYMMDD up to 3e7, then
    seconds, milli-, micro- and nanoseconds.

    >>> [unit_of(np.array([value])) for value in (19_000, 20240131, 1.7e9, 1.7e12, 1.7e15, 1.7e18)]
    ['days', 'yyyymmdd', 's', 'ms', 'us', 'ns']
    """
    known = values[np.isfinite(values)]
    median = float(np.median(np.abs(known))) if len(known) else 0.0
    return next((unit for unit, largest in _LARGEST_TIME.items() if median <= largest), "ns")


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _numeric(array: pa.Array) -> bool:
    """Whether it holds numbers, as such or, nearly all, as text."""
    if _is_number(array.type):
        return True
    some = array.slice(0, 1000)
    some = some.filter(pc.invert(pc.is_in(pc.utf8_lower(some), pa.array(["", "nan", "null", "none"]))))
    return bool(len(some)) and pc.mean(pc.match_substring_regex(some, _NUMBER)).as_py() > 0.5


def _texts(written: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    found = np.full(len(written), np.nan)
    zoned = pc.match_substring_regex(written, _ZONED)
    plain = pc.replace_substring_regex(written, _ZONE, "")
    plain = pc.if_else(zoned, plain, written)
    iso = pc.match_substring_regex(plain, _DATE_TIME)
    found = _stamps(pc.if_else(iso, plain, None))
    if pc.any(zoned).as_py():
        found -= _offsets(pc.if_else(zoned, pc.utf8_slice_codeunits(written, -6), None))
    left = np.isnan(found) & pc.not_equal(written, "").to_numpy(zero_copy_only=False)
    for form in _OTHER_TIMES:
        if not left.any():
            break
        rest = written.filter(pa.array(left))
        read = pc.strptime(rest, format=form, unit="us", error_is_null=True)
        if read.null_count < len(read):
            found[left] = _days(pc.cast(read, pa.int64()))
            left = left & np.isnan(found)
    return found, left


def _stamps(written: pa.StringArray) -> np.ndarray:
    """Days of ISO texts; a day that no month has (2024-02-31) is none."""
    try:
        return _days(pc.cast(pc.cast(written, pa.timestamp("ns")), pa.int64()), 86_400e9)
    except pa.ArrowInvalid:
        read = [_stamp(value) for value in written.to_pylist()]
        return np.array(read, np.float64)


def _stamp(value: str | None) -> float:
    try:
        return float(np.datetime64(value, "us").astype(np.int64)) / 86_400e6 if value else np.nan
    except ValueError:
        return np.nan


def _offsets(zones: pa.StringArray) -> np.ndarray:
    """Days east of Greenwich of the last six letters of a time; 0 for Z and where there is none."""
    encoded = zones.dictionary_encode()
    table = np.array([_offset(zone or "") for zone in encoded.dictionary.to_pylist()] + [0.0])
    index = pc.fill_null(encoded.indices, len(table) - 1).to_numpy(zero_copy_only=False)
    return table[index]


def _offset(zone: str) -> float:
    """
    >>> _offset("+08:00") * 24, _offset(":00-05") * 24, _offset("00 UTC")
    (8.0, -5.0, 0.0)
    """
    digits = "".join(letter for letter in zone[zone.rfind("+" if "+" in zone else "-") + 1 :] if letter.isdigit())
    if zone.endswith(("Z", "UTC", "GMT")) or len(digits) not in (2, 4):
        return 0.0
    days = (int(digits[:2]) * 60 + int(digits[2:] or 0)) / 1440
    return -days if "+" not in zone else days


def _days(array: pa.Array, units: float = 86_400e6) -> np.ndarray:
    return pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False) / units


def strings(array: pa.Array) -> list[str]:
    """Python strings, '' where absent."""
    return text(array).to_pylist()


def joined(parts: Iterable[list[str]], *, between: str) -> list[str]:
    """Texts of several columns as one, what is blank left out.

    >>> joined([["Boots", ""], ["warm", "red"]], between=". ")
    ['Boots. warm', 'red']
    """
    return [between.join(part for part in row if part) for row in zip(*parts, strict=True)]
