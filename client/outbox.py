"""What a client computed under a charge, kept so that it can be sent again: one charge never trains twice.

A second training under the same charge would be a second draw of noise over the same data, which nobody
paid for. What lies here was privatised before; it holds nothing that was not to be sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import load, save

from mmrank.privacy.database import Database
from mmrank.protocol import TrainReply, check_code

KEPT_ROUNDS = 2
"""Rounds kept for each client and run; a request for an older one is a new charge."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    run TEXT NOT NULL, client TEXT NOT NULL, round INTEGER NOT NULL, input TEXT NOT NULL,
    head TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (run, client, round, input)) WITHOUT ROWID;
"""

_SELECT = "SELECT head, body FROM replies WHERE run = ? AND client = ? AND round = ? AND input = ?"


class Outbox:
    """Replies by (run, client, round, hash of the input), in one file. Each `put` is fsynced before it returns."""

    def __init__(self, path: Path | str, *, durable: bool = True) -> None:
        self.database = Database(path, _SCHEMA, durable=durable)

    def get(self, *, run: str, client: str, round_number: int, input_hash: str) -> TrainReply | None:
        """The reply that was kept, bit for bit, or None."""
        with self.database.read() as connection:
            row = connection.execute(_SELECT, (run, client, round_number, input_hash)).fetchone()
        return None if row is None else _unpack(row[0], row[1], client, round_number)

    def put(self, reply: TrainReply, *, run: str, input_hash: str) -> TrainReply:
        """Keep `reply`, unless one is there already: the first wins, and is what comes back and must be sent."""
        key = (run, reply.client, reply.round_number, input_hash)
        with self.database.write() as connection:
            connection.execute(
                "INSERT OR IGNORE INTO replies (run, client, round, input, head, body) VALUES (?, ?, ?, ?, ?, ?)",
                (*key, *_pack(reply)),
            )
            connection.execute(
                "DELETE FROM replies WHERE run = ? AND client = ? AND round <= ? - ?",
                (run, reply.client, reply.round_number, KEPT_ROUNDS),
            )
            row = connection.execute(_SELECT, key).fetchone()
        return _unpack(row[0], row[1], reply.client, reply.round_number)


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
