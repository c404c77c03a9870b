"""Masks: uniform vectors modulo 2^bits from 32-byte keys, by ChaCha20's keystream.

Of two clients the one whose name sorts first adds their common mask, the other takes it away, so that it cancels in
the sum. A client's own mask stays in the sum until its seed is opened.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from mmrank.secure_sum.keys import agree, derive
from mmrank.secure_sum.sum_round import SumRound


def keystream(key: bytes, dtype: np.dtype, length: int) -> np.ndarray:
    """`length` words, uniform as far as ChaCha20 (RFC 8439) is. A key serves one vector: its nonce is 0."""
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(length * dtype.itemsize)), dtype=dtype)


def self_mask(seed: bytes, round_: SumRound, client: str) -> np.ndarray:
    """The mask of `client` alone, from its seed."""
    return keystream(derive(seed, round_.statement("self mask", client)), round_.dtype, round_.length)


def pair_mask(secret: bytes, peer_public: bytes, round_: SumRound, client: str, peer: str) -> np.ndarray:
    """What `client`, who holds `secret`, adds for `peer`; what the peer adds for the client is its negative."""
    first, second = sorted((client, peer))
    key = agree(secret, peer_public, round_.statement("pair mask", first, second))
    words = keystream(key, round_.dtype, round_.length)
    return words if client == first else np.negative(words)


def masked(values: np.ndarray, masks: Iterable[np.ndarray], round_: SumRound) -> np.ndarray:
    """values plus all masks, modulo 2^bits; values are left as they are."""
    total = values.astype(round_.dtype, copy=True)
    for mask in masks:
        total += mask  # words wrap around at a multiple of 2^bits
    total &= round_.dtype.type(round_.largest)
    return total


def centred(total: np.ndarray, round_: SumRound) -> np.ndarray:
    """int64: each residue as the integer in [-2^(bits - 1), 2^(bits - 1)) that it stands for.

    >>> facts = SumRound(run="r", round_number=1, cohort=("a", "b"), threshold=2, colluders=0, length=3, bits=8)
    >>> centred(np.array([0, 127, 255], dtype="<u2"), facts).tolist()
    [0, 127, -1]
    """
    residues = total.astype(np.int64) & round_.largest
    return np.where(residues >= 2 ** (round_.bits - 1), residues - 2**round_.bits, residues)
