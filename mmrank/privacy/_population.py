"""One round's charge to a whole population: one transaction, and the same work a client after any number of rounds."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mmrank.errors import PrivacyError
from mmrank.privacy import _records
from mmrank.privacy._admission import (
    admitted,
    check_acknowledged,
    check_promise,
    check_same_event,
    check_taking_part,
    current_period,
    entry_of,
    told,
)
from mmrank.privacy._chain import Entry, Head, digest
from mmrank.privacy._composition import Planned, lifetime
from mmrank.privacy._records import Row
from mmrank.privacy.accountant import Event
from mmrank.privacy.policy import Policy
from mmrank.privacy.renyi_filter import order_for


@dataclass(frozen=True, kw_only=True)
class Charged:
    """What a charge to many did. epsilon: by key, with the charge, of those who may take part.

    refused: by key, why the others may not: they must be left out of the round.
    """

    epsilon: Mapping[str, float]
    refused: Mapping[str, PrivacyError]


@dataclass(frozen=True, kw_only=True)
class Round:
    """What is charged to each: an event of one plan under an id, at a time."""

    charge: str
    event: Event
    plan: str
    clock_days: float
    secret_salt: bool


def charge_all(
    connection: sqlite3.Connection,
    keys: Iterable[str],
    policy: Policy,
    charging: Round,
    acknowledged: Mapping[str, Head],
) -> Charged:
    """Charge every key that may take part, inside the caller's transaction."""
    keys = list(dict.fromkeys(keys))
    found = _records.find(connection, keys)
    histories = _records.histories(connection, found.values())
    paid = _records.charged(connection, digest(charging.charge))
    epsilon: dict[str, float] = {}
    refused: dict[str, PrivacyError] = {}
    writing: dict[Entry, list[Row]] = {}
    prices = _Prices(policy, charging)
    for key in keys:
        row = found.get(key)
        history = () if row is None else histories[row.id]
        try:
            if row is not None:
                check_promise(key, row.policy, policy)
            check_acknowledged(connection, key, row, acknowledged.get(key))
            check_taking_part(key, row)
            if row is not None and row.id in paid:
                check_same_event(charging.charge, paid[row.id][0], charging.event)
                epsilon[key] = lifetime(history, policy, order=row.order, clock_went_back=row.clock_went_back)
                continue
            epsilon[key], entry = prices.of(row, history)
        except PrivacyError as error:
            refused[key] = error
            continue
        if row is None:
            row = _records.begin(connection, key, policy, prices.order, secret_salt=charging.secret_salt)
        epsilon[key] = told(row, history, entry, charging.event, after=epsilon[key], policy=policy)
        writing.setdefault(entry, []).append(row)
    for entry, rows in writing.items():
        _records.append_all(connection, rows, entry)
    return Charged(epsilon=epsilon, refused=refused)


class _Prices:
    """What the round brings a client to: computed once for each history that clients share."""

    def __init__(self, policy: Policy, charging: Round) -> None:
        self.policy, self.charging = policy, charging
        self.order = order_for(charging.event, policy.budget_epsilon, policy.delta)
        self._known: dict[tuple[object, ...], tuple[float, Entry] | PrivacyError] = {}

    def of(self, row: Row | None, history: tuple[Planned, ...]) -> tuple[float, Entry]:
        """(epsilon with the charge, the entry to write). Raises BudgetExhaustedError."""
        order = self.order if row is None else row.order
        budget = (
            self.policy.budget_epsilon if row is None else min(self.policy.budget_epsilon, row.policy.budget_epsilon)
        )
        key = (history, order, budget, 0 if row is None else row.period)
        if key not in self._known:
            self._known[key] = self._compute(row, history, order=order, budget=budget)
        answer = self._known[key]
        if isinstance(answer, PrivacyError):
            raise answer
        return answer

    def _compute(
        self, row: Row | None, history: tuple[Planned, ...], *, order: float, budget: float
    ) -> tuple[float, Entry] | PrivacyError:
        policy, charging = self.policy, self.charging
        period = current_period(row, policy, charging.clock_days)
        event, plan = charging.event, charging.plan
        try:
            after = admitted(history, event, plan, period=period, policy=policy, budget=budget, order=order)
        except PrivacyError as error:
            return error
        clock_days = charging.clock_days
        return after, entry_of(charging.charge, event, plan, period=period, policy=policy, clock_days=clock_days)
