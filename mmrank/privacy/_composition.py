"""What the charges of a ledger cost together: by which rule, and why that rule may be used.

plan: all charges belong to one plan declared beforehand, or all have the same parameters (when to stop among equal
steps is then the only choice). Privacy loss distributions compose them.
filter: a second plan came, and may have been chosen in view of what the first gave. Renyi DP at one order, fixed when
the ledger began, may be added up whatever was seen in between, up to a budget fixed beforehand (the Renyi privacy
filter of Feldman and Zrnic 2021), so that it serves as the rule to stop by.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mmrank.privacy.accountant import Event, epsilon, merged
from mmrank.privacy.policy import Policy
from mmrank.privacy.renyi_filter import filter_epsilon

Composition = Literal["plan", "filter"]


@dataclass(frozen=True, order=True)
class Planned:
    """`event` as charged under `plan`, in the period `period`; steps are those of all such charges together."""

    period: int
    plan: str
    event: Event


def default_plan(event: Event) -> str:
    """The plan of a charge that names none: as many steps of these parameters as the budget holds."""
    return f"{event.family} q={float(event.sampling_rate)!r} sigma={float(event.noise_multiplier)!r}"


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A plan of several kinds of events, fixed before the first: at most so many steps of each.

    Which of them are taken, and when, may be chosen in view of the results: to leave a step out is to take it and not
    look. So privacy loss distributions compose what was taken, as long as no kind goes past its count. The whole of
    it must fit into the budget: at a budget that ends the plan early, which kind comes last would be chosen as well.
    """

    name: str
    events: tuple[Event, ...]

    def holds(self, event: Event, history: Iterable[Planned]) -> bool:
        """Whether `event` is one of the steps that are left."""
        before = (part.event for part in history if part.plan == self.name)
        taken = merged((*before, event))
        allowed = {_shape(each): each.steps for each in merged(self.events)}
        return all(each.steps <= allowed.get(_shape(each), 0) for each in taken)


Plan = str | Declared | None


def plan_name(plan: Plan, event: Event, history: Iterable[Planned]) -> str:
    """Under which name `event` is charged after `history`; what a declared plan does not hold is outside of it."""
    if isinstance(plan, str):
        return plan
    return default_plan(event) if plan is None or not plan.holds(event, history) else plan.name


def _shape(event: Event) -> tuple[float, float, str]:
    return float(event.sampling_rate), float(event.noise_multiplier), event.family


def composition(history: Iterable[Planned]) -> Composition:
    """Which rule holds."""
    history = tuple(history)
    shapes = {(part.event.sampling_rate, part.event.noise_multiplier, part.event.family) for part in history}
    return "plan" if len(shapes) <= 1 or len({part.plan for part in history}) <= 1 else "filter"


def spent(history: Iterable[Planned], delta: float, *, order: float) -> float:
    """Epsilon at `delta` of all of it together; 0 for nothing."""
    history = tuple(history)
    events = merged(part.event for part in history)
    return epsilon(events, delta) if composition(history) == "plan" else filter_epsilon(events, delta, order=order)


def period_of(history: Iterable[Planned], period: int) -> tuple[Planned, ...]:
    """What was charged in that period."""
    return tuple(part for part in history if part.period == period)


def lifetime(history: Iterable[Planned], policy: Policy, *, order: float, clock_went_back: bool) -> float:
    """The worst epsilon over every run of `policy.lifetime_periods` consecutive periods: what one datum can have paid.

    clock_went_back: a period may then stand for another than the calendar's, so everything counts together.
    """
    history = tuple(history)
    if clock_went_back or policy.renew_every_days is None:
        return spent(history, policy.delta, order=order)
    width = policy.lifetime_periods
    windows = (
        tuple(part for part in history if first <= part.period < first + width)
        for first in sorted({part.period for part in history})
    )
    return max((spent(window, policy.delta, order=order) for window in windows), default=0.0)
