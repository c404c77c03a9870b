"""What clients and server of a secure sum send each other, and how it becomes arrays on a wire and back.

Most messages are tables: client -> a row of bytes of one width. On a wire a table is two arrays, the clients' places in
the sorted cohort (int32 [rows]) and the rows (uint8 [rows, width]); what comes in is checked before it is used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mmrank.errors import SecureSumError
from mmrank.secure_sum.keys import KEY_BYTES, SEAL_BYTES, SIGNATURE_BYTES
from mmrank.secure_sum.shamir import SHARE_BYTES
from mmrank.secure_sum.sum_round import SumRound

ADVERT_BYTES = 2 * KEY_BYTES + SIGNATURE_BYTES
SEALED_SHARES_BYTES = 2 * SHARE_BYTES + SEAL_BYTES
COMMITMENT_BYTES = 32

Table = Mapping[str, bytes]
"""Client -> bytes, of one width for all."""


@dataclass(frozen=True, kw_only=True)
class Advert:
    """Two X25519 public keys of one client for one round, signed by its identity.

    cipher: for sealing shares. mask: for pairwise masks; its secret is shared out, so it seals nothing.
    """

    cipher: bytes
    mask: bytes
    signature: bytes

    def to_bytes(self) -> bytes:
        """ADVERT_BYTES."""
        return self.cipher + self.mask + self.signature

    @classmethod
    def from_bytes(cls, data: bytes) -> Advert:
        """Raises SecureSumError for bytes of another length."""
        if len(data) != ADVERT_BYTES:
            raise SecureSumError(f"Expected an advert of {ADVERT_BYTES} bytes, not {len(data)}.")
        return cls(
            cipher=data[:KEY_BYTES], mask=data[KEY_BYTES : 2 * KEY_BYTES], signature=data[2 * KEY_BYTES : ADVERT_BYTES]
        )

    @staticmethod
    def statement(round_: SumRound, client: str, cipher: bytes, mask: bytes) -> bytes:
        """What is signed."""
        return round_.statement("advert", client, cipher, mask)


@dataclass(frozen=True, kw_only=True)
class Shares:
    """sealed: for each peer, a share of the seed and one of the mask key, which that peer alone can open.

    commitment: a hash of the seed, by which the server notices damaged shares.
    """

    sealed: Table
    commitment: bytes


@dataclass(frozen=True, kw_only=True)
class Reveal:
    """One client's shares: of the seeds of clients that are in the sum, and of the mask keys of those that fell out."""

    seeds: Table
    keys: Table


def confirmation(round_: SumRound, sharers: tuple[str, ...], survivors: tuple[str, ...]) -> bytes:
    """What a survivor signs: who shared keys, and whose masked vector is in the sum, both sorted."""
    return round_.statement("survivors", round_.list_of(sharers), round_.list_of(survivors))


def commitment(round_: SumRound, client: str, seed: bytes) -> bytes:
    """sha256 that binds a client to its seed: 32 uniform bytes, so that the hash tells nothing of them."""
    return hashlib.sha256(round_.statement("seed commitment", client, seed)).digest()


def pack(table: Table, round_: SumRound) -> dict[str, np.ndarray]:
    """{"clients": int32 [rows], "rows": uint8 [rows, width]}, in the order of names."""
    names = sorted(table)
    width = len(table[names[0]]) if names else 0
    rows = np.frombuffer(b"".join(table[name] for name in names), dtype=np.uint8).reshape(len(names), width)
    places = np.array([round_.points[name] - 1 for name in names], dtype=np.int32)
    return {"clients": places, "rows": rows.copy()}


def unpack(arrays: Mapping[str, np.ndarray], round_: SumRound, width: int) -> dict[str, bytes]:
    """The table of `arrays`. Raises SecureSumError for other names, types or widths, a stranger, or a client twice."""
    if set(arrays) != {"clients", "rows"}:
        raise SecureSumError(f"Expected the arrays clients and rows of a table, not {sorted(arrays)}.")
    places, rows = arrays["clients"], arrays["rows"]
    if places.dtype != np.int32 or rows.dtype != np.uint8 or places.ndim != 1:
        raise SecureSumError(f"Expected int32 [rows] and uint8 [rows, width], not {places.dtype} and {rows.dtype}.")
    if rows.shape != (len(places), width) and not (len(places) == 0 and rows.size == 0):
        raise SecureSumError(f"Expected rows of shape {(len(places), width)}, not {rows.shape}.")
    if len(places) and not 0 <= int(places.min()) <= int(places.max()) < len(round_.cohort):
        raise SecureSumError(f"Expected places in [0, {len(round_.cohort)}), the cohort.")
    if len(np.unique(places)) != len(places):
        raise SecureSumError("Expected each client once in a table.")
    return {round_.cohort[place]: row.tobytes() for place, row in zip(places, rows, strict=True)}
