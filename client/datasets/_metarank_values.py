"""What Metarank's events hold, one value at a time: ids, timestamps, the values of fields."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson

from client.datasets._reading.items import LONGEST_ID

SECONDS = 1e11
"""A smaller number of milliseconds is of before 1973, so it is one of seconds."""
LARGEST = 1e30
NAN = float("nan")
BETWEEN = "\x1f"


def days(value: Any) -> float:
    """A timestamp as days since 1970, NaN where it is none.

    >>> days("1599391467000") == days("2020-09-06T11:24:27Z") == days(1599391467), days("soon")
    (True, nan)
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return NAN
    try:
        number = float(value)
    except ValueError:
        pass
    else:
        return number / 86_400 if abs(number) < SECONDS else number / 86_400e3
    try:
        found = datetime.fromisoformat(str(value))
    except ValueError:
        return NAN
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() / 86_400


def name_of(value: Any) -> str | None:
    """An id, which some write as a number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        return None
    name = str(value).strip()
    return name if 0 < len(name) <= LONGEST_ID and name.isprintable() else None


def text_of(value: Any) -> str:
    """A value of a field, BETWEEN the elements of a list.

    >>> text_of(["blue", "black"]), text_of(25.0), text_of(True), text_of(None)
    ('blue\\x1fblack', '25.0', 'true', '')
    """
    found = [_word(element) for element in (value if isinstance(value, list) else [value])]
    return BETWEEN.join(word for word in found if word)


def _word(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    return orjson.dumps(value).decode() if isinstance(value, (bool, int, float)) else ""


def float_of(value: Any) -> float:
    """NaN for what is no number, or more than single precision holds."""
    if value is None:
        return NAN
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < LARGEST
    return float(value) if good else NAN
