"""What a history of mechanism events costs: epsilon at a delta, under add/remove adjacency.

Events are kept and composed anew; epsilons are never added up. Composition is by privacy loss
distributions (Koskela et al. 2020; Doroshenko et al. 2022, in Google's dp-accounting), rounded so that
epsilon is never below the truth; Renyi DP is there as a cross-check. It holds for parameters (sampling
rate, noise, steps) that were fixed before the first result was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, Literal

import dp_accounting
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant

from mmrank.errors import PrivacyError
from mmrank.settings import SMALLEST_DELTA

Accountant = Literal["pld", "rdp"]
Family = Literal["gaussian", "concentrated"]
FILTER_ORDERS = (*(1 + step / 10 for step in range(1, 100)), *range(11, 64), 80, 128, 256, 512)

COARSE_INTERVAL = 1e-3
FINE_INTERVAL = 1e-4
FINE_BELOW_EPSILON = 0.5
"""Below this the coarse grid reports up to a tenth too much; the fine one costs about ten times the time."""
MAX_STEPS = 10_000_000
LARGE_EPSILON = 200.0
"""Above it Renyi DP's upper bound is reported: the memory of a distribution of losses grows with epsilon."""


@dataclass(frozen=True, kw_only=True, order=True)
class Event:
    """`steps` Poisson-sampled Gaussian mechanisms, of public parameters alone.

    sampling_rate: in (0, 1], with which each unit takes part in a step. noise_multiplier: standard deviation
    over sensitivity, 0 for a release without privacy. steps: at least 1.
    Raises PrivacyError out of these bounds.
    """

    sampling_rate: float
    noise_multiplier: float
    steps: int
    family: Family = "gaussian"

    def __post_init__(self) -> None:
        if not 0 < self.sampling_rate <= 1:
            raise PrivacyError(f"Expected sampling_rate={self.sampling_rate} in (0, 1]; set privacy.sampling_rate.")
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise PrivacyError(
                f"Expected noise_multiplier={self.noise_multiplier} to be finite and at least 0; "
                "set privacy.noise_multiplier."
            )
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not self.steps >= 1:
            raise PrivacyError(
                f"Expected steps={self.steps!r} to be a whole number of at least 1; set training.local_steps."
            )


