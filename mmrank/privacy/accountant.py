"""What a history of mechanism events costs: epsilon at a delta, under add/remove adjacency.

One interface over privacy loss distributions (PLD: Koskela et al. 2020; Doroshenko et al. 2022, in Google's
dp-accounting), Renyi DP and privacy loss random variables (PRV: Gopi et al. 2021). Each is an upper bound. They hold
for parameters (sampling rate, noise, steps) that were fixed before the first result was seen, also where these differ
from round to round; where they may depend on earlier results, mmrank.privacy.renyi_filter is the rule.
"""

from __future__ import annotations

from collections.abc import Iterable

from mmrank.privacy.curves import Accountant, ComposedCurve
from mmrank.privacy.events import Event, Family, check_delta, merged

__all__ = [
    "Accountant",
    "ComposedCurve",
    "Event",
    "Family",
    "accountant_used",
    "check_delta",
    "delta",
    "epsilon",
    "merged",
    "steps_within",
]

MAX_STEPS = 10_000_000


def epsilon(events: Iterable[Event], delta: float, *, accountant: Accountant = "pld") -> float:
    """The epsilon of the composed history at `delta`; 0 for no events, inf where one had no noise.

    "pld", the default, is within 1% of the truth, as is "prv" (its upper bound is returned) within 0.01 or so; "rdp"
    is looser by a tenth. A history with a "concentrated" event is composed by Renyi DP whatever is asked, and so is
    one that is too large for loss distributions: `accountant_used` tells.
    Histories that share their events share one computation (tens of milliseconds, then a look-up).
    Raises PrivacyError for a delta outside [1e-10, 1) or an unknown accountant; Opacus' GDP accountant
    is a central-limit approximation that reports less than is spent, and is refused.
    """
    return ComposedCurve.of(events).epsilon(delta, accountant=accountant)


def delta(events: Iterable[Event], epsilon: float, *, accountant: Accountant = "pld") -> float:
    """The delta of the composed history at `epsilon`: an upper bound, at most 1; the inverse of `epsilon`.

    0 for no events, 1 where one had no noise. Raises PrivacyError for a negative epsilon or an unknown accountant.
    """
    return ComposedCurve.of(events).delta(epsilon, accountant=accountant)


def accountant_used(events: Iterable[Event], accountant: Accountant = "pld", *, delta: float = 1e-6) -> Accountant:
    """Which accountant stands behind `epsilon(events, delta, accountant=accountant)`, for a report."""
    return ComposedCurve.of(events).accountant_used(delta, accountant)


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
