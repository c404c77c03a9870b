"""What a client computed under a charge, kept so that it can be sent again: one charge never trains twice.

A second training under the same charge would be a second draw of noise over the same data, which nobody
paid for. What lies here was privatised before; it holds nothing that was not to be sent.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from mmrank.privacy.ledger import open_database
from mmrank.protocol import TrainReply, check_code

KEPT_ROUNDS = 2
"""Rounds kept for each client and run; a request for an older one is a new charge."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    run TEXT NOT NULL, client TEXT NOT NULL, round INTEGER NOT NULL, input TEXT NOT NULL,
    head TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (run, client, round, input)) WITHOUT ROWID;
"""


class Outbox:
    """Replies by (run, client, round, hash of the input), in one file. Each `put` is fsynced before it returns."""

    def __init__(self, path: Path | str, *, durable: bool = True) -> None:
        self.path, self.durable = Path(path).expanduser(), durable
        self._lock = threading.RLock()
        self._process = -1
        self._connection: sqlite3.Connection | None = None

    def get(self, *, run: str, client: str, round_number: int, input_hash: str) -> TrainReply | None:
        """The reply that was kept, bit for bit, or None."""
        with self._lock:
            row = (
                self._connected()
                .execute(
                    "SELECT head, body FROM replies WHERE run = ? AND client = ? AND round = ? AND input = ?",
                    (run, client, round_number, input_hash),
                )
                .fetchone()
            )
        return None if row is None else _unpack(row[0], row[1], client, round_number)

    def put(self, reply: TrainReply, *, run: str, input_hash: str) -> TrainReply:
        """Keep `reply`, unless one is there already: the first wins, and is what comes back and must be sent."""
        head, body = _pack(reply)
        key = (run, reply.client, reply.round_number, input_hash)
        with self._lock:
            connection = self._connected()
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(
                "INSERT OR IGNORE INTO replies (run, client, round, input, head, body) VALUES (?, ?, ?, ?, ?, ?)",
                (*key, head, body),
            )
            connection.execute(
                "DELETE FROM replies WHERE run = ? AND client = ? AND round <= ? - ?",
                (run, reply.client, reply.round_number, KEPT_ROUNDS),
            )
            connection.execute("COMMIT")
        kept = self.get(run=run, client=reply.client, round_number=reply.round_number, input_hash=input_hash)
        return kept if kept is not None else reply

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None or self._process != os.getpid():
            self._connection, self._process = open_database(self.path, _SCHEMA, durable=self.durable), os.getpid()
        return self._connection


def _pack(reply: TrainReply) -> tuple[str, bytes]:
    head = json.dumps({"code": reply.code, "epsilon": reply.epsilon})
    return head, save({name: np.ascontiguousarray(array) for name, array in reply.update.items()})


def _unpack(head: str, body: bytes, client: str, round_number: int) -> TrainReply:
    values: Mapping[str, float | str] = json.loads(head)
    return TrainReply(
        code=check_code(str(values["code"])),
        client=client,
        round_number=round_number,
        update=load(body),
        epsilon=float(values["epsilon"]),
    )
