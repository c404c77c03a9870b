"""What a whole curve of (epsilon, delta) allows an attacker who guesses in one run (f-DP)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import dp_accounting
import numpy as np
from dp_accounting.pld import privacy_loss_distribution

from mmrank.privacy.accountant import Event, merged

INTERVALS = ((200.0, 1e-3), (2000.0, 1e-2))
"""(epsilon without the gain of sampling up to here, interval of the privacy losses): rounded so that more is allowed
than is true, and an audit says less. A curve above the last is never refuted, and would take long: it is left empty."""


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Points (epsilons[j], deltas[j]) at each of which a mechanism is (epsilon, delta)-DP: float [n]; few, or many."""

    epsilons: np.ndarray
    deltas: np.ndarray

    @classmethod
    def of(cls, points: Iterable[tuple[float, float]]) -> Profile:
        """From pairs; those with an infinite epsilon say nothing and are left out."""
        kept = [(point, delta) for point, delta in points if math.isfinite(point)]
        return cls(epsilons=np.array([p for p, _ in kept]), deltas=np.array([d for _, d in kept]))

    def lines(self) -> tuple[np.ndarray, np.ndarray]:
        """(slopes, intercepts) whose maximum at r is the least P[a wrong guess] that goes with P[a right one] = r.

        (epsilon, delta)-DP says right <= delta + e^epsilon wrong and 1 - wrong <= delta + e^epsilon (1 - right).
        """
        grown = np.exp(np.minimum(self.epsilons, 700.0))
        slopes = np.concatenate([1 / grown, grown, [0.0]])
        intercepts = np.concatenate([-self.deltas / grown, 1 - self.deltas - grown, [0.0]])
        return slopes, intercepts


def profile(events: Sequence[Event]) -> Profile:
    """The curve of a history of Poisson-sampled Gaussian events."""
    return _profile(merged(events))


@lru_cache(maxsize=256)
def _profile(history: tuple[Event, ...]) -> Profile:
    """Composed for itself, and once for the whole curve, where the accountant answers for one delta."""
    rho = sum(event.steps / (2 * event.noise_multiplier**2) for event in history)
    unamplified = rho + 2 * math.sqrt(rho * math.log(1e6))
    interval = next((interval for most, interval in INTERVALS if unamplified <= most), None)
    if interval is None:
        return Profile.of(())
    composed: Any = None
    for event in history:
        step = privacy_loss_distribution.from_gaussian_mechanism(
            standard_deviation=event.noise_multiplier,
            pessimistic_estimate=True,
            value_discretization_interval=interval,
            sampling_prob=event.sampling_rate,
            neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        ).self_compose(event.steps)
        composed = step if composed is None else composed.compose(step)
    points = np.concatenate([np.linspace(0, 1, 21), np.linspace(1.1, 4, 30), np.linspace(4.5, 30, 52)])
    deltas = composed.get_delta_for_epsilon(list(points))
    return Profile(epsilons=points, deltas=np.asarray(deltas, dtype=float))


def refuted(*, canaries: int, guesses: int, correct: int, curve: Profile, significance: float) -> bool:
    r"""Whether P[at least `correct` of `guesses` are right] < `significance` for every mechanism under `curve`.

    Mahloujifar, Melis and Chaudhuri (2024, arXiv 2410.22235), Theorem 9 and Algorithm 3 for two alternatives. For any
    set T of counts, with p_i = P[i right], m canaries and r guesses,

        sum_{i in T} (i / m) p_i  <=  fbar( sum_{i in T} ((r - i + 1) / m) p_{i-1} ).

    T = {i + 1, ..., r}, in tails P_i = P[at least i right] and W = P_{i+1} + ... + P_r, reads

        (r - i) P_i  >=  W + m fbar^{-1}((i P_{i+1} + W) / m),

    whose right side grows with each tail. So P_v = significance and nothing above v is the least that there can be;
    going down from v, a lower bound of P_0 above 1 refutes it.
    """
    if correct == 0:
        return False
    slopes, intercepts = curve.lines()
    tail = total = significance
    for i in range(correct - 1, -1, -1):
        wrong = float(np.max(slopes * ((i * tail + total) / canaries) + intercepts))
        tail = max(tail, (total + canaries * wrong) / (guesses - i))
        if tail > 1:
            return True
        total += tail
    return False
