"""The composed curve of a history, epsilon against delta: computed once, shared by all who have the same history."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, get_args

from mmrank.errors import PrivacyError
from mmrank.privacy._pld import LARGE_EPSILON, pld_delta, pld_epsilon
from mmrank.privacy._prv import prv_delta, prv_epsilon
from mmrank.privacy._rdp import rdp_delta, rdp_epsilon
from mmrank.privacy.events import UNIT, Event, check_delta, merged, without_noise

Accountant = Literal["pld", "rdp", "prv"]


class ComposedCurve:
    """What a history costs; made by `ComposedCurve.of`, grown by `then`.

    A ledger that holds its curve charges a round by `curve.then(event).epsilon(delta)`: the first of many clients
    with one history composes the new event with what is composed already, the others look it up in about a
    microsecond. Histories are never kept per client here, and the oldest unused curves are dropped.
    """

    __slots__ = ("__weakref__", "_deltas", "_epsilons", "events")

    def __init__(self, events: tuple[Event, ...]) -> None:
        self.events = events
        self._epsilons: dict[tuple[float, str], tuple[float, Accountant]] = {}
        self._deltas: dict[tuple[float, str], float] = {}

    @staticmethod
    def of(events: Iterable[Event]) -> ComposedCurve:
        """The curve of a history, in whatever order its events come."""
        return _of(merged(events))

    def then(self, event: Event) -> ComposedCurve:
        """The curve of this history with `event` added."""
        return _then(self, event)

    def epsilon(self, delta: float, *, accountant: Accountant = "pld") -> float:
        """As mmrank.privacy.accountant.epsilon."""
        return self._at(delta, accountant)[0]

    def accountant_used(self, delta: float, accountant: Accountant = "pld") -> Accountant:
        """As mmrank.privacy.accountant.accountant_used."""
        return self._at(delta, accountant)[1]

    def delta(self, epsilon: float, *, accountant: Accountant = "pld") -> float:
        """As mmrank.privacy.accountant.delta."""
        check_accountant(accountant)
        if not epsilon >= 0:
            raise PrivacyError(f"Expected epsilon={epsilon} of at least 0; set privacy.budget_epsilon.")
        key = (epsilon, accountant)
        if key not in self._deltas:
            self._deltas[key] = _delta(self.events, epsilon, accountant)
        return self._deltas[key]

    def _at(self, delta: float, accountant: Accountant) -> tuple[float, Accountant]:
        key = (delta, accountant)
        known = self._epsilons.get(key)
        if known is None:
            check_delta(delta)
            check_accountant(accountant)
            known = self._epsilons[key] = _epsilon(self.events, delta, accountant)
        return known


def check_accountant(accountant: str) -> None:
    """Raise PrivacyError for an accountant that isn't offered."""
    if accountant not in get_args(Accountant):
        why = " GDP is a central-limit approximation, which reports less than is spent." if accountant == "gdp" else ""
        raise PrivacyError(f"Expected accountant={accountant!r} to be one of {', '.join(get_args(Accountant))}.{why}")


def family_accountant(events: Iterable[Event], accountant: Accountant) -> Accountant:
    """RDP where an event is known by its concentrated bound alone: it has no loss distribution to compose."""
    return "rdp" if any(event.family == "concentrated" for event in events) else accountant


@lru_cache(maxsize=2048)
def _of(history: tuple[Event, ...]) -> ComposedCurve:
    return ComposedCurve(history)


@lru_cache(maxsize=4096)
def _then(curve: ComposedCurve, event: Event) -> ComposedCurve:
    return ComposedCurve.of((*curve.events, event))


def _epsilon(history: tuple[Event, ...], delta: float, accountant: Accountant) -> tuple[float, Accountant]:
    if not history or without_noise(history):
        return (math.inf if history else 0.0), accountant
    by_renyi = rdp_epsilon(history, delta)
    value: float | None = None
    if family_accountant(history, accountant) == "pld" and not _too_large(history, delta, by_renyi):
        value = pld_epsilon(history, delta, UNIT)
    elif family_accountant(history, accountant) == "prv":
        value = prv_epsilon(history, delta)
    if value is None:
        return by_renyi, "rdp"
    # both are upper bounds: the smaller one holds (Renyi's where a grid is coarse for what is spent)
    return (min(value, by_renyi), accountant) if accountant == "pld" else (value, accountant)


def _delta(history: tuple[Event, ...], epsilon: float, accountant: Accountant) -> float:
    if not history or without_noise(history):
        return 1.0 if history and math.isfinite(epsilon) else 0.0
    if math.isinf(epsilon):
        return 0.0
    by_renyi = rdp_delta(history, epsilon)
    used = family_accountant(history, accountant)
    value = pld_delta(history, epsilon, UNIT) if used == "pld" else None
    if used == "prv":
        value = prv_delta(history, epsilon)
    return by_renyi if value is None else min(value, by_renyi)


def _too_large(history: tuple[Event, ...], delta: float, by_renyi: float) -> bool:
    # without the gain of sampling, and by concentrated DP: a bound above both, at no cost
    rho = sum(event.steps / (2 * event.noise_multiplier**2) for event in history)
    return by_renyi > LARGE_EPSILON and rho + 2 * math.sqrt(rho * math.log(1 / delta)) > LARGE_EPSILON
