"""Composition by privacy loss distributions, with the composed ones kept, so that one more round is one composition.

Koskela et al. 2020; Doroshenko et al. 2022; Google's dp-accounting composes. All rounding is towards a larger loss.
Kept distributions only save time: a history of up to DIRECT different events is always composed in one fixed order,
and longer ones may differ by the rounding of floating point (1e-9 of epsilon) with what was asked before.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, reduce
from typing import Any

import numpy as np

from mmrank.privacy._losses import largest_loss, moments, step_losses
from mmrank.privacy._mixtures import gaussian_profile
from mmrank.privacy.events import UNIT, Event, Relation

INTERVALS = (1e-3, 1e-4, 1e-5)
"""Grids of losses, in nats."""
GROUP_INTERVALS = (1e-2, *INTERVALS)
"""A group's losses are large: a coarser grid is tried first."""
RESOLVED = 500
"""An epsilon of this many grid steps is within 1% (dp.md's row G: 8% too much at 50, 0.7% at 500)."""
LARGE_EPSILON = 200.0
"""Above it no distribution of losses is composed: its memory grows with epsilon."""
MOST_POINTS = 1 << 21
ROUNDING = 1e-15
"""Error of delta a step, from Fourier transforms of mass 1 in double precision; measured: 2e-16 a step."""
DIRECT = 4
KEPT_POINTS = 1 << 23
"""Of all kept distributions together: 64 MiB."""


def pld_epsilon(history: Sequence[Event], delta: float, relation: Relation) -> float | None:
    """An upper bound of epsilon, within about 1% where delta is above 1e-14 times the steps.

    None where no distribution of this size, or none this exact, can be composed.
    history: merged Gaussian events with noise.
    """
    if all(event.sampling_rate == 1 for event in history):
        return _gaussian_epsilon(_gaussian_noise(history) / relation.distance, delta)
    left = delta - ROUNDING * sum(event.steps for event in history)
    if left < delta / 2:
        return None
    best: float | None = None
    for interval in _intervals(tuple(history), relation):
        value = float(_composed(history, relation, interval).get_epsilon_for_delta(left))
        best = value if best is None else min(best, value)
        if best >= RESOLVED * interval or best == 0:
            break
    return best


def pld_delta(history: Sequence[Event], epsilon: float, relation: Relation) -> float | None:
    """The inverse of `pld_epsilon`."""
    if all(event.sampling_rate == 1 for event in history):
        shift = relation.distance / _gaussian_noise(history)
        return float(np.clip(gaussian_profile(np.array([epsilon]), shift)[0] * (1 + 1e-9) + 1e-16, 0, 1))
    slack = ROUNDING * sum(event.steps for event in history)
    best: float | None = None
    for interval in _intervals(tuple(history), relation):
        value = float(_composed(history, relation, interval).get_delta_for_epsilon(epsilon)) + slack
        best = value if best is None else min(best, value)
        if epsilon >= RESOLVED * interval:
            break
    return best


def _gaussian_noise(history: Sequence[Event]) -> float:
    """Unsampled Gaussian steps are one: their precisions add up."""
    return 1 / math.sqrt(sum(event.steps / event.noise_multiplier**2 for event in history))


def _gaussian_epsilon(noise: float, delta: float) -> float | None:
    """By bisection, from above; None where epsilon is so large that its exponent loses the digits of delta."""

    def fits(epsilon: float) -> bool:
        return float(gaussian_profile(np.array([epsilon]), 1 / noise)[0]) <= delta - 1e-15

    low, high = 0.0, 1.0
    if fits(low):
        return low
    while not fits(high):
        low, high = high, 2 * high
        if high > 1e4:
            return None
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


@lru_cache(maxsize=4096)
def _intervals(history: tuple[Event, ...], relation: Relation) -> tuple[float, ...]:
    """The grids worth trying, the coarsest first; empty where even that is too large.

    A grid adds at most a quarter of its square to the variance of each step's loss; that has to stay small.
    """
    mean = variance = largest = 0.0
    steps = 0
    for event in history:
        rate, noise = event.sampling_rate, event.noise_multiplier
        if rate < 1:
            steps += event.steps
            largest = max(largest, _largest(rate, noise, relation))
        of_mean, of_variance = _moments(rate, noise, relation)
        mean, variance = mean + event.steps * of_mean, variance + event.steps * of_variance
    if mean > LARGE_EPSILON or not largest < 600:
        return ()
    coarse_enough = 0.28 * math.sqrt(variance / steps)
    span = 2 * largest + 16 * math.sqrt(variance)
    allowed = [
        interval for interval in (INTERVALS if relation == UNIT else GROUP_INTERVALS) if span / interval <= MOST_POINTS
    ]
    fine = [interval for interval in allowed if interval <= coarse_enough]
    return tuple(fine or allowed[-1:])


_moments = lru_cache(maxsize=4096)(moments)
_largest = lru_cache(maxsize=4096)(largest_loss)
_step = lru_cache(maxsize=16)(step_losses)


class _Kept:
    """The newest composed distributions, by what they are composed of."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Relation, float, tuple[Event, ...]], Any] = OrderedDict()

    def put(self, key: tuple[Relation, float, tuple[Event, ...]], losses: Any) -> None:
        with self._lock:
            self._kept[key] = losses
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(map(_points, self._kept.values())) > KEPT_POINTS:
                self._kept.popitem(last=False)

    def nearest(self, relation: Relation, interval: float, history: tuple[Event, ...]) -> tuple[Any, list[Event]]:
        """The kept distribution that covers the most of `history`, and the events that are left to compose."""
        wanted = {_parameters(event): event.steps for event in history}
        best: tuple[Any, list[Event]] = (None, list(history))
        with self._lock:
            kept = [entry for entry in reversed(self._kept.items()) if entry[0][:2] == (relation, interval)]
        for (_, _, events), losses in kept:
            if any(wanted.get(_parameters(event), 0) < event.steps for event in events):
                continue
            done = {_parameters(event): event.steps for event in events}
            rest = [
                replace(event, steps=event.steps - done.get(_parameters(event), 0))
                for event in history
                if event.steps > done.get(_parameters(event), 0)
            ]
            if len(rest) < len(best[1]) or (best[0] is None and len(rest) <= len(best[1])):
                best = losses, rest
                if len(rest) <= 1:
                    break
        return best


_kept = _Kept()


def _composed(history: Sequence[Event], relation: Relation, interval: float) -> Any:
    sampled = tuple(event for event in history if event.sampling_rate < 1)
    losses, rest = None, list(sampled)
    if len(sampled) > DIRECT:
        losses, rest = _kept.nearest(relation, interval, sampled)
    parts = [_repeated(_step(e.sampling_rate, e.noise_multiplier, relation, interval), e.steps) for e in rest]
    if losses is not None:
        parts.insert(0, losses)
    losses = reduce(lambda composed, part: composed.compose(part), parts)
    if rest and len(sampled) >= DIRECT:
        _kept.put((relation, interval, sampled), losses)
    if len(sampled) < len(history):
        noise = _gaussian_noise([event for event in history if event.sampling_rate == 1])
        losses = losses.compose(_step(1.0, noise, relation, interval))
    return losses


def _repeated(losses: Any, steps: int) -> Any:
    if steps == 1:
        return losses
    # dp-accounting skips a Chernoff order whose moment is not finite, but numpy warns of it first
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return losses.self_compose(steps)


def _points(losses: Any) -> int:
    return int(losses._pmf_remove.size + losses._pmf_add.size)


def _parameters(event: Event) -> tuple[float, float]:
    return event.sampling_rate, event.noise_multiplier
