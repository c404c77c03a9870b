"""The tables of a ledger file, and how an older file becomes one of today."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from mmrank.errors import PrivacyError
from mmrank.privacy import _chain
from mmrank.privacy._chain import CHARGE, Entry
from mmrank.privacy._composition import default_plan
from mmrank.privacy._records import append, begin
from mmrank.privacy.accountant import Event
from mmrank.privacy.policy import Policy
from mmrank.privacy.renyi_filter import order_for

VERSION = 2
_TABLES = {"file", "ledgers", "events", "entries", "totals"}
_OLD_TABLES = {"ledgers", "charges"}

# entries: written once. ledgers.entries, head, newest, period, clock_went_back, opted_out and totals follow from
# them, and are kept so that a charge costs the same after a thousand rounds. `previous` is the row of the entry
# before: a list from the newest back needs no second index, whose pages would lie all over the file.
_SCHEMA = """
CREATE TABLE file (durable INTEGER NOT NULL) STRICT;
INSERT INTO file VALUES (0);
CREATE TABLE ledgers (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, salt TEXT NOT NULL,
    mechanism TEXT NOT NULL, unit TEXT NOT NULL, delta REAL NOT NULL, budget REAL NOT NULL,
    renew_every_days REAL, retention_days REAL, filter_order REAL NOT NULL,
    entries INTEGER NOT NULL DEFAULT 0, head TEXT NOT NULL, newest INTEGER, period INTEGER NOT NULL DEFAULT 0,
    clock_went_back INTEGER NOT NULL DEFAULT 0, opted_out INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE events (
    id INTEGER PRIMARY KEY, sampling_rate REAL NOT NULL, noise_multiplier REAL NOT NULL, steps INTEGER NOT NULL,
    family TEXT NOT NULL, plan TEXT NOT NULL, UNIQUE (sampling_rate, noise_multiplier, steps, family, plan)) STRICT;
CREATE TABLE entries (
    id INTEGER PRIMARY KEY, ledger INTEGER NOT NULL REFERENCES ledgers (id), position INTEGER NOT NULL,
    previous INTEGER, kind TEXT NOT NULL, charge BLOB, event INTEGER REFERENCES events (id),
    period INTEGER NOT NULL, clock_period INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
CREATE UNIQUE INDEX entries_by_charge ON entries (charge, ledger) WHERE charge IS NOT NULL;
CREATE TABLE totals (
    ledger INTEGER NOT NULL REFERENCES ledgers (id), period INTEGER NOT NULL,
    event INTEGER NOT NULL REFERENCES events (id), charges INTEGER NOT NULL,
    PRIMARY KEY (ledger, period, event)) WITHOUT ROWID, STRICT;
"""

_APPEND_ONLY = """
CREATE TRIGGER {table}_keep_{verb} BEFORE {event} ON {table}
BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END;
"""
_KEPT = [
    ("entries", "UPDATE"),
    ("entries", "DELETE"),
    ("events", "UPDATE"),
    ("events", "DELETE"),
    ("ledgers", "DELETE"),
]
_PROMISE = "UPDATE OF key, salt, mechanism, unit, delta, budget, renew_every_days, retention_days, filter_order"


def prepare(connection: sqlite3.Connection, path: Path, *, durable: bool) -> None:
    """Make the tables of a new file, or those of today out of an older one's, in one transaction.

    Raises PrivacyError where the file belongs to somebody else or to a newer version.
    """
    if _version(connection) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        _migrate(connection, path, durable=durable)
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def is_current(connection: sqlite3.Connection) -> bool:
    """Whether the file has the tables of today."""
    return _version(connection) == VERSION and _tables(connection) >= _TABLES


def check_old(connection: sqlite3.Connection, path: Path) -> None:
    """Raise PrivacyError unless the file is an older ledger."""
    if _version(connection) != 0 or _tables(connection) != _OLD_TABLES:
        raise _foreign(connection, path)


def _foreign(connection: sqlite3.Connection, path: Path) -> PrivacyError:
    version, tables = _version(connection), sorted(_tables(connection))
    return PrivacyError(
        f"{path} can't be opened: no ledger of this version (format {version}, tables {tables[:5]}); name another file "
        "in the settings, or use the version of mmrank that wrote it. Keep this one."
    )


def _migrate(connection: sqlite3.Connection, path: Path, *, durable: bool) -> None:
    version, tables = _version(connection), _tables(connection)
    if version == VERSION and tables >= _TABLES:
        return  # another process was first
    if version != 0 or tables not in (set(), _OLD_TABLES):
        raise _foreign(connection, path)
    if tables:
        connection.execute("ALTER TABLE ledgers RENAME TO old_ledgers")
    for statement in _SCHEMA.split(";\n"):
        connection.execute(statement)
    if tables:
        _chain_old(connection, durable=durable)
    for table, verb in _KEPT:
        connection.execute(_APPEND_ONLY.format(table=table, verb=verb.lower(), event=verb))
    connection.execute(_APPEND_ONLY.format(table="ledgers", verb="promise", event=_PROMISE))
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _chain_old(connection: sqlite3.Connection, *, durable: bool) -> None:
    """The charges of format 1 had neither hashes nor plans: they are chained in the order they were written in."""
    for row, key, mechanism, unit, delta, budget in connection.execute(
        "SELECT * FROM old_ledgers ORDER BY id"
    ).fetchall():
        policy = Policy(mechanism=mechanism, unit=unit, delta=delta, budget_epsilon=budget)
        charges = connection.execute(
            "SELECT charge, sampling_rate, noise_multiplier, steps FROM charges WHERE ledger = ? ORDER BY id", (row,)
        ).fetchall()
        if not charges:
            continue
        events = [Event(sampling_rate=rate, noise_multiplier=noise, steps=steps) for _, rate, noise, steps in charges]
        account = begin(connection, key, policy, order_for(events[0], budget, delta), secret_salt=durable)
        for (charge, *_), event in zip(charges, events, strict=True):
            plan = default_plan(event)
            entry = Entry(kind=CHARGE, charge=_chain.digest(charge), event=event, plan=plan)
            account = append(connection, account, entry)
    connection.execute("DROP TABLE charges")
    connection.execute("DROP TABLE old_ledgers")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
