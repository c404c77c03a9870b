"""The public facts of one secure sum, which every key, share and signature of it is bound to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmrank.errors import SecureSumError

VERSION = 2
MAX_COHORT = 10_000
MAX_LENGTH = 2**26
MAX_BITS = 32


@dataclass(frozen=True, kw_only=True)
class SumRound:
    """One sum: who may take part, how many must, and what is summed.

    run, round_number: where it stands; a run's name is never used twice. cohort: the clients that were asked, in any
    order, each once. threshold: so many must be left at the end, and so many shares open a secret. colluders: so many
    clients may tell the server all that they know. length: numbers in a vector. bits: the sum is taken modulo 2^bits.
    agreed: the hash of what all agreed to, noise and clip among it: devices of two configurations never meet in a sum,
    where the one's small noise would stand for the other's.

    2 threshold > cohort + colluders is demanded: with less, a server could tell two halves of the cohort two lists of
    survivors, and get from the one half what the other withholds.
    Raises SecureSumError out of these bounds.

    >>> SumRound(run="r", round_number=1, cohort=("c", "a", "b"), threshold=2, colluders=0, length=4, bits=16).cohort
    ('a', 'b', 'c')
    """

    run: str
    round_number: int
    cohort: tuple[str, ...]
    threshold: int
    colluders: int
    length: int
    bits: int
    agreed: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "cohort", tuple(sorted(self.cohort)))
        twice = sorted({name for name, after in zip(self.cohort, self.cohort[1:], strict=False) if name == after})
        if twice:
            raise SecureSumError(f"Expected each client once in a cohort, not {twice} twice; ask each once.")
        check_threshold(cohort=len(self.cohort), threshold=self.threshold, colluders=self.colluders)
        if self.round_number < 1:
            raise SecureSumError(f"Expected round_number={self.round_number} to be at least 1.")
        if not 1 <= self.length <= MAX_LENGTH:
            raise SecureSumError(f"Expected length={self.length} in [1, {MAX_LENGTH}]; sum in parts.")
        if not 1 <= self.bits <= MAX_BITS:
            raise SecureSumError(f"Expected bits={self.bits} in [1, {MAX_BITS}].")

    @cached_property
    def context(self) -> bytes:
        """sha256 of all fields: 32 bytes that stand in every signature, derived key and sealed share."""
        facts = [VERSION, self.run, self.round_number, list(self.cohort)]
        facts += [self.threshold, self.colluders, self.length, self.bits, self.agreed]
        return hashlib.sha256(b"mmrank secure sum\0" + json.dumps(facts).encode()).digest()

    @cached_property
    def points(self) -> dict[str, int]:
        """Client -> where its share of a secret lies on the polynomial: 1, 2, ... in the order of names."""
        return {name: place for place, name in enumerate(self.cohort, start=1)}

    @property
    def dtype(self) -> np.dtype:
        """Of a masked vector: the smallest little-endian word of at least `bits` bits, at least 16."""
        return np.dtype("<u2") if self.bits <= 16 else np.dtype("<u4")

    @property
    def largest(self) -> int:
        """The largest residue, 2^bits - 1."""
        return 2**self.bits - 1

    def statement(self, purpose: str, *parts: bytes | str) -> bytes:
        """`purpose` and `parts` of this very sum as bytes that no other purpose, parts or sum give."""
        pieces = [self.context, purpose.encode(), *(part.encode() if isinstance(part, str) else part for part in parts)]
        return b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)

    def list_of(self, clients: tuple[str, ...]) -> bytes:
        """A list of clients as bytes to be signed."""
        return json.dumps(list(clients)).encode()


def check_threshold(*, cohort: int, threshold: int, colluders: int) -> None:
    """Raise SecureSumError unless colluders < threshold <= cohort and 2 threshold > cohort + colluders."""
    if not 2 <= cohort <= MAX_COHORT:
        raise SecureSumError(
            f"Expected a cohort of 2 to {MAX_COHORT} clients, not {cohort}: a sum of one hides nothing."
        )
    if colluders < 0:
        raise SecureSumError(f"Expected colluders={colluders} to be at least 0.")
    if not max(2, colluders + 1) <= threshold <= cohort:
        raise SecureSumError(
            f"Expected threshold={threshold} in [{max(2, colluders + 1)}, {cohort}]: above colluders={colluders}, "
            "within the cohort."
        )
    if 2 * threshold <= cohort + colluders:
        raise SecureSumError(
            f"Expected threshold={threshold} above (cohort={cohort} + colluders={colluders}) / 2: below it a server "
            f"that lies about the survivors learns more than the sum; set at least {(cohort + colluders) // 2 + 1}."
        )
