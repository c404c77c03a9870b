"""From a promise to a plan, from a budget to its rounds, and federations where merchants and devices train together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event, check_delta, merged
from mmrank.privacy.accountant import epsilon as epsilon_of
from mmrank.privacy.persons import Share, person_epsilon
from mmrank.privacy.planning import calibrate
from mmrank.privacy.plans import (
    MAX_PLANNED_STEPS,
    Claim,
    NoiseAt,
    Plan,
    PlannedMechanism,
    Unit,
    Viewer,
    claims_of,
    repeated,
)
from mmrank.privacy.renyi_filter import filter_epsilon, order_for


def planned_noise(
    *,
    mechanism: PlannedMechanism,
    unit: Unit,
    noise_at: NoiseAt,
    sampling_rate: float,
    rounds: int,
    steps_per_round: int,
    epsilon: float,
    delta: float,
) -> float:
    """The least noise multiplier with which the plan's headline claim is at most `epsilon`, within half a percent.

    Raises PrivacyError where none reaches it.
    """
    one = claims_of(
        mechanism=mechanism,
        unit=unit,
        noise_at=noise_at,
        sampling_rate=sampling_rate,
        noise_multiplier=1.0,
        steps_per_round=steps_per_round,
    )
    claim = next(claim for claim in (one[1], one[0]) if claim.event is not None)
    event = claim.event
    if event is None:  # one of the two always promises something
        raise PrivacyError(f"mechanism={mechanism} with noise_at={noise_at} promises nothing to plan.")
    noise = calibrate(
        sampling_rate=event.sampling_rate,
        steps=event.steps * rounds,
        epsilon=epsilon,
        delta=delta,
        accountant=claim.accountant,
    )
    return noise / event.noise_multiplier  # the charge's multiplier is that share of the plan's (half, with local)


def rounds_left(
    claim: Claim, budget: float, delta: float, *, spent: Iterable[Event] = (), declared: bool = False
) -> int:
    """How many rounds of `claim` fit into `budget` after `spent`; at most MAX_PLANNED_STEPS steps in all.

    declared: `spent` and these rounds are one plan, fixed before its first round: they compose as one history.
    Otherwise this plan is chosen in view of what the spent rounds gave, and a Renyi filter of one order is the rule
    that stops (Feldman and Zrnic 2021, Theorem 4.3). The order must have been fixed before the first result: it is
    the one that suits the first event of the history and the budget; as a history does not say which of its unlike
    events was first, the fewest rounds of all that it may have been are returned.
    Raises PrivacyError for a budget that is not above 0, or a claim of nothing.
    """
    check_budget(budget)
    check_delta(delta)
    event = claim.event
    if event is None:
        raise PrivacyError(f"Nothing is promised against {claim.view}: no number of rounds keeps epsilon={budget}.")
    history, most = merged(spent), MAX_PLANNED_STEPS // event.steps
    if history and not declared:
        orders = {order_for(first, budget, delta) for first in history}
        return min(_rounds_of_filter(history, event, budget, delta, order, most) for order in orders)
    return _largest(
        lambda rounds: epsilon_of((*history, repeated(event, rounds)), delta, accountant=claim.accountant) <= budget,
        most,
    )


def _rounds_of_filter(
    history: tuple[Event, ...], event: Event, budget: float, delta: float, order: float, most: int
) -> int:
    def fits(rounds: int) -> bool:
        return filter_epsilon((*history, repeated(event, rounds)), delta, order=order) <= budget

    return _largest(fits, most)


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """The largest number in [1, most] that fits, 0 where none does; by bisection."""
    if most < 1 or not fits(1):
        return 0
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def check_budget(budget: float) -> None:
    """Raise PrivacyError for a budget that nothing can fit into, or that is none."""
    if not 0 < budget < math.inf:
        raise PrivacyError(f"Expected epsilon={budget} to be finite and above 0; give the budget that must last.")


@dataclass(frozen=True, kw_only=True)
class Together:
    """What one viewer learns of a person who is in both groups: epsilon, and how it was composed."""

    viewer: Viewer
    epsilon: float
    first_units: int
    accountant: str


def in_both(first: Plan, second: Plan, viewer: Viewer, *, first_units: int = 1) -> Together:
    """A person with `first_units` units in `first` (slates at a merchant) and one in `second` (a device).

    Both plans are declared before the first round, so that their events are one history.
    Raises PrivacyError for plans of unlike delta: one promise has one.
    """
    if first.delta != second.delta:
        raise PrivacyError(
            f"Expected delta={first.delta} and delta={second.delta} to be one number; give both the same."
        )
    claims = first.claim(viewer), second.claim(viewer)
    if any(claim.event is None for claim in claims):
        return Together(viewer=viewer, epsilon=math.inf, first_units=first_units, accountant="none")
    renyi = any(claim.accountant == "rdp" for claim in claims)
    if renyi and first_units > 1:
        raise PrivacyError(
            f"Expected units={first_units} to be 1 beside noise that is composed by concentrated DP; protect whole "
            "people at the merchant: set unit to user."
        )
    shares = [
        Share(event=repeated(claim.event, plan.rounds), units=units)
        for plan, claim, units in zip((first, second), claims, (first_units, 1), strict=True)
        if claim.event is not None
    ]
    epsilon = person_epsilon(shares, first.delta, accountant="rdp" if renyi else "pld")
    return Together(viewer=viewer, epsilon=epsilon, first_units=first_units, accountant="rdp" if renyi else "pld")
