"""How many runs a private search has: distributions whose best-of charge is known, and the draw.

Papernot and Steinke 2022, "Hyperparameter Tuning with Renyi Differential Privacy" (arXiv 2110.03620): Definition 1
and Theorem 2 (truncated negative binomial), Theorem 6 (Poisson).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Protocol

import numpy as np
from dp_accounting.rdp.rdp_privacy_accountant import compute_delta

from mmrank.errors import PrivacyError
from mmrank.privacy.noise import Noise

ORDERS = np.array(
    [1 + step / 20 for step in range(1, 181)] + [*range(11, 65), 80, 96, 128, 192, 256, 384, 512, 768, 1024]
)
"""Renyi orders at which bounds are computed: above 1, rising."""
SMALLEST_RDP = 1e-15
LARGEST_MEAN = 500.0
NEGLIGIBLE = 2.0**-60
"""A draw of the number of runs ends where what is left of the distribution is below this. With the rounding of its
cumulative sum, the draw is within 1e-12 of the stated distribution in total variation."""


class RunCount(Protocol):
    """The distribution of the number of runs: public, and drawn without a look at the data."""

    @property
    def mean(self) -> float: ...

    def probabilities(self) -> Iterator[float]:
        """P[K = 0], P[K = 1], ... without end."""
        ...

    def best_of(self, orders: np.ndarray, rdp: np.ndarray) -> np.ndarray:
        """Renyi DP of the best of so many runs, float [orders], where one run's is `rdp` at `orders`."""
        ...


@dataclass(frozen=True, kw_only=True)
class TruncatedNegativeBinomial:
    """K on {1, 2, ...} (Definition 1 of the paper): shape eta = 1 is the geometric, 0 the logarithmic distribution.

    mean: E[K], in (1, 500]; gamma follows from it, and both the draw and the charge are made from that gamma.
    A smaller shape costs less for the same mean, and varies more: many searches are short, a few very long.
    Raises PrivacyError out of these bounds.
    """

    mean: float
    shape: float = 1.0

    def __post_init__(self) -> None:
        _check_mean(self.mean)
        if not 0 <= self.shape <= 100:
            raise PrivacyError(f"Expected shape={self.shape} of the number of runs in [0, 100]; 1 is the geometric.")

    @cached_property
    def gamma(self) -> float:
        """The parameter with that mean, by bisection from below: never a smaller mean than asked."""
        low, high = 0.0, 1.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if _tnb_mean(middle, self.shape) >= self.mean else (low, middle)
        return low

    def probabilities(self) -> Iterator[float]:
        """P[K = k] = (1 - gamma)^k / (gamma^-eta - 1) prod_{l<k} (l + eta) / (l + 1), from k = 0."""
        gamma, eta = self.gamma, self.shape
        scale = math.expm1(-eta * math.log(gamma)) / eta if eta > 0 else -math.log(gamma)
        probability = (1 - gamma) / scale
        yield 0.0
        for k in count(1):
            yield probability
            probability *= (1 - gamma) * (k + eta) / (k + 1)

    def best_of(self, orders: np.ndarray, rdp: np.ndarray) -> np.ndarray:
        """Theorem 2: e(l) + (1 + eta) (1 - 1/l') e(l') + (1 + eta) log(1/gamma) / l' + log E[K] / (l - 1).

        l' >= 1 is free, and the least bound is taken over `orders` and l' = 1, where the second term is 0.
        """
        log_gamma, eta = math.log(self.gamma), self.shape
        free = np.append(
            (1 - 1 / orders) * rdp - log_gamma / orders, -log_gamma if np.isfinite(rdp).any() else math.inf
        )
        bound = rdp + (1 + eta) * free.min() + math.log(_tnb_mean(self.gamma, eta)) / (orders - 1)
        return _monotone(bound)


@dataclass(frozen=True, kw_only=True)
class PoissonRuns:
    """K Poisson with `mean` in (1, 500], 0 included: then the winner is what stood before the search, data unseen.

    Varies least of all, so a search ends when it should; dear where the trials' epsilon is large.
    """

    mean: float

    def __post_init__(self) -> None:
        _check_mean(self.mean)

    def probabilities(self) -> Iterator[float]:
        """P[K = k] = e^-mean mean^k / k!, from k = 0."""
        probability = math.exp(-self.mean)
        for k in count(1):
            yield probability
            probability *= self.mean / k

    def best_of(self, orders: np.ndarray, rdp: np.ndarray) -> np.ndarray:
        """Theorem 6: e(l) + mean d + log(mean) / (l - 1), where one run is (log(1 + 1/(l - 1)), d)-DP."""
        hat = np.log1p(1 / (orders - 1))
        known = np.isfinite(rdp)
        if not known.any():
            return rdp
        # dp-accounting takes the logarithm of 1 - e^-rdp, which is 0 for the smallest: a larger bound is a bound
        least = np.maximum(rdp[known], SMALLEST_RDP)
        deltas = np.array([compute_delta(orders[known], least, value)[0] for value in hat])
        return _monotone(rdp + self.mean * deltas + math.log(self.mean) / (orders - 1))


@dataclass(frozen=True, kw_only=True)
class FixedRuns:
    """Always `runs`, at least 1: for a search whose every trial is seen and paid for. It hides no trial."""

    runs: int

    def __post_init__(self) -> None:
        if isinstance(self.runs, bool) or not isinstance(self.runs, int) or not 1 <= self.runs <= LARGEST_MEAN:
            raise PrivacyError(f"Expected runs={self.runs!r} to be a whole number in [1, {LARGEST_MEAN:g}].")

    @property
    def mean(self) -> float:
        """The number."""
        return float(self.runs)

    def probabilities(self) -> Iterator[float]:
        """One at `runs`."""
        yield from (1.0 if k == self.runs else 0.0 for k in count())

    def best_of(self, orders: np.ndarray, rdp: np.ndarray) -> np.ndarray:
        """Raises PrivacyError: the theorem is of a random number."""
        raise PrivacyError(
            f"A fixed number of runs={self.runs} can't be charged as the best of a random number; "
            "choose geometric, logarithmic, negative-binomial or poisson, or the view of the server."
        )


def draw_runs(runs: RunCount, noise: Noise) -> int:
    """K, by inversion of one 53-bit uniform. Keep it where only the owner reads, and never draw it again."""
    return quantile(runs, float(noise.uniform(1)[0]))


def quantile(runs: RunCount, level: float) -> int:
    """The least k with P[K <= k] > level in [0, 1); public.

    >>> quantile(TruncatedNegativeBinomial(mean=10), 0.99), quantile(PoissonRuns(mean=10), 0.99)
    (44, 18)
    """
    total = 0.0
    for k, probability in enumerate(runs.probabilities()):
        total += probability
        if total > level or (k > runs.mean and probability < NEGLIGIBLE):
            return k
    raise PrivacyError("The distribution of the number of runs ends before its probabilities sum to 1.")


def _tnb_mean(gamma: float, eta: float) -> float:
    if gamma == 0:
        return math.inf
    below = -math.expm1(eta * math.log(gamma)) / eta if eta > 0 else -math.log(gamma)
    return (1 - gamma) / (gamma * below)


def _check_mean(mean: float) -> None:
    if not 1 < mean <= LARGEST_MEAN:
        raise PrivacyError(f"Expected a mean number of runs={mean} in (1, {LARGEST_MEAN:g}]; for example 10.")


def _monotone(bound: np.ndarray) -> np.ndarray:
    """Renyi divergence rises with its order, so a bound at a higher order holds at each lower one."""
    return np.minimum.accumulate(bound[::-1])[::-1]
