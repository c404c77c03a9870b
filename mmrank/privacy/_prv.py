"""Composition by privacy loss random variables (Gopi, Lee and Wutschitz 2021), on Opacus' discretisation.

What is returned is their upper bound: the epsilon at delta less the allowed error of delta, plus the allowed error of
epsilon (their Theorem 5.5). Opacus composes one direction of add/remove only; here it is the larger of both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from opacus.accountants.analysis.prv import DiscretePRV, Domain, compose_heterogeneous, discretize
from scipy.special import ndtr

from mmrank.privacy._rdp import rdp_epsilon
from mmrank.privacy.events import Event

Floats = npt.NDArray[np.float64]

DELTA_SHARE = 1e-3
"""The part of delta that may go to truncation."""
EPSILON_SHARE = 2e-3
MOST_EPSILON_ERROR = 0.01
USUAL_POINTS = 1 << 19
_DELTA_FOR_GRID = 1e-8
MOST_POINTS = 1 << 22
ROUNDING = 1e-15
"""Error of delta a step, from Fourier transforms in double precision."""


def prv_epsilon(history: Sequence[Event], delta: float) -> float | None:
    """An upper bound of epsilon; None where no grid does, or delta is within its rounding."""
    found = _composed(history, delta)
    if found is None:
        return None
    variables, left, delta_error, epsilon_error = found
    return max(0.0, *(float(v.compute_epsilon(left, delta_error, epsilon_error)[2]) for v in variables))


def prv_delta(history: Sequence[Event], epsilon: float) -> float | None:
    """An upper bound of delta at `epsilon`, by the same theorem; None as `prv_epsilon`."""
    found = _composed(history, _DELTA_FOR_GRID)
    if found is None:
        return None
    variables, left, delta_error, epsilon_error = found
    at = epsilon - epsilon_error
    return min(1.0, max(float(v.compute_delta_estimate(at)) for v in variables) + delta_error + _DELTA_FOR_GRID - left)


def _composed(history: Sequence[Event], delta: float) -> tuple[list[DiscretePRV], float, float, float] | None:
    steps = [event.steps for event in history]
    left = delta - ROUNDING * sum(steps)
    if left < delta / 2:
        return None
    delta_error = left * DELTA_SHARE
    by_renyi = rdp_epsilon(history, delta)
    # Gopi et al., remark 5.6: a window that the sum, and each step, leaves with a chance within delta_error
    singles = (rdp_epsilon([replace(event, steps=1)], delta_error / (8 * sum(steps))) for event in history)
    window = max(rdp_epsilon(history, delta_error / 4), MOST_EPSILON_ERROR, *singles) + 3
    spread = math.sqrt(sum(steps) * math.log(12 / delta_error) / 2)
    epsilon_error = min(MOST_EPSILON_ERROR, max(EPSILON_SHARE * by_renyi, 2 * window * spread / USUAL_POINTS))
    mesh = epsilon_error / spread
    if 2 * window / mesh > MOST_POINTS or window > 600:
        return None
    domain = Domain.create_aligned(-window, window, mesh)
    variables = []
    for removed in (True, False):
        try:
            parts = [discretize(_Loss(e, removed, domain.t_min, domain.t_max), domain) for e in history]
        except RuntimeError:  # Opacus: the mesh is too coarse for a loss as narrow as that of little noise
            return None
        variables.append(compose_heterogeneous(parts, list(steps)))
    return variables, left, delta_error, epsilon_error


class _Loss:
    """One step's privacy loss, within [low, high]; `removed`: the mixture against the noise, or the other way."""

    def __init__(self, event: Event, removed: bool, low: float, high: float) -> None:
        self.rate, self.noise, self.removed = event.sampling_rate, event.noise_multiplier, removed
        self.low, self.high = low, high
        self.below = float(self._cdf(np.array([low]))[0])
        self.inside = float(self._cdf(np.array([high]))[0]) - self.below

    def cdf(self, t: Floats) -> Floats:
        """P[loss <= t], given that it is inside."""
        t = np.asarray(t, dtype=float)
        values = (self._cdf(np.clip(t, self.low, self.high)) - self.below) / self.inside
        return np.where(t < self.low, 0.0, np.where(t < self.high, values, 1.0))

    def mean(self) -> float:
        """E[loss], given that it is inside."""
        edge = 12 * self.noise
        x, step = np.linspace(-edge, 1 + edge, 400_001, retstep=True)
        loss = self._loss(x)
        density = np.exp(-((x / self.noise) ** 2) / 2)
        if self.removed:
            density = (1 - self.rate) * density + self.rate * np.exp(-(((x - 1) / self.noise) ** 2) / 2)
        density *= step / (self.noise * math.sqrt(2 * math.pi))
        return float(density @ np.where((loss >= self.low) & (loss <= self.high), loss, 0.0)) / self.inside

    def _loss(self, x: Floats) -> Floats:
        plain = (2 * x - 1) / (2 * self.noise**2)
        mixed = plain if self.rate == 1 else np.logaddexp(math.log1p(-self.rate), math.log(self.rate) + plain)
        return mixed if self.removed else -mixed

    def _cdf(self, t: Floats) -> Floats:
        mixed = t if self.removed else -t
        odds = (np.expm1(mixed) + self.rate) / self.rate
        x = self.noise**2 * np.log(np.maximum(odds, 1e-300)) + 0.5
        if not self.removed:
            return ndtr(-x / self.noise)
        return (1 - self.rate) * ndtr(x / self.noise) + self.rate * ndtr((x - 1) / self.noise)
