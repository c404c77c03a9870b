"""The discrete Gaussian, sampled exactly (no rounding moves any probability), and what a sum of some costs.

Canonne, Kamath and Steinke 2020 ("The Discrete Gaussian for Differential Privacy"), Algorithms 1 to 3, vectorised.
A coin of probability exp(-g), g rational, is a uniform real compared with it: 53 bits and a float64 with a proven error
decide all but about one in 10^13 coins, and those are decided by more bits and more digits. So the law is exact given
uniform bits. The time that a draw takes depends on what was drawn; who can time one draw is not part of the promise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np

from mmrank.errors import PrivacyError
from mmrank.privacy.noise import Noise

MAX_VARIANCE = 2.0**60
"""So that a draw of 40 standard deviations is below 2^36, and all integers here are exact in float64."""
_GRID_BITS = 53
_ERROR = 2.0**-46
"""Above the error of exp(-g) in float64: g, off by at most 8 parts in 2^53, moves it by g exp(-g) 2^-50 <= 2^-51, and
numpy's exp adds a few units in the last place."""


ROUNDING = 1e-9
"""By which sums and roots in float64 are taken to be wrong, at most; it is counted against privacy."""


def discrete_gaussian(noise: Noise, variance: float, n: int) -> np.ndarray:
    """int64 [n]: independent, P(x) proportional to exp(-x^2 / (2 variance)) over the integers.

    `variance` is taken as the exact rational that the float is; the law's own variance is at most that (and within
    1e-4 of it from 1 on; Canonne et al., Section 2.4). It takes about 8 uniforms a draw.
    Raises PrivacyError for a variance that is not in (0, 2^60].
    """
    if not (math.isfinite(variance) and 0 < variance <= MAX_VARIANCE):
        raise PrivacyError(
            f"Expected variance={variance} of a discrete Gaussian in (0, 2^60]; choose a larger granularity."
        )
    scale_bits = max(0, round(math.log2(variance) / 2))
    kept: list[np.ndarray] = []
    missing = n
    while missing > 0:
        draws = _candidates(noise, variance, scale_bits, int(missing * 1.6) + 16)[:missing]
        kept.append(draws)
        missing -= len(draws)
    return np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)


def tau(*, share_variance: float, shares: int) -> float:
    """10 sum_{k=1}^{n-1} exp(-2 pi^2 s^2 k / (k + 1)), s^2 >= 1/2 (Kairouz et al. 2021, Proposition 14).

    Half of it bounds the logarithm of the ratio, at every integer, between the law of a sum of n discrete Gaussians of
    variance s^2 and the one discrete Gaussian of variance n s^2.
    """
    return 10 * math.fsum(math.exp(-2 * math.pi**2 * share_variance * k / (k + 1)) for k in range(1, shares))


def concentrated_epsilon(*, norm_squared: int, share_variance: float, shares: int, dimension: int) -> float:
    """e such that adding n shares of noise to a sum is e^2/2-zCDP for integer vectors of squared norm `norm_squared`.

    e^2 = D2^2/(n s^2) + 2 D1 tau / sqrt(n s^2) + tau^2 d   (Kairouz et al. 2021, Proposition 14, second bound),
    with D1 <= min(sqrt(d) D2, D2^2), since |x| <= x^2 over the integers. It follows coordinate by coordinate: tau/2 in
    log ratio is (tau/2)^2/2-zCDP, the roots of zCDP add up along the way sum - discrete Gaussian - shifted - shifted
    sum, and zCDP adds up over coordinates. More than n shares are post-processing of n.
    Raises PrivacyError for a variance below 1/2, where the bound is not proven.
    """
    if share_variance < 0.5 or shares < 1:
        raise PrivacyError(
            f"Expected share_variance={share_variance} of at least 1/2 and shares={shares} of at least 1."
        )
    norm, error = math.sqrt(norm_squared), tau(share_variance=share_variance, shares=shares)
    std = math.sqrt(shares * share_variance)
    in_one_norm = min(math.sqrt(dimension) * norm, float(norm_squared))
    squared = norm_squared / std**2 + 2 * in_one_norm * error / std + error**2 * dimension
    return math.sqrt(squared) * (1 + ROUNDING)


