"""Whether a charge may be written: the promise, the head that was acknowledged, opting out, the budget."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from mmrank.errors import BudgetExhaustedError, LedgerRolledBackError, OptedOutError, PrivacyError
from mmrank.privacy import _chain, _records
from mmrank.privacy._chain import Entry, Head
from mmrank.privacy._composition import Planned, lifetime, period_of, spent
from mmrank.privacy._records import Row
from mmrank.privacy.accountant import Event
from mmrank.privacy.policy import Policy


def check_promise(key: str, recorded: Policy, asked: Policy) -> None:
    """Raise PrivacyError where `asked` is not the promise that the ledger of `key` was begun with, or asks for more."""
    for name in ("delta", "unit", "renew_every_days", "retention_days"):
        before, now = getattr(recorded, name), getattr(asked, name)
        if before != now:
            kind = ", and privacy.noise_at as it was" if "replaced" in f"{before} {now}" else ""
            raise PrivacyError(
                f"The ledger of {key} was begun with {name}={before}, not {now}; set privacy.{name}: "
                f"{'null' if before is None else before}{kind}."
            )
    if asked.budget_epsilon > recorded.budget_epsilon and asked.mechanism != "no_privacy":
        raise PrivacyError(
            f"The ledger of {key} promises budget_epsilon={recorded.budget_epsilon}, below {asked.budget_epsilon}; "
            f"set privacy.budget_epsilon: {recorded.budget_epsilon} or less."
        )


def check_acknowledged(connection: sqlite3.Connection, key: str, row: Row | None, acknowledged: Head | None) -> None:
    """Raise LedgerRolledBackError where the chain does not hold the head that the server acknowledged last."""
    if acknowledged is None or knows(connection, row, acknowledged):
        return
    count, digest = acknowledged
    raise LedgerRolledBackError(
        f"The ledger of {key} lacks entry {count} ({digest[:12]}), which was acknowledged; it holds "
        f"{0 if row is None else row.entries} entries and is a copy or an older state. Put back the newest file; where "
        "it is lost, this data may take no further part."
    )


def knows(connection: sqlite3.Connection, row: Row | None, head: Head) -> bool:
    """Whether that head stands in the chain of `row`."""
    count, digest = head
    if count == 0:
        return digest == ""
    if row is None or not 0 < count <= row.entries:
        return False
    return (row.hash if count == row.entries else _records.hash_at(connection, row, count)) == digest


def check_taking_part(key: str, row: Row | None) -> None:
    """Raise OptedOutError where the person has opted out."""
    if row is not None and row.opted_out:
        raise OptedOutError(f"The person behind {key} has opted out; this data takes no further part, for good.")


def current_period(row: Row | None, policy: Policy, clock_days: float) -> int:
    """Where a charge made now counts: a clock that was set back opens no period again."""
    return max(policy.period(clock_days), 0 if row is None else row.period)


def admitted(
    history: Iterable[Planned], event: Event, plan: str, *, period: int, policy: Policy, budget: float, order: float
) -> float:
    """Epsilon of the period with `event`; BudgetExhaustedError where it would pass the budget."""
    after = spent((*period_of(history, period), Planned(period, plan, event)), policy.delta, order=order)
    if after > budget:
        renewal = (
            "" if policy.renew_every_days is None else f" before the next period of {policy.renew_every_days} days"
        )
        raise BudgetExhaustedError(
            f"{event} would bring epsilon to {after:.4g} at delta={policy.delta:g}, past budget_epsilon={budget:.4g}; "
            f"this data takes no further part{renewal}."
        )
    return after


def entry_of(charge: str, event: Event, plan: str, *, period: int, policy: Policy, clock_days: float) -> Entry:
    """The entry that a charge writes."""
    return Entry(
        kind=_chain.CHARGE,
        charge=_chain.digest(charge),
        event=event,
        plan=plan,
        period=period,
        clock_period=policy.period(clock_days),
    )


def told(row: Row, history: Iterable[Planned], entry: Entry, event: Event, *, after: float, policy: Policy) -> float:
    """The epsilon that is told of `event`, charged by `entry`: with renewal the worst over the periods that one datum
    lives through, where `after` is this period's alone.
    """
    if policy.renew_every_days is None:
        return after
    went_back = row.clock_went_back or entry.clock_period < entry.period
    charged = Planned(entry.period, entry.plan, event)
    return lifetime((*history, charged), policy, order=row.order, clock_went_back=went_back)


def check_same_event(charge: str, found: Event, event: Event) -> None:
    """Raise PrivacyError where an id that was charged stands for another event."""
    if found != event:
        raise PrivacyError(
            f"Charge {charge[:12]} stands for another event than {event}; charge under an id of its own."
        )
