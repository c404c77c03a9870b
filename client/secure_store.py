"""What a client of secure sums remembers, on its own disk: one row for each round that it ever entered.

The row makes what mmrank.secure_sum.client asks of its caller hold: a round has one cohort and goes forward only, its
state is durable before an answer is sent, an older state is never used again, and a lost answer is sent again as it
was. The file holds secret keys: its mode is 0600, and what is deleted is overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from mmrank.errors import SecureSumError
from mmrank.privacy.database import Database
from mmrank.protocol import SumReply, SumRequest, check_code, check_step
from mmrank.secure_sum.sum_round import SumRound

KEPT_ROUNDS = 2
"""A client's newest rounds, whose secrets and answers are kept; of the others the row alone stays, for good."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rounds (
    run TEXT NOT NULL, client TEXT NOT NULL, round INTEGER NOT NULL, cohort TEXT NOT NULL,
    stage TEXT NOT NULL, state BLOB NOT NULL, entered INTEGER NOT NULL,
    PRIMARY KEY (run, client, round)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS newest ON rounds (client, entered);
CREATE TABLE IF NOT EXISTS answers (
    run TEXT NOT NULL, client TEXT NOT NULL, round INTEGER NOT NULL, step TEXT NOT NULL, request TEXT NOT NULL,
    head TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (run, client, round, step)) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A round that the client entered: whom it was told is in it, how far it got, and its secrets as SumClient.save."""

    cohort: tuple[str, ...]
    stage: str
    state: bytes = field(repr=False)


class SecureStore:
    """Rows and answers by (run, client, round), in one file; each change is durable before it returns."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._path = path
        self.database = Database(path, _SCHEMA, durable=durable, before=self._make_private, opened=_overwriting)

    def find(self, run: str, client: str, round_number: int) -> Row | None:
        """The row, or None where the client never entered that round."""
        with self.database.read() as connection:
            found = connection.execute(
                "SELECT cohort, stage, state FROM rounds WHERE run = ? AND client = ? AND round = ?",
                (run, client, round_number),
            ).fetchone()
        return None if found is None else Row(cohort=tuple(json.loads(found[0])), stage=found[1], state=found[2])

    def answer(self, request: SumRequest, client: str) -> SumReply | None:
        """What was answered to that very request, bit for bit, or None where the step was not answered.

        Raises SecureSumError where the step was answered, and the request was another.
        """
        with self.database.read() as connection:
            found = connection.execute(
                "SELECT request, head, body FROM answers WHERE run = ? AND client = ? AND round = ? AND step = ?",
                (request.run, client, request.round_number, request.step),
            ).fetchone()
        if found is None:
            return None
        if found[0] != digest(request):
            raise SecureSumError(
                f"{client} answered the step {request.step} of round {request.round_number} to another request; each "
                "step is answered once."
            )
        return _unpack(found[1], found[2], client, request)

    def enter(self, round_: SumRound, stage: str, state: bytes, request: SumRequest, reply: SumReply) -> None:
        """Begin a round with its first answer. Raises SecureSumError where the client entered it before."""
        client = reply.client
        key = (round_.run, client, round_.round_number)
        with self.database.write() as connection:
            if connection.execute("SELECT 1 FROM rounds WHERE run = ? AND client = ? AND round = ?", key).fetchone():
                raise SecureSumError(
                    f"{client} entered round {round_.round_number} before: a round has one cohort, and a client is in "
                    "it once."
                )
            (last,) = connection.execute(
                "SELECT coalesce(max(entered), 0) FROM rounds WHERE client = ?", (client,)
            ).fetchone()
            connection.execute(
                "INSERT INTO rounds (run, client, round, cohort, stage, state, entered) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*key, json.dumps(round_.cohort), stage, state, last + 1),
            )
            _forget(connection, client, last + 1 - KEPT_ROUNDS)
            _keep(connection, request, reply)

    def advance(self, before: str, stage: str, state: bytes, request: SumRequest, reply: SumReply) -> None:
        """Go from stage `before` to `stage` with an answer. Raises SecureSumError where the row left `before`."""
        key = (request.run, reply.client, request.round_number)
        with self.database.write() as connection:
            moved = connection.execute(
                "UPDATE rounds SET stage = ?, state = ? WHERE run = ? AND client = ? AND round = ? AND stage = ?",
                (stage, state, *key, before),
            )
            if moved.rowcount != 1:
                raise SecureSumError(
                    f"{reply.client} is no longer {before} in round {request.round_number}: another process answered."
                )
            _keep(connection, request, reply)

    def _make_private(self) -> None:
        """The file before SQLite makes it, so that it and its log are readable by their owner alone."""
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))


def digest(request: SumRequest) -> str:
    """sha256 of a request's step and arrays: two requests of one hash are one request."""
    sha = hashlib.sha256(request.step.encode())
    for name in sorted(request.arrays):
        array = np.ascontiguousarray(request.arrays[name])
        sha.update(repr((name, array.dtype.str, array.shape)).encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def _overwriting(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA secure_delete = ON")


def _forget(connection: sqlite3.Connection, client: str, up_to: int) -> None:
    """Drop secrets and answers of a client's older rounds, ended or not: nobody waits for them any more."""
    old = "client = ? AND entered <= ?"
    connection.execute(
        "DELETE FROM answers WHERE (run, client, round) IN "
        f"(SELECT run, client, round FROM rounds WHERE {old} AND stage != 'left')",
        (client, up_to),
    )
    connection.execute(
        f"UPDATE rounds SET stage = 'left', state = x'' WHERE {old} AND stage != 'left'", (client, up_to)
    )


def _keep(connection: sqlite3.Connection, request: SumRequest, reply: SumReply) -> None:
    names = ("code", "epsilon", "ledger_count", "ledger_head")
    head = json.dumps({name: getattr(reply, name) for name in names})
    connection.execute(
        "INSERT INTO answers (run, client, round, step, request, head, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (request.run, reply.client, request.round_number, request.step, digest(request), head, _body(reply.arrays)),
    )


def _body(arrays: Mapping[str, np.ndarray]) -> bytes:
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _unpack(head: str, body: bytes, client: str, request: SumRequest) -> SumReply:
    values: Mapping[str, float | int | str] = json.loads(head)
    return SumReply(
        code=check_code(str(values["code"])),
        client=client,
        round_number=request.round_number,
        step=check_step(request.step),
        epsilon=float(values["epsilon"]),
        arrays=load(body),
        ledger_count=int(values["ledger_count"]),
        ledger_head=str(values["ledger_head"]),
    )
