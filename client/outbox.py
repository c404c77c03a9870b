"""What a client computed under a charge, kept so that it can be sent again: one charge never trains twice.

A second training under the same charge would be a second draw of noise over the same data, which nobody
paid for. What lies here was privatised before; it holds nothing that was not to be sent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors.numpy import load, save

from mmrank.privacy.database import Database
from mmrank.protocol import EvaluateReply, TrainReply
from mmrank.wire import from_plain, to_plain

Reply = TypeVar("Reply", TrainReply, EvaluateReply)

KEPT_ROUNDS = 2
"""Rounds kept for each client and run; a request for an older one is a new charge."""

_TABLES: dict[type, str] = {TrainReply: "replies", EvaluateReply: "evaluations"}
"""One kind must not push the other's replies out."""

_SCHEMA = "".join(
    f"""
CREATE TABLE IF NOT EXISTS {table} (
    run TEXT NOT NULL, client TEXT NOT NULL, round INTEGER NOT NULL, input TEXT NOT NULL,
    head TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (run, client, round, input)) WITHOUT ROWID;
"""
    for table in _TABLES.values()
)


class Outbox:
    """Replies by kind, run, client, round and hash of the input, in one file. Each `put` is fsynced before it
    returns."""

    def __init__(self, path: Path | str, *, durable: bool = True) -> None:
        self.database = Database(path, _SCHEMA, durable=durable)

    def get(self, kind: type[Reply], *, run: str, client: str, round_number: int, input_hash: str) -> Reply | None:
        """The reply that was kept, bit for bit, or None."""
        with self.database.read() as connection:
            row = connection.execute(_select(kind), (run, client, round_number, input_hash)).fetchone()
        return None if row is None else _unpack(kind, *row)

    def put(self, reply: Reply, *, run: str, input_hash: str) -> Reply:
        """Keep `reply`, unless one is there already: the first wins, and is what comes back and must be sent."""
        table = _TABLES[type(reply)]
        key: tuple[str, str, int, str] = (run, reply.client, reply.round_number, input_hash)
        with self.database.write() as connection:
            connection.execute(
                f"INSERT OR IGNORE INTO {table} (run, client, round, input, head, body) VALUES (?, ?, ?, ?, ?, ?)",
                (*key, *_pack(reply)),
            )
            connection.execute(
                f"DELETE FROM {table} WHERE run = ? AND client = ? AND round <= ? - ?",
                (run, reply.client, reply.round_number, KEPT_ROUNDS),
            )
            row = connection.execute(_select(type(reply)), key).fetchone()
        return _unpack(type(reply), *row)


def _select(kind: type) -> str:
    return f"SELECT head, body FROM {_TABLES[kind]} WHERE run = ? AND client = ? AND round = ? AND input = ?"


def _pack(reply: TrainReply | EvaluateReply) -> tuple[str, bytes]:
    arrays, scalars = to_plain(reply)
    return json.dumps(scalars), save({name: np.ascontiguousarray(array) for name, array in arrays.items()})


def _unpack(kind: type[Reply], head: str, body: bytes) -> Reply:
    return from_plain(kind, load(body), json.loads(head))
