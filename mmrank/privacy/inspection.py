"""A look at a ledger file that changes nothing: where each ledger stands, whether it is whole, its entries with hashes.

An export is JSON lines that anybody can verify without this file: for each ledger a `promise`, then its entries. It
names the data and holds the salts: it is for the owner and an auditor, not for the server.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmrank.errors import ConfigError, PrivacyError
from mmrank.privacy import _admission, _chain, _guard, _records, _schema, _verify
from mmrank.privacy._chain import Head
from mmrank.privacy._standing import Standing, standing
from mmrank.privacy._verify import Fault
from mmrank.privacy._witness import Witness
from mmrank.privacy.policy import Policy

__all__ = ["Fault", "Looked", "export", "faults", "faults_of_export", "look", "new_witness", "reading"]

PROMISE = "promise"


@dataclass(frozen=True, kw_only=True)
class Looked:
    """One ledger: the data's identity, its promise, and where it stands at the given time."""

    key: str
    policy: Policy
    standing: Standing


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that can't write to the file; a file of an older format is read by way of a copy in memory.

    Raises ConfigError where it is no ledger.
    """
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        ) as connection:
            if _schema.is_current(connection):
                yield connection
                return
            with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
                connection.backup(copy)
                _schema.check_old(copy, path)
                _schema.prepare(copy, path, durable=False)
                yield copy
    except sqlite3.DatabaseError as error:
        raise ConfigError(
            f"{path} can't be read as a ledger ({error}); give a run's folder or a ledger's file."
        ) from error


@contextmanager
def _snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is read inside stood there at one moment."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def look(connection: sqlite3.Connection, *, clock_days: float) -> list[Looked]:
    """Every ledger of the file, by key, at that time (days since 1970-01-01 UTC). PrivacyError where one is damaged."""
    with _snapshot(connection):
        rows = _records.every(connection)
        _records.find(connection, [row.key for row in rows])
        histories = _records.histories(connection, rows)
    found = []
    for row in rows:
        period = _admission.current_period(row, row.policy, clock_days)
        found.append(
            Looked(key=row.key, policy=row.policy, standing=standing(row, histories[row.id], row.policy, period=period))
        )
    return found


def faults(connection: sqlite3.Connection, path: Path, heads: Mapping[str, Head]) -> list[Fault]:
    """What is wrong with the file, or with it against its witness and the `heads` that were acknowledged, by key."""
    seen = Witness(path).read()  # before the file, which is always ahead of it
    with _snapshot(connection):
        found = _verify.faults(connection)
        if found:
            return found
        try:
            _guard.check_witness(connection, path, seen)
        except PrivacyError as error:
            found.append(Fault(key="", position=0, message=str(error)))
        rows = {row.key: row for row in _records.every(connection)}
        for key, head in heads.items():
            if not _admission.knows(connection, rows.get(key), head):
                message = f"entry {head[0]} ({head[1][:12]}), acknowledged, is not there"
                found.append(Fault(key=key, position=head[0], message=message))
    return found


def new_witness(connection: sqlite3.Connection, path: Path) -> None:
    """Make a new witness where the old one is lost. Raises PrivacyError where the file does not hold together, or
    where the witness is whole and says that charges were lost."""
    found = _verify.faults(connection)
    if found:
        raise PrivacyError(f"{path} is damaged: {found[0].message}; put back the newest whole copy of the file.")
    seen = Witness(path).read()
    if seen is not None:
        _guard.check_witness(connection, path, seen)
    Witness(path).create(_records.newest(connection))


def export(connection: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    """Each ledger's promise, then its entries, as JSON values; the hashes are those that lie in the file."""
    with _snapshot(connection):
        rows = {row.id: row for row in _records.every(connection)}
        for ledger, entries in _verify.stored_entries(connection):
            row = rows[ledger]
            promise = _chain.promise_fields(row.key, row.salt, row.policy, row.order)
            yield {"data": row.key, "position": 0, "kind": PROMISE, **promise, "hash": row.genesis}
            for stored in entries:
                yield {"data": row.key, "position": stored.position, **stored.entry.fields(), "hash": stored.hash}


def faults_of_export(lines: Iterable[Mapping[str, Any]], heads: Mapping[str, Head]) -> list[Fault]:
    """The first wrong line of each ledger of an export, and the acknowledged `heads` that it lacks."""
    found: dict[str, Fault] = {}
    hashes: dict[str, list[str]] = {}
    for line in lines:
        key, position = str(line.get("data")), line.get("position")
        chain = hashes.setdefault(key, [])
        try:
            if position != len(chain) or (position == 0) != (line["kind"] == PROMISE):
                raise ValueError(f"entry {len(chain)} is missing or out of its place")
            if position == 0:
                fields = {
                    name: value for name, value in line.items() if name not in ("data", "position", "kind", "hash")
                }
                if fields["key_sha256"] != _chain.digest(key):
                    raise ValueError("the promise is that of other data")
                expected = _chain.genesis_of(fields)
            else:
                expected = _chain.exported_hash(chain[-1], line)
            if line["hash"] != expected:
                raise ValueError(f"the hash of entry {position} does not follow from what stands there")
        except (KeyError, ValueError, IndexError) as error:
            found.setdefault(key, Fault(key=key, position=len(chain), message=f"{error}"))
        chain.append(str(line.get("hash")))
    for key, (count, digest) in heads.items():
        chain = hashes.get(key, [])
        if count and (count >= len(chain) or chain[count] != digest):
            found.setdefault(key, Fault(key=key, position=count, message=f"entry {count}, acknowledged, is not there"))
    return list(found.values())
