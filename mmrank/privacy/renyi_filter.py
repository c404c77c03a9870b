"""The stopping rule where settings are chosen in view of earlier results: a Renyi filter of one fixed order.

Feldman and Zrnic 2021, "Individual privacy accounting via a Renyi filter", Theorem 4.3; Whitehouse et al. 2023 for
zCDP. A ledger that stops while the sum of the divergences at the order stays within what the budget converts to
satisfies the budget, whatever rule chose the next event, as long as it saw no more than the releases.

The order has to be fixed before the first release. exp((order - 1) loss) of an adaptive history is a supermartingale
at one order, when each event is paid at that order; the order that is best for a history that came out is a function
of the releases, and for it nothing is proved. For the same reason composition by loss distributions, whose shape
is compared over all orders at once, is for histories declared in advance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from mmrank.errors import PrivacyError
from mmrank.privacy._rdp import ORDERS, Floats, epsilons, renyi
from mmrank.privacy.events import Event, check_delta, merged, without_noise

_WITHOUT_BUDGET = 8.0


def filter_order(budget: float, delta: float) -> float:
    """The order at which `budget` (epsilon) at `delta` holds the most zCDP: one of ORDERS, from public facts alone.

    An infinite budget gives the order of epsilon 8. Raises PrivacyError for a budget that is not above 0.
    """
    check_delta(delta)
    if not budget > 0:
        raise PrivacyError(f"Expected budget={budget} above 0; set privacy.budget_epsilon.")
    # the divergence that still converts to the budget, over the order: the rho of the zCDP that fits
    rho = ((budget if math.isfinite(budget) else _WITHOUT_BUDGET) - _conversion(delta)) / np.asarray(ORDERS)
    return float(ORDERS[int(np.argmax(rho))])


@lru_cache(maxsize=1024)
def order_for(first: Event, budget: float, delta: float) -> float:
    """The order at which the most steps of `first` fit into `budget`: what a history that begins with it should fix.

    `first` is public and known before anything is seen. The order that is best for an unsampled Gaussian
    (`filter_order`) can be far too high under sampling: for 60 steps at q = 0.05 and sigma = 1.2 it is 12 for a budget
    of 2, where epsilon is 55; at order 7 it is 2.7. Budgets above 8 are tuned as 8. Raises as `filter_order`.
    """
    usual = filter_order(budget, delta)
    if first.noise_multiplier == 0:
        return usual
    budget = min(budget, _WITHOUT_BUDGET)
    one = renyi([replace(first, steps=1)])
    room = budget - _conversion(delta)
    steps = np.where(room > 0, room / one, 0.0)
    best = int(np.argmax(steps))
    return float(ORDERS[best]) if steps[best] > 0 else usual


def _conversion(delta: float) -> Floats:
    """What converting a divergence at each of ORDERS to (epsilon, delta) adds to it."""
    orders = np.asarray(ORDERS)
    return np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)


def filter_epsilon(events: Iterable[Event], delta: float, *, order: float) -> float:
    """What the filter holds at `order`, as an epsilon at `delta`; 0 for no events, inf where one had no noise.

    A ledger refuses the event that would bring it above its budget. The budget is what is promised under adaptive
    choices; a value below it is a reading on the way, and a promise of its own only for a history fixed in advance.
    Conversion: Canonne, Kamath and Steinke 2020, Prop. 12. Raises PrivacyError for an order that is not in ORDERS.
    """
    check_delta(delta)
    if order not in ORDERS:
        raise PrivacyError(f"Expected order={order} to be one of mmrank.privacy.renyi_filter.ORDERS; use filter_order.")
    history = merged(events)
    if not history:
        return 0.0
    if without_noise(history):
        return math.inf
    return float(epsilons(renyi(history), delta)[ORDERS.index(order)])