def merged(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same history with steps of equal parameters counted together, in a fixed order: composition commutes.

    >>> merged([Event(sampling_rate=0.1, noise_multiplier=1.0, steps=2)] * 3)
    (Event(sampling_rate=0.1, noise_multiplier=1.0, steps=6),)
    """
    steps: dict[tuple[float, float, Family], int] = {}
    for event in events:
        key = (float(event.sampling_rate), float(event.noise_multiplier), event.family)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple(
        Event(sampling_rate=rate, noise_multiplier=noise, steps=count, family=family)
        for (rate, noise, family), count in sorted(steps.items())
    )


def epsilon(events: Iterable[Event], delta: float, *, accountant: Accountant = "pld") -> float:
    """The epsilon of the composed history at `delta`; 0 for no events, inf where one had no noise.

    Clients that share a history share one computation (tens of milliseconds, then a look-up).
    Raises PrivacyError for a delta outside [1e-10, 1) or an unknown accountant; Opacus' GDP accountant
    is a central-limit approximation that reports less than is spent, and is refused.
    """
    check_delta(delta)
    if accountant not in ("pld", "rdp"):
        why = " GDP reports less than is spent." if accountant == "gdp" else ""
        raise PrivacyError(f"Expected accountant={accountant!r} to be one of pld, rdp.{why}")
    history = merged(events)
    if not history:
        return 0.0
    if any(event.noise_multiplier == 0 for event in history):
        return math.inf
    if any(event.family == "concentrated" for event in history):
        return _rdp_epsilon(history, delta)
    return _pld_epsilon(history, delta) if accountant == "pld" else _rdp_epsilon(history, delta)


def filter_order(budget: float, delta: float) -> float:
    """The Renyi order at which a filter of that budget lets most through: fixed before the first charge."""
    check_delta(delta)
    return float(max(FILTER_ORDERS, key=lambda order: (budget - _conversion(order, delta)) / order))


def filter_epsilon(events: Iterable[Event], delta: float, *, order: float) -> float:
    """Epsilon at `delta` by Renyi DP at one order fixed beforehand (Canonne, Kamath and Steinke 2020, Prop. 12)."""
    check_delta(delta)
    history = merged(events)
    if not history:
        return 0.0
    if any(event.noise_multiplier == 0 for event in history):
        return math.inf
    spent = sum(event.steps * _rdp_step(event.sampling_rate, event.noise_multiplier, order) for event in history)
    return max(0.0, spent + _conversion(order, delta))


def _conversion(order: float, delta: float) -> float:
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


@lru_cache(maxsize=4096)
def _rdp_step(sampling_rate: float, noise_multiplier: float, order: float) -> float:
    accountant = RdpAccountant([order], dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(
        dp_accounting.PoissonSampledDpEvent(sampling_rate, dp_accounting.GaussianDpEvent(noise_multiplier))
    )
    return float(accountant._rdp[0])


def check_delta(delta: float) -> None:
    """Raise PrivacyError for a delta that can't be promised."""
    if not SMALLEST_DELTA <= delta < 1:
        raise PrivacyError(
            f"Expected delta={delta} in [{SMALLEST_DELTA}, 1), where epsilon can be computed; set privacy.delta, "
            "for example 1e-6."
        )


def steps_within(
    budget: float, delta: float, *, sampling_rate: float, noise_multiplier: float, spent: Iterable[Event] = ()
) -> int:
    """How many more steps of these parameters fit into `budget` after `spent`; at most MAX_STEPS. By bisection."""
    history = merged(spent)

    def fits(steps: int) -> bool:
        event = Event(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier, steps=steps)
        return epsilon((*history, event), delta) <= budget

    if not fits(1):
        return 0
    low, high = 1, 2
    while high < MAX_STEPS and fits(high):
        low, high = high, high * 2
    high = min(high, MAX_STEPS + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


@lru_cache(maxsize=65_536)
def _pld_epsilon(history: tuple[Event, ...], delta: float) -> float:
    # without the gain of sampling, and by concentrated DP: a bound above both, at no cost
    rho = sum(event.steps / (2 * event.noise_multiplier**2) for event in history)
    if rho + 2 * math.sqrt(rho * math.log(1 / delta)) > LARGE_EPSILON:
        bound = _rdp_epsilon(history, delta)
        if bound > LARGE_EPSILON:
            return bound
    coarse = _composed(history, COARSE_INTERVAL).get_epsilon_for_delta(delta)
    if coarse >= FINE_BELOW_EPSILON:
        return float(coarse)
    # both are upper bounds: the smaller one holds
    return float(min(coarse, _composed(history, FINE_INTERVAL).get_epsilon_for_delta(delta)))


def _composed(history: tuple[Event, ...], interval: float) -> Any:
    parts = (_step(e.sampling_rate, e.noise_multiplier, interval).self_compose(e.steps) for e in history)
    return reduce(lambda composed, part: composed.compose(part), parts)


@lru_cache(maxsize=64)
def _step(sampling_rate: float, noise_multiplier: float, interval: float) -> Any:
    """The privacy loss distribution of one step: the costly part, and the same for every history."""
    return privacy_loss_distribution.from_gaussian_mechanism(
        standard_deviation=noise_multiplier,
        sensitivity=1.0,
        pessimistic_estimate=True,
        value_discretization_interval=interval,
        sampling_prob=sampling_rate,
        neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    )


@lru_cache(maxsize=4096)
def _rdp_epsilon(history: tuple[Event, ...], delta: float) -> float:
    accountant = RdpAccountant(neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for event in history:
        step = dp_accounting.PoissonSampledDpEvent(
            event.sampling_rate, dp_accounting.GaussianDpEvent(event.noise_multiplier)
        )
        accountant.compose(step, event.steps)
    return float(accountant.get_epsilon(delta))
