"""At stake: the promise of a ledger whose next plan is chosen in view of the last result."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrank.errors import PrivacyError
from mmrank.privacy._rdp import ORDERS
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.renyi_filter import filter_epsilon, filter_order


def event(rate: float, noise: float, steps: int, family="gaussian") -> Event:
    return Event(sampling_rate=rate, noise_multiplier=noise, steps=steps, family=family)


@given(budget=st.floats(0.1, 20.0), rate=st.floats(1e-3, 1.0), noise=st.floats(0.6, 20.0), steps=st.integers(1, 500))
@settings(max_examples=15, deadline=None)
def test_the_filter_is_never_below_renyi_nor_loss_distributions(budget, rate, noise, steps):
    history = [event(rate, noise, steps)]
    held = filter_epsilon(history, 1e-6, order=filter_order(budget, 1e-6))
    assert held >= epsilon(history, 1e-6, accountant="rdp") >= epsilon(history, 1e-6)


@pytest.mark.parametrize("budget", [0.5, 1.0, 2.0, 4.0, 8.0])
def test_the_order_holds_as_much_as_the_best_order_would(budget):
    """zCDP that fills the budget: fixing the order costs nothing when it is chosen for the budget."""
    delta = 1e-6
    order = filter_order(budget, delta)
    low, high = 0.1, 1e4
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (
            (low, middle) if epsilon([event(1.0, middle, 1)], delta, accountant="rdp") < budget else (middle, high)
        )
    assert filter_epsilon([event(1.0, high, 1)], delta, order=order) == pytest.approx(budget, rel=0.01)


def test_the_order_comes_from_public_facts_alone():
    assert filter_order(2.0, 1e-6) == filter_order(2.0, 1e-6) in ORDERS
    assert filter_order(8.0, 1e-6) < filter_order(1.0, 1e-6) < filter_order(0.1, 1e-6)
    assert filter_order(math.inf, 1e-6) == filter_order(8.0, 1e-6)


def test_divergences_add_up_whatever_the_order_of_the_plans():
    order = filter_order(4.0, 1e-6)
    first, second = event(0.05, 1.0, 40), event(0.01, 0.8, 100)
    together = filter_epsilon([first, second], 1e-6, order=order)
    assert together == filter_epsilon([second, first], 1e-6, order=order)
    alone = filter_epsilon([first], 1e-6, order=order)
    fixed = math.log1p(-1 / order) - math.log(1e-6 * order) / (order - 1)
    assert together - alone == pytest.approx(filter_epsilon([second], 1e-6, order=order) - fixed, abs=1e-9)


def test_concentrated_events_and_empty_histories():
    order = filter_order(4.0, 1e-6)
    sums = event(1.0, 10.0, 10, "concentrated")
    assert filter_epsilon([sums], 1e-6, order=order) == filter_epsilon([event(1.0, 10.0, 10)], 1e-6, order=order)
    assert filter_epsilon([], 1e-6, order=order) == 0.0
    assert filter_epsilon([event(0.1, 0.0, 1)], 1e-6, order=order) == math.inf


def test_an_order_that_was_not_offered_is_refused():
    with pytest.raises(PrivacyError, match="order=3.14159"):
        filter_epsilon([event(0.1, 1.0, 1)], 1e-6, order=3.14159)
    with pytest.raises(PrivacyError, match="budget=0"):
        filter_order(0.0, 1e-6)
