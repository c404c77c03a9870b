"""The randomness that privacy rests on: Gaussian noise, how its sums are released, and Poisson inclusion.

SecureNoise is a ChaCha20 keystream under a key from the operating system; nobody can replay it, its
owner included. SeededNoise repeats, for simulations: whoever knows its seed can subtract it, so a
deployment refuses it. It draws noise and inclusion from two streams, so that the number of a client's
examples moves no noise.
"""

from __future__ import annotations

import hashlib
import math
import os
from typing import NoReturn, Protocol

import numpy as np
import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from mmrank.errors import PrivacyError

REKEY_BYTES = 2**34
"""A ChaCha20 key is replaced after this many bytes, far below the 2^38 at which its counter wraps."""
_CHUNK_BYTES = 2**20
_BLOCK = 2**13
"""Pairs of normals that are computed at once: 64 KiB a buffer."""
GRID_BITS = 5
"""A noisy sum is rounded to a grid of at most 2^-5 and more than 2^-6 standard deviations of its noise."""


class Noise(Protocol):
    """A source of randomness. Every value is drawn once; nothing rewinds it."""

    def normal(self, shape: tuple[int, ...], std: float, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """N(0, std^2) of that shape on the CPU, computed in float64 and then rounded to `dtype`."""
        ...

    def uniform(self, n: int) -> np.ndarray:
        """float64 [n] in [0, 1), on the grid of 2^-53."""
        ...


class SecureNoise:
    """ChaCha20 (RFC 8439) keyed by `os.urandom`; uniforms of 53 bits; Box-Muller in float64.

    One instance serves one round of one client. A fork gets a new key, and a copy or a pickle is
    refused: two holders of one keystream would add the same noise twice, and its difference cancels.
    The logarithm's argument has 53 significant bits at every magnitude down to 2^-64: a small word is
    followed by one more for the bits below it. So the tails are right, and reach 12.7 standard deviations.
    A float64 normal is a normal to within about 18 units in its last place; `snapped` turns that into a
    guarantee about what is released. The time that a draw takes is not constant.
    """

    def __init__(self) -> None:
        self._rekey()

    def normal(self, shape: tuple[int, ...], std: float, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """See Noise."""
        std, size = _checked_std(std), math.prod(shape)
        half = (size + 1) // 2
        values = torch.empty(2 * half, dtype=dtype)
        # in blocks that stay in the processor's cache; torch's sine and cosine are several times faster than numpy's
        for start in range(0, half, _BLOCK):
            stop = min(start + _BLOCK, half)
            radius, angle = self._polar(stop - start, std)
            values[start:stop] = torch.cos(angle).mul_(radius)
            values[half + start : half + stop] = angle.sin_().mul_(radius)
        return values[:size].reshape(shape)

    def _polar(self, pairs: int, std: float) -> tuple[torch.Tensor, torch.Tensor]:
        """float64 [pairs] each: the radius and the angle of pairs of normals (Box and Muller 1958)."""
        words = np.frombuffer(self._bytes(16 * pairs), dtype="<i8")
        radius = np.abs(words[:pairs].astype(np.float64))
        small = np.flatnonzero(radius < 2.0**52)
        if len(small):
            radius[small] = np.abs(radius[small] + (self._uniforms(len(small)) - 0.5))
        np.maximum(radius, 2.0**-54, out=radius)  # the logarithm is finite
        radius *= 2.0**-63
        np.log(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        radius *= std
        return torch.from_numpy(radius), torch.from_numpy(words[pairs:] * (math.pi * 2.0**-63))

    def uniform(self, n: int) -> np.ndarray:
        """See Noise."""
        return self._uniforms(n)

    def _uniforms(self, n: int) -> np.ndarray:
        words = np.frombuffer(self._bytes(8 * n), dtype="<u8")
        return (words >> np.uint64(11)) * 2.0**-53

    def _bytes(self, count: int) -> bytes:
        if os.getpid() != self._process or self._drawn + count > REKEY_BYTES:
            self._rekey()
        self._drawn += count
        if count <= _CHUNK_BYTES:
            return self._keystream.update(_ZEROS[:count])
        full, rest = divmod(count, _CHUNK_BYTES)
        return b"".join([*(self._keystream.update(_ZEROS) for _ in range(full)), self._keystream.update(_ZEROS[:rest])])

    def _rekey(self) -> None:
        self._process = os.getpid()
        self._drawn = 0
        self._keystream = Cipher(algorithms.ChaCha20(os.urandom(32), bytes(16)), mode=None).encryptor()

    def __reduce__(self) -> NoReturn:
        raise PrivacyError(
            "A SecureNoise can't be copied or pickled: its twin would draw the same noise; make a new one."
        )


_ZEROS = memoryview(bytes(_CHUNK_BYTES))


class SeededNoise:
    """Philox4x64 keyed by the sha256 of everything that the noise belongs to. For simulations only.

    Name the seed, the client, the round, the purpose and the input's hash: another model, client or
    round then meets other noise. Integers are hashed whole, so seeds 7 and 7 + 2^32 differ.

    >>> a, b = SeededNoise(7, "client-1", 1), SeededNoise(7, "client-1", 1)
    >>> torch.equal(a.normal((3,), 1.0), b.normal((3,), 1.0))
    True
    """

    def __init__(self, seed: int, *names: str | int) -> None:
        self._normals = _philox(seed, "normal", *names)
        self._uniforms = _philox(seed, "uniform", *names)

    def normal(self, shape: tuple[int, ...], std: float, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """See Noise."""
        values = self._normals.standard_normal(shape)
        values *= _checked_std(std)
        return torch.from_numpy(values).to(dtype)

    def uniform(self, n: int) -> np.ndarray:
        """See Noise."""
        return self._uniforms.random(n)


def snapped(total: torch.Tensor, std: float) -> torch.Tensor:
    """`total` = sum + N(0, std^2) in float64, of any shape, rounded to a public grid: the only form to release it in.

    Why: x + noise in floating point takes values that depend on x. What 1 + noise reaches is spaced by 2^-24
    (float32) or 2^-53 (float64), also near 0, where 0 + noise is spaced far finer: one output tells x = 0 from x = 1
    for certain (Mironov 2012; Jin et al. 2021, arXiv 2112.05307). Float32 noise shows that in a few percent of its
    values; noise added in float64 with the sum rounded to float32, in about one value in 10^9: once a thousand
    steps of a million parameters.

    Here every multiple of the grid is reachable from every sum. The grid depends on `std` alone, and rounding to it
    is post-processing of the Gaussian mechanism over the reals, so it costs nothing but 1/12 of grid^2 in variance
    (at most 0.005% of the noise's standard deviation). What remains is that a float64 sum is not the real one:
    `rounding_cost` bounds that.

    Nothing is rounded for std = 0. Raises PrivacyError for a std outside [1e-100, 1e100].
    """
    if _checked_std(std) == 0:
        return total
    if not 1e-100 <= std <= 1e100:
        raise PrivacyError(f"Expected a noise of std={std} in [1e-100, 1e100]; set privacy.max_grad_norm.")
    if total.dtype != torch.float64:
        raise PrivacyError(f"Expected a noisy sum in float64, not {total.dtype}; add the noise in float64.")
    grid = 2.0 ** (math.frexp(std)[1] - 1 - GRID_BITS)
    # the scale is a power of two, so both products are exact; + 0.0 makes -0.0, which would tell a sign, into 0.0
    return (total / grid).round_().mul_(grid).add_(0.0)


def noisy_sum(total: np.ndarray, std: float, noise: Noise) -> np.ndarray:
    """float64, of any shape: `total` + N(0, std^2) on the public grid of `snapped`."""
    drawn = noise.normal(np.shape(total), std, dtype=torch.float64)
    return snapped(torch.from_numpy(np.asarray(total, np.float64)) + drawn, std).numpy()


def rounding_cost(values: int, *, largest_sum: float = 1000.0, slack: float = 1e-12) -> tuple[float, float]:
    """(epsilon, delta) that `snapped` float64 noise may cost beyond the Gaussian mechanism over the reals.

    values: how many noisy numbers the whole run releases. largest_sum: the largest exact sum, in standard
    deviations of the noise. slack: the delta given to advanced composition. With (e, d) returned and a mechanism that
    is (epsilon, delta)-DP over the reals, the run is (epsilon + 2e, delta e^e + (1 + e^(epsilon + e)) d)-DP.

    Derivation, with u = 2^-53 and the noise's standard deviation as the unit. A pair of radius r lies within
    (18 r + 1/r) u of the real pair that the same bits stand for (argument, logarithm, root, angle, sine, products),
    and the addition moves it by (X + r) u. For r <= 10 that is below (600 + X) u on the average along a border, the
    1/r of the smallest radii included. A cell is wider than 2^-6 and a pair's has four borders, so the odds of
    each cell are the ideal ones up to e^(+-h), h = 5 * 2^6 * (600 + X) u; r > 10 has probability e^-50. By advanced
    composition (Dwork, Rothblum and Vadhan 2010, Theorem III.3) p pairs differ from the ideal mechanism by
    sqrt(2 p ln(1/slack)) h + p h (e^h - 1) in epsilon and slack + p e^-50 in delta.

    >>> epsilon, delta = rounding_cost(10**9)
    >>> epsilon < 1e-5 and delta < 1e-11
    True
    """
    pairs = (values + 1) // 2
    a_pair = 5 * 2 ** (GRID_BITS + 1) * (600 + largest_sum) * 2.0**-53
    epsilon = math.sqrt(2 * pairs * math.log(1 / slack)) * a_pair + pairs * a_pair * math.expm1(a_pair)
    return epsilon, slack + pairs * math.exp(-50)


def poisson(noise: Noise, n: int, rate: float) -> np.ndarray:
    """int64 [k], ascending: which of `n` units take part, each with probability `rate` and on its own.

    The probability is the largest multiple of 2^-53 that is not above `rate`, so no unit takes part more often than
    what is charged says. Raises PrivacyError for a rate outside (0, 1].
    """
    if not 0 < rate <= 1:
        raise PrivacyError(f"Expected sampling_rate={rate} in (0, 1]; set privacy.sampling_rate.")
    return np.flatnonzero(noise.uniform(n) < math.floor(rate * 2.0**53) * 2.0**-53).astype(np.int64, copy=False)


def _philox(seed: int, *names: str | int) -> np.random.Generator:
    digest = hashlib.sha256(repr((int(seed), *names)).encode()).digest()
    # 128 bits are Philox's whole key
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _checked_std(std: float) -> float:
    if not (math.isfinite(std) and std >= 0):
        raise PrivacyError(f"Expected a noise of std={std} to be finite and at least 0; set privacy.noise_multiplier.")
    return std
