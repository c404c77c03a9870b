"""Shamir's secret sharing (1979) of 32-byte secrets over the field of 2^256 + 297 elements.

The prime is the smallest above 2^256: each 32-byte string is one element, with no bias and no limbs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from mmrank.errors import SecureSumError

PRIME = 2**256 + 297
SECRET_BYTES = 32
SHARE_BYTES = 33


def split(secret: bytes, *, points: Sequence[int], threshold: int) -> list[bytes]:
    """One share of 33 bytes for each point: any `threshold` of them give the secret, fewer say nothing of it.

    The polynomial's `threshold` - 1 other coefficients are uniform in the field, from the operating system.
    Raises SecureSumError for a secret of another length, fewer points than the threshold, or a point twice or at 0.
    """
    if len(secret) != SECRET_BYTES:
        raise SecureSumError(f"Expected a secret of {SECRET_BYTES} bytes, not {len(secret)}.")
    _check_points(points)
    if not 1 <= threshold <= len(points):
        raise SecureSumError(f"Expected threshold={threshold} in [1, {len(points)}], the number of shares.")
    # from the highest power down, as Horner's rule reads them
    coefficients = [*(_random_element() for _ in range(threshold - 1)), int.from_bytes(secret, "big")]
    return [_evaluate(coefficients, point).to_bytes(SHARE_BYTES, "big") for point in points]


def weights_at_zero(points: Sequence[int]) -> list[int]:
    """Lagrange's weights: the secret is the sum of weight times share. The same for all secrets of these points."""
    _check_points(points)
    weights = []
    for point in points:
        above, below = 1, 1
        for other in points:
            if other != point:
                above = above * other % PRIME
                below = below * (other - point) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return weights


def join(shares: Sequence[bytes], weights: Sequence[int]) -> bytes:
    """The secret of `shares`, which stand in the order of `weights`.

    Raises SecureSumError where the shares don't belong together in a way that shows: the sum is no 32 bytes.
    """
    total = sum(weight * element(share) for weight, share in zip(weights, shares, strict=True)) % PRIME
    if total >= 2 ** (8 * SECRET_BYTES):
        raise SecureSumError("Expected shares of one secret; some are of another, or damaged.")
    return total.to_bytes(SECRET_BYTES, "big")


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The secret of shares by point; as many as the threshold was."""
    points = sorted(shares)
    return join([shares[point] for point in points], weights_at_zero(points))


def element(share: bytes) -> int:
    """The field element of a share. Raises SecureSumError for what is none."""
    value = int.from_bytes(share, "big")
    if len(share) != SHARE_BYTES or value >= PRIME:
        raise SecureSumError(
            f"Expected a share of {SHARE_BYTES} bytes below the field's prime, got {len(share)} bytes."
        )
    return value


def _evaluate(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in coefficients:
        value = (value * point + coefficient) % PRIME
    return value


def _random_element() -> int:
    """Uniform below PRIME, by rejection: 257 bits are drawn, about half are taken."""
    while True:
        value = int.from_bytes(os.urandom(SHARE_BYTES), "big") >> 7
        if value < PRIME:
            return value


def _check_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points) or not all(0 < point < PRIME for point in points):
        raise SecureSumError("Expected distinct points from 1 to the prime; at 0 lies the secret itself.")
