"""Events as JSON lines or CSV, from a shop's log and to a person: the same columns both ways."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TextIO

from client._event_records import COLUMNS, LoggedEvent
from mmrank.errors import DatasetError, nearest

Form = Literal["jsonl", "csv"]
FORMS: tuple[Form, ...] = ("jsonl", "csv")

NEEDED = ("user", "item", "time", "type")
_KNOWN = (*COLUMNS, "time")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def form_of(path: Path) -> Form:
    """By the file's suffix. Raises DatasetError for another than .jsonl and .csv."""
    for form in FORMS:
        if path.suffix.lower() == f".{form}":
            return form
    raise DatasetError(f"Expected {path.name} to end in .jsonl or .csv, which says how events are written; rename it.")


def days_of(text: str) -> float:
    """Days since 1970-01-01 UTC of a number of them, or of an ISO 8601 time with its offset.

    Raises ValueError for anything else: a time without an offset is not guessed.

    >>> days_of("1970-01-02T18:00:00+06:00"), days_of("20000.5")
    (1.5, 20000.5)
    """
    with suppress(ValueError):
        return float(text)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("no offset")
    return (moment - _EPOCH) / timedelta(days=1)


def moment_of(days: float) -> str:
    """The same moment in ISO 8601, to the second.

    >>> moment_of(1.5)
    '1970-01-02T12:00:00Z'
    """
    return (_EPOCH + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")


def read_events(path: Path) -> Iterator[LoggedEvent]:
    """The events of a .jsonl or .csv file, one by one, not yet checked.

    Columns: user, item, type and time (or time_days) are needed, query, slate, position, propensity and key may be
    left out or empty. Raises DatasetError (file and line) for what can't be read.
    """
    form = form_of(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from (_csv if form == "csv" else _jsonl)(file, path.name)
    except OSError as error:
        raise DatasetError(f"{path} can't be read ({error.strerror}); name a file of events.") from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8; write it in UTF-8.") from error


def write_events(path: Path, events: Iterable[LoggedEvent], *, form: Form | None) -> int:
    """Write a file that its owner alone reads, whole or not at all; how many events it holds.

    form: by the suffix of `path` if None. Raises DatasetError where it can't be written; a file of that name is then
    as it was.
    """
    form = form or form_of(path)
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.unlink(missing_ok=True)  # of a process that was killed here
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8", newline="") as to:
            count = _write(to, events, form)
            to.flush()
            os.fsync(to.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise DatasetError(
            f"{path} can't be written ({error.strerror}); name a file in a folder of yours, on a disk with room."
        ) from error
    finally:
        with suppress(OSError):
            draft.unlink()
    return count


def _write(to: TextIO, events: Iterable[LoggedEvent], form: Form) -> int:
    table, count = csv.writer(to), 0  # it ends lines by \r\n, and so quotes either letter inside of them
    if form == "csv":
        table.writerow(COLUMNS)
    for event in events:
        values = [getattr(event, name) for name in COLUMNS]
        if form == "csv":
            table.writerow(values)
        else:
            to.write(f"{json.dumps(dict(zip(COLUMNS, values, strict=True)), ensure_ascii=False)}\n")
        count += 1
    return count


def _csv(file: TextIO, name: str) -> Iterator[LoggedEvent]:
    table = csv.DictReader(file, strict=True)
    try:
        _check_columns(table.fieldnames or (), f"{name}, line 1")
        for row in table:
            where = f"{name}, line {table.line_num}"
            if None in row or None in row.values():
                raise DatasetError(f"{where} has more or fewer fields than the header; quote fields that hold commas.")
            yield _event({field: value for field, value in row.items() if value != ""}, where)
    except csv.Error as error:
        raise DatasetError(f"{name}, line {table.reader.line_num} is no CSV ({error}); quote it.") from error


def _jsonl(file: TextIO, name: str) -> Iterator[LoggedEvent]:
    for number, line in enumerate(file, 1):
        where = f"{name}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DatasetError(f"{where} is no JSON; write one object a line.") from error
        if not isinstance(row, dict):
            raise DatasetError(f'{where} is no JSON object; write one a line, such as {{"user": "7", ...}}.')
        _check_columns(row, where)
        yield _event({field: value for field, value in row.items() if value is not None}, where)


def _check_columns(names: Iterable[str], where: str) -> None:
    names = [*names]
    for name in names:
        if name not in _KNOWN:
            raise DatasetError(
                f"{where}: unknown column {name[:40]!r}; known are {', '.join(_KNOWN)}.{nearest(name, _KNOWN)} "
                "Leave others out."
            )
    if len({*names}) < len(names) or {"time", "time_days"} <= {*names}:
        raise DatasetError(f"{where}: a column is there twice (time and time_days are one); leave one out.")
    missing = [name for name in NEEDED if name not in names and not (name == "time" and "time_days" in names)]
    if missing:
        raise DatasetError(f"{where}: no column {', '.join(missing)}; name the columns user, item, time and type.")


def _event(row: Mapping[str, Any], where: str) -> LoggedEvent:
    values = dict(row)
    for name, number in (("time", days_of), ("time_days", days_of), ("position", int), ("propensity", float)):
        if isinstance(values.get(name), str):
            try:
                values[name] = number(values[name])
            except ValueError as error:
                raise DatasetError(
                    f"{where}: {name}={values[name][:40]!r} can't be read; a time is a number of days since 1970-01-01 "
                    "UTC, or ISO 8601 with its offset (2026-03-01T12:30:00Z); position and propensity are numbers."
                ) from error
    if "time" in values:
        values["time_days"] = values.pop("time")
    return LoggedEvent(**{"user": "", "item": "", "time_days": math.nan, "type": "", **values})
