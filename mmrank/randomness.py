"""One generator for each (seed, purpose, names...): nothing reads a global one.

These streams are for simulation: initial weights, cohorts, shuffles, generated data. What privacy
rests on (noise, Poisson inclusion) is drawn from mmrank.privacy.noise instead.
"""

from __future__ import annotations

import hashlib

import numpy as np


def stream_key(seed: int, purpose: str, *names: str | int) -> int:
    """A 64-bit key for the stream; different names never meet.

    >>> stream_key(0, "cohort", 1) == stream_key(0, "cohort", 1)
    True
    >>> stream_key(0, "cohort", 1) == stream_key(0, "cohort", "1")
    False
    """
    text = repr((int(seed), purpose, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def numpy_generator(seed: int, purpose: str, *names: str | int) -> np.random.Generator:
    """A numpy generator (PCG64) for that stream."""
    return np.random.Generator(np.random.PCG64(stream_key(seed, purpose, *names)))
