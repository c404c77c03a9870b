"""Renyi DP of a history at a fixed set of orders: cheap, valid for every family, and never below the truth.

Formulas: Mironov, Talwar and Zhang 2019 (Poisson-sampled Gaussian), Bun and Steinke 2016 (zCDP and groups),
Canonne, Kamath and Steinke 2020, Prop. 12 (conversion to epsilon and delta).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln
from scipy.stats import binom

from mmrank.privacy.events import UNIT, Event, Relation

Floats = npt.NDArray[np.float64]

ORDERS: tuple[float, ...] = (
    1.02,
    *(round(1 + 0.05 * i, 2) for i in range(1, 20)),
    *(round(2 + 0.1 * i, 1) for i in range(0, 30)),
    *(round(5 + 0.25 * i, 2) for i in range(0, 28)),
    *(float(order) for order in range(12, 65)),
    *(float(round(64 * 2 ** (i / 4))) for i in range(1, 21)),
)
"""From 1.02 to 2,048, close together where the best orders of useful budgets lie."""
SLACK = 1e-9
"""Relative; far above the rounding of the sums and integrals below (their tests see 1e-12)."""
_SMALLEST_INTEGRATED = 0.02
"""Below this noise the integral needs too many points: the bound without sampling stands in at broken orders."""


def renyi(history: Sequence[Event], relation: Relation = UNIT) -> Floats:
    """Upper bounds of the history's Renyi divergences at ORDERS, float [orders]; Renyi DP adds up."""
    total = np.zeros(len(ORDERS))
    for event in history:
        total += event.steps * _step(event.sampling_rate, event.noise_multiplier, event.family, relation)
    return total


def epsilons(divergences: Floats, delta: float) -> Floats:
    """Epsilon at `delta` by each order, float [orders].

    Order by order: Canonne, Kamath and Steinke 2020, Prop. 12; 0 where already the divergence bounds the total
    variation by `delta` (Bretagnolle and Huber).
    """
    orders = np.asarray(ORDERS)
    values = divergences + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)
    values = np.where(-np.expm1(-divergences) < delta**2, 0.0, values)
    return np.maximum(values, 0.0)


def rdp_epsilon(history: Sequence[Event], delta: float, relation: Relation = UNIT) -> float:
    """The smallest epsilon over ORDERS: for a history that was fixed in advance."""
    return float(epsilons(renyi(history, relation), delta).min())


def rdp_delta(history: Sequence[Event], epsilon: float, relation: Relation = UNIT) -> float:
    """The smallest delta over ORDERS; the inverse of `rdp_epsilon`."""
    orders, divergences = np.asarray(ORDERS), renyi(history, relation)
    logs = (orders - 1) * (divergences - epsilon + np.log1p(-1 / orders)) - np.log(orders)
    variation = np.sqrt(-np.expm1(-divergences))
    return float(min(np.exp(np.minimum(logs, 0.0)).min(), variation.min(), 1.0))


@lru_cache(maxsize=4096)
def _step(rate: float, noise: float, family: str, relation: Relation) -> Floats:
    orders = np.asarray(ORDERS)
    plain = orders * relation.distance**2 / (2 * noise**2)
    if rate == 1 or family == "concentrated":
        return plain * (1 + SLACK)
    if relation != UNIT:
        return np.minimum(plain, _coupled(rate, noise, relation)) * (1 + SLACK)
    sampled = plain.copy()
    whole = orders == np.round(orders)
    sampled[whole] = [_sampled_whole(rate, noise, int(order)) for order in orders[whole]]
    if noise >= _SMALLEST_INTEGRATED:
        sampled[~whole] = _sampled_broken(rate, noise, orders[~whole])
    return np.minimum(plain, sampled) * (1 + SLACK)


def _sampled_whole(rate: float, noise: float, order: int) -> float:
    """Mironov et al. 2019, Eq. 4 of section 3.3, with the sum of the binomial weights, 1, taken out of it.

    All terms are positive, so that the smallest rates lose no digits.
    """
    i = np.arange(2, order + 1)
    logs = gammaln(order + 1) - gammaln(i + 1) - gammaln(order - i + 1) + i * math.log(rate)
    logs = logs + (order - i) * math.log1p(-rate)
    exponent = (i * i - i) / (2 * noise**2)
    logs = logs + exponent + np.log(-np.expm1(-exponent))
    return float(np.logaddexp(0.0, _log_sum(logs)) / (order - 1))


def _sampled_broken(rate: float, noise: float, orders: Floats) -> Floats:
    """Mironov et al. 2019, Eq. 2, by the trapezoid rule, which converges geometrically here.

    The integrand is analytic up to noise^2 pi off the real axis (where the mixture is 0), so that the error at
    this step is below exp(-2 pi^2 8). Written as 1 + an integral of what is above the mean, for small rates.
    """
    step = min(noise, noise**2) / 8
    x = np.arange(-13 * noise - step, orders.max() + 13 * noise + step, step)
    log_density = -((x / noise) ** 2) / 2 - math.log(noise * math.sqrt(2 * math.pi)) + math.log(step)
    shift = (2 * x - 1) / (2 * noise**2)
    log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + shift)
    # E[ratio] = 1: subtracting 1 + order (ratio - 1) leaves a positive integrand, second order in the rate
    small = log_ratio < 1
    excess = np.where(small, rate * np.expm1(np.where(small, shift, 0.0)), 0.0)
    values = []
    for order in orders:
        low = np.exp(log_density[small]) * _above_tangent(excess[small], order)
        high = log_density[~small] + np.log(
            -np.expm1(-order * log_ratio[~small])
            - order * (np.exp(-(order - 1) * log_ratio[~small]) - np.exp(-order * log_ratio[~small]))
        )
        high_log = _log_sum(high + order * log_ratio[~small]) if high.size else -math.inf
        values.append(np.logaddexp(np.log1p(low.sum()), high_log) / (order - 1))
    return np.asarray(values)


def _above_tangent(excess: Floats, order: float) -> Floats:
    """(1 + e)^order - 1 - order e, without cancellation for small e."""
    series = order * (order - 1) / 2 * excess**2 * (1 + (order - 2) / 3 * excess * (1 + (order - 3) / 4 * excess))
    exact = np.expm1(order * np.log1p(excess)) - order * excess
    return np.where(np.abs(excess) < 1e-4 / order, series, exact)


def _coupled(rate: float, noise: float, relation: Relation) -> Floats:
    """exp((order - 1) D) is jointly convex: its mean over how many of the units are sampled bounds the mixtures'."""
    own, changed = np.arange(relation.own + 1), np.arange(relation.changed + 1)
    weights = binom.logpmf(own, relation.own, rate)[:, None] + binom.logpmf(changed, relation.changed, rate)
    distance = own[:, None] + 2 * changed
    orders = np.asarray(ORDERS)
    exponents = (orders * (orders - 1) / (2 * noise**2))[:, None, None] * distance**2 + weights
    return np.asarray([_log_sum(row) for row in exponents]) / (orders - 1)


def _log_sum(logs: Floats) -> float:
    # scipy's divides by subnormal numbers, and warns
    top = float(logs.max())
    return top + math.log(float(np.exp(logs - top).sum()))
