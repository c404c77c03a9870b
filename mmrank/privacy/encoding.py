"""Real vectors as small integer vectors whose norm is bounded exactly, so that their sum can be masked, and back.

The client's and the server's procedures of Kairouz, Liu and Steinke 2021 ("The Distributed Discrete Gaussian Mechanism
for Federated Learning with Secure Aggregation", Algorithms 1 and 2): clip, rotate, scale, round at random.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from mmrank.privacy.noise import Noise

MAX_BLOCK = 4096
"""Coordinates that one rotation mixes: enough to flatten a vector, and a vector is padded by less than this."""
_TRIES = 200


def clipped(update: np.ndarray, max_grad_norm: float) -> np.ndarray:
    """float64 copy, scaled to L2 norm at most max_grad_norm; zeros where any value is not finite."""
    values = update.astype(np.float64)
    if not np.isfinite(values).all():
        return np.zeros_like(values)
    peak = float(np.abs(values).max(initial=0.0))
    if peak == 0:
        return values
    norm = peak * float(np.linalg.norm(values / peak))  # squares of huge or tiny values leave float64's range
    return values * min(1.0, max_grad_norm / norm)


def block_size(dimension: int) -> int:
    """Coordinates that one rotation mixes: the power of two at or above `dimension`, at most MAX_BLOCK."""
    return min(MAX_BLOCK, 1 << (dimension - 1).bit_length())


def padded(dimension: int) -> int:
    """`dimension` rounded up to whole blocks.

    >>> padded(5), padded(5000)
    (8, 8192)
    """
    return -(-dimension // block_size(dimension)) * block_size(dimension)


def rotate(values: np.ndarray, seed: bytes) -> np.ndarray:
    """float64 [padded]: H D x / sqrt(block) in each block, D random signs of a public seed, H of Hadamard.

    An orthogonal map: norms and sums are kept, while no coordinate stays large. The seed must not depend on the data.
    """
    flat = np.zeros(padded(len(values)))
    flat[: len(values)] = values
    return _hadamard(flat * _signs(seed, len(flat)), block_size(len(values)))


def unrotate(values: np.ndarray, seed: bytes, dimension: int) -> np.ndarray:
    """float64 [dimension]: the inverse of `rotate`."""
    return (_hadamard(values, block_size(dimension)) * _signs(seed, len(values)))[:dimension]


def norm_bound_squared(*, scaled_norm: float, dimension: int, beta: float) -> int:
    """floor(Delta^2), the largest squared norm of a rounded vector that is let through (Kairouz et al. 2021, Eq. 1).

    Delta^2 = min((r + sqrt(d))^2, r^2 + d/4 + sqrt(2 log(1/beta)) (r + sqrt(d)/2)), r the clip norm in units of the
    granularity. A vector of norm at most r is rounded to a larger one with probability at most beta.
    """
    r, d = scaled_norm, dimension
    sure = (r + math.sqrt(d)) ** 2
    likely = r * r + d / 4 + math.sqrt(2 * math.log(1 / beta)) * (r + math.sqrt(d) / 2)
    return math.floor(min(sure, likely))


def round_within(values: np.ndarray, limit_squared: int, noise: Noise) -> np.ndarray:
    """int64: each value rounded up or down at random, unbiased, again and again until the squared norm is in the limit.

    The norm is taken over integers: what the accountant counts with holds exactly, whatever floats did before. After
    200 tries (a chance of beta^200) values are rounded towards zero and, should that not do either, become zero.
    Values are below 2^30 in size.
    """
    low = np.floor(values)
    parts, whole = values - low, low.astype(np.int64)
    for _ in range(_TRIES):
        rounded = whole + (noise.uniform(len(values)) < parts)
        if int(rounded @ rounded) <= limit_squared:
            return rounded
    rounded = np.trunc(values).astype(np.int64)
    return rounded if int(rounded @ rounded) <= limit_squared else np.zeros_like(rounded)


def _hadamard(values: np.ndarray, block: int) -> np.ndarray:
    """The fast Walsh-Hadamard transform of each block, orthonormal, hence its own inverse."""
    result = values.reshape(-1, block).copy()
    step = 1
    while step < block:
        pairs = result.reshape(-1, block // (2 * step), 2, step)
        result = np.stack((pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]), axis=2)
        step *= 2
    return result.reshape(-1) / math.sqrt(block)


def _signs(seed: bytes, n: int) -> np.ndarray:
    """Plus and minus ones from ChaCha20 under the seed's hash: the same on every machine."""
    key = hashlib.sha256(b"mmrank rotation\0" + seed).digest()
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(-(-n // 8)))
    bits = np.unpackbits(np.frombuffer(stream, dtype=np.uint8))[:n]
    return 1.0 - 2.0 * bits
