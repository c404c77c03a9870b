"""Where one ledger stands, from its row and totals."""

from __future__ import annotations

from dataclasses import dataclass

from mmrank.privacy._chain import NO_HEAD, Head
from mmrank.privacy._composition import Composition, Planned, composition, lifetime, period_of, spent
from mmrank.privacy._records import Row
from mmrank.privacy.accountant import Event, merged
from mmrank.privacy.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where one ledger stands. epsilon: of the current period (of all time without renewal), at the policy's delta.

    It is what the charges so far cost if their number was not chosen in view of results. Who stops in view of them, at
    whatever charge, holds the budget's promise: to stop is not to look at the rest of what the budget allows.
    lifetime_epsilon: the most that one datum can have paid over the periods that it lived through. composition: the
    rule that holds for all that was charged. delta: at which the promise holds over both ways that the ledger could
    have gone: once charges left their plan, a failure while they kept to it (delta) and one of the filter's after it
    (delta) both count, so it is twice the policy's.
    charges, steps, events, head, opted_out: what the chain holds. filter_order: None before the first charge.
    """

    epsilon: float
    lifetime_epsilon: float
    composition: Composition
    delta: float
    filter_order: float | None
    period: int
    events: tuple[Event, ...]
    charges: int
    head: Head
    opted_out: bool


def standing(row: Row | None, history: tuple[Planned, ...], policy: Policy, *, period: int) -> Standing:
    """The account of a ledger's row and totals."""
    if row is None:
        return Standing(
            epsilon=0.0,
            lifetime_epsilon=0.0,
            composition="plan",
            delta=policy.delta,
            filter_order=None,
            period=period,
            events=(),
            charges=0,
            head=NO_HEAD,
            opted_out=False,
        )
    rule = composition(history)
    return Standing(
        epsilon=spent(period_of(history, period), policy.delta, order=row.order),
        lifetime_epsilon=lifetime(history, policy, order=row.order, clock_went_back=row.clock_went_back),
        composition=rule,
        delta=policy.delta if rule == "plan" else 2 * policy.delta,
        filter_order=row.order,
        period=period,
        events=merged(part.event for part in history),
        charges=row.entries - row.opted_out,
        head=row.head,
        opted_out=row.opted_out,
    )
