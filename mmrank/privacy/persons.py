"""What a person pays who stands behind several units: many slates, two merchants, a merchant and a device.

An epsilon belongs to one unit. A person's own is composed anew from the events of everything that the person is
part of; epsilons are never added up or multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any

from dp_accounting.pld import privacy_loss_distribution
from scipy.stats import binom

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Accountant, Event, check_delta, epsilon

INTERVALS = ((0.1, 100.0), (0.01, 2.0), (0.001, 0.0))
"""Grids of the losses, which are large for many units, and below which epsilon the next finer one is asked as well.

Every grid gives an upper bound; the last one asked is about 1% above the truth.
"""
MAX_UNITS = 1000
LARGEST_SHIFT = 40.0
"""Units over noise multiplier above which a distribution of losses no longer fits into memory."""


@dataclass(frozen=True, kw_only=True, order=True)
class Share:
    """One mechanism that a person is part of with `units` units (1 to 1000). Raises PrivacyError out of that."""

    event: Event
    units: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.units, bool) or not isinstance(self.units, int) or not 1 <= self.units <= MAX_UNITS:
            raise PrivacyError(
                f"Expected units={self.units!r} to be a whole number in [1, {MAX_UNITS}]; protect whole people with "
                "privacy.unit: user where they have more."
            )


def person_epsilon(shares: Iterable[Share], delta: float, *, accountant: Accountant = "pld") -> float:
    """Epsilon at `delta` for adding or removing all of one person's units, in all of `shares` at once.

    A step of the sampled Gaussian takes each of k units independently with probability q, so that the sum moves by at
    most Binomial(k, q) clips; a mixture of Gaussians at these shifts dominates it (Charles et al. 2024, Appendix A;
    Choquette-Choo et al. 2024, on dominance). Shares compose by their privacy loss distributions. Where a share has
    more than one unit, and its losses are too large for that, the bound of concentrated DP stands in (rho = k^2 T /
    (2 z^2), unamplified; Bun and Steinke 2016). `accountant` counts where every share has one unit.
    Raises PrivacyError as `epsilon` does.
    """
    check_delta(delta)
    shares = tuple(sorted(shares))
    events = [share.event for share in shares]
    if all(share.units == 1 for share in shares):
        return epsilon(events, delta, accountant=accountant)
    if any(event.noise_multiplier == 0 for event in events):
        return math.inf
    bound = _concentrated(shares, delta)
    if _too_large(shares) or any(event.family == "concentrated" for event in events):
        return bound  # of a concentrated event nothing but its rho is known
    for interval, finer_below in INTERVALS:
        bound = min(bound, _pld_epsilon(shares, delta, interval))
        if bound >= finer_below:
            break
    return bound


def _concentrated(shares: tuple[Share, ...], delta: float) -> float:
    rho = sum(s.event.steps * (s.units / s.event.noise_multiplier) ** 2 / 2 for s in shares)
    return rho + 2 * math.sqrt(rho * math.log(1 / delta))


def _too_large(shares: tuple[Share, ...]) -> bool:
    shifts = [share.units / share.event.noise_multiplier for share in shares]
    mean = sum(s.event.steps * s.event.sampling_rate * x**2 / 2 for s, x in zip(shares, shifts, strict=True))
    return max(shifts) > LARGEST_SHIFT or mean > 1e5


@lru_cache(maxsize=1024)
def _pld_epsilon(shares: tuple[Share, ...], delta: float, interval: float) -> float:
    parts = (_step(s.event, s.units, interval).self_compose(s.event.steps) for s in shares)
    composed = reduce(lambda whole, part: whole.compose(part), parts)
    return float(composed.get_epsilon_for_delta(delta))


def _step(event: Event, units: int, interval: float) -> Any:
    chances = binom.pmf(range(units + 1), units, event.sampling_rate)
    return privacy_loss_distribution.from_mixture_gaussian_mechanism(
        standard_deviation=event.noise_multiplier,
        sensitivities=list(range(units + 1)),
        sampling_probs=[float(chance) for chance in chances],
        pessimistic_estimate=True,
        value_discretization_interval=interval,
    )
