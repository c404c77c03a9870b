"""The randomness that privacy rests on: Gaussian noise and Poisson inclusion.

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


class Noise(Protocol):
    """A source of randomness. Every value is drawn once; nothing rewinds it."""

    def normal(self, shape: tuple[int, ...], std: float, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """N(0, std^2) of that shape on the CPU, computed in float64 and then rounded to `dtype`."""
        ...

    def uniform(self, n: int) -> np.ndarray:
        """float64 [n] in [0, 1), on the grid of 2^-53."""
        ...


class SecureNoise:
    """ChaCha20 (RFC 8439) keyed by `os.urandom`, 53-bit uniforms, Box-Muller.

    One instance serves one round of one client. A fork gets a new key, and a copy or a pickle is
    refused: two holders of one keystream would add the same noise twice, and its difference cancels.
    The normals are float64 and reach 8.57 standard deviations (a normal passes that with probability
    1e-17). Box-Muller cannot reach every float64, and which gaps a noisy value falls into tells of the
    value below the noise (Mironov 2012; Jin et al. 2021, arXiv 2112.05307): add the noise in float64 and
    round the *sum* to float32, as mmrank.privacy.dp_sgd does, so that the 29 bits where the gaps show
    are dropped. This is a mitigation, not a proof: the formal guarantee is over the reals.
    """

    def __init__(self) -> None:
        self._rekey()

    def normal(self, shape: tuple[int, ...], std: float, *, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """See Noise."""
        size = math.prod(shape)
        half = (size + 1) // 2
        uniforms = self._uniforms(2 * half)
        # 1 - u lies in [2^-53, 1]: the logarithm is finite
        radius = np.sqrt(-2.0 * np.log1p(-uniforms[:half]))
        radius *= _checked_std(std)
        angle = uniforms[half:]
        angle *= 2.0 * math.pi
        values = np.empty(2 * half)
        np.multiply(radius, np.cos(angle), out=values[:half])
        np.multiply(radius, np.sin(angle), out=values[half:])
        return torch.from_numpy(values[:size].reshape(shape)).to(dtype)

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


def _philox(seed: int, *names: str | int) -> np.random.Generator:
    digest = hashlib.sha256(repr((int(seed), *names)).encode()).digest()
    # 128 bits are Philox's whole key
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))


def _checked_std(std: float) -> float:
    if not (math.isfinite(std) and std >= 0):
        raise PrivacyError(f"Expected a noise of std={std} to be finite and at least 0; set privacy.noise_multiplier.")
    return std