def _candidates(noise: Noise, variance: float, scale_bits: int, n: int) -> np.ndarray:
    """Discrete Laplace draws of scale t = 2^scale_bits, kept with probability exp(-(|y| - v/t)^2 / (2 v))."""
    draws = discrete_laplace(noise, scale_bits, n)
    exact_variance = Fraction(variance)
    shift = exact_variance / 2**scale_bits
    # both sides of the difference are exact in float64 (a power of two divides): four roundings in all
    distance = np.abs(draws).astype(np.float64) - variance / 2**scale_bits
    exponents = distance * distance / (2 * variance)

    def exact(row: int) -> Fraction:
        return (abs(int(draws[row])) - shift) ** 2 / (2 * exact_variance)

    return draws[bernoulli_exp(noise, exponents, exact)]


def discrete_laplace(noise: Noise, scale_bits: int, n: int) -> np.ndarray:
    """int64 [n]: independent, P(x) proportional to exp(-|x| / 2^scale_bits) (Canonne et al. 2020, Algorithm 2)."""
    scale, kept, missing = 2**scale_bits, [], n
    while missing > 0:
        # the top bits of one uniform: below the scale, and a sign
        words = np.floor(noise.uniform(int(missing * 2.2) + 16) * (2 * scale)).astype(np.int64)
        low, negative = words >> 1, (words & 1).astype(bool)
        taken = bernoulli_exp(noise, low / scale, _over(low, scale))
        low, negative = low[taken], negative[taken]
        draws = low + scale * _geometric(noise, len(low))
        draws = np.where(negative, -draws, draws)[~(negative & (draws == 0))][:missing]  # zero has one sign
        kept.append(draws)
        missing -= len(draws)
    return np.concatenate(kept) if kept else np.zeros(0, dtype=np.int64)


def bernoulli_exp(noise: Noise, exponents: np.ndarray, exact: Callable[[int], Fraction]) -> np.ndarray:
    """bool [n]: True with probability exp(-g) exactly, g the rational `exact(row)` that `exponents[row]` approximates.

    exponents: float64 [n], at least 0, each within 8 parts in 2^53 of its g.
    """
    uniforms = noise.uniform(len(exponents))
    chances = np.exp(-exponents)
    result = uniforms < chances
    # the uniform real lies in [u, u + 2^-53): where that meets the error, floats can't decide
    for row in np.flatnonzero(np.abs(uniforms - chances) <= _ERROR):
        result[row] = _decided(noise, float(uniforms[row]), exact(int(row)))
    return result


def _decided(noise: Noise, uniform: float, exponent: Fraction) -> bool:
    """Whether a uniform real that begins with `uniform`'s bits is below exp(-exponent): more of both, till clear."""
    word, bits = int(uniform * 2**_GRID_BITS), _GRID_BITS
    while True:
        digits = bits // 3 + 20 + len(str(int(exponent)))
        with localcontext() as context:
            context.prec = digits
            chance = (-(Decimal(exponent.numerator) / Decimal(exponent.denominator))).exp()
            error = Decimal(10) ** (5 - digits) * (1 + Decimal(int(exponent)))
            low, high = Decimal(word) / 2**bits, Decimal(word + 1) / 2**bits
            if high <= chance - error:
                return True
            if low >= chance + error:
                return False
        word = (word << _GRID_BITS) | int(float(noise.uniform(1)[0]) * 2**_GRID_BITS)
        bits += _GRID_BITS


def _geometric(noise: Noise, n: int) -> np.ndarray:
    """int64 [n]: how many coins of probability 1/e fall True before the first that does not."""
    counts = np.zeros(n, dtype=np.int64)
    going = np.arange(n)
    while len(going):
        going = going[bernoulli_exp(noise, np.ones(len(going)), lambda row: Fraction(1))]
        counts[going] += 1
    return counts


def _over(numerators: np.ndarray, denominator: int) -> Callable[[int], Fraction]:
    return lambda row: Fraction(int(numerators[row]), denominator)
