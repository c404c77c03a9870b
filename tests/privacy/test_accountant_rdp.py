"""At stake: the fallback of every accountant, and the filter's currency: a Renyi divergence that is too small."""

import math

import numpy as np
import pytest

from mmrank.privacy import _rdp
from mmrank.privacy._rdp import ORDERS, renyi
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.events import Relation
from tests.privacy.references import renyi_by_integration

STATED = (1.02, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.7, 6.25, 8.0, 12.0, 16.0, 32.0, 64.0)


def event(rate: float, noise: float, steps: int = 1) -> Event:
    return Event(sampling_rate=rate, noise_multiplier=noise, steps=steps)


@pytest.mark.parametrize(
    ("rate", "noise"), [(0.01, 1.0), (0.5, 4.0), (0.001, 0.6), (0.05, 10.0), (0.2, 0.3), (0.9, 0.7), (1.0, 2.0)]
)
def test_divergences_agree_with_integration_at_each_order(rate, noise):
    divergences = dict(zip(ORDERS, renyi([event(rate, noise)]), strict=True))
    for order in STATED:
        gaussian = (order - 1) * order / (2 * noise**2)
        exact = gaussian if rate == 1 else renyi_by_integration(rate, noise, order)
        # the reference's own rounding is 1e-14 of a mass of 1
        assert divergences[order] * (order - 1) == pytest.approx(exact, rel=1e-7, abs=1e-13)
        assert divergences[order] * (order - 1) >= exact * (1 - 1e-10) - 1e-13


def test_small_rates_keep_their_digits():
    """To second order in the rate, D = order rate^2 (exp(1 / noise^2) - 1) / 2 (Mironov et al. 2019, section 3.3)."""
    rate = 1e-9
    divergences = renyi([event(rate, 1.0)])
    for order, value in zip(ORDERS, divergences, strict=True):
        if order <= 10:
            assert value == pytest.approx(order * rate**2 * math.expm1(1.0) / 2, rel=1e-4)


def test_divergences_rise_with_the_order_and_add_up():
    history = [event(0.03, 1.1, 10), event(0.2, 2.0, 3)]
    total = renyi(history)
    assert (np.diff(total) > 0).all()
    np.testing.assert_allclose(total, 10 * renyi([event(0.03, 1.1)]) + 3 * renyi([event(0.2, 2.0)]))


def test_conversion_is_the_gaussians_up_to_what_renyi_loses():
    """Canonne, Kamath and Steinke 2020, Prop. 12, at the order that is best for one Gaussian."""
    rho, at = 0.5, 1e-6
    best = min(a * rho + math.log1p(-1 / a) - math.log(at * a) / (a - 1) for a in np.linspace(1.01, 50, 20_000))
    assert epsilon([event(1.0, 1.0)], at, accountant="rdp") == pytest.approx(best, rel=1e-3)


def test_a_group_costs_more_than_its_parts_and_less_than_unsampled():
    for relation in (Relation(3, 0), Relation(0, 1), Relation(2, 2)):
        step = renyi([event(0.1, 2.0)], relation)
        assert (step >= renyi([event(0.1, 2.0)])).all()
        assert (step <= np.asarray(ORDERS) * relation.distance**2 / 8 * (1 + 1e-6)).all()


def test_a_pair_of_units_is_bounded_above_integration():
    rate, noise, x = 0.1, 1.0, np.linspace(-15, 30, 100_001)
    mixed = sum(
        weight * np.exp((size * x - size**2 / 2) / noise**2) for size, weight in ((0, 0.81), (1, 0.18), (2, 0.01))
    )
    base = np.exp(-((x / noise) ** 2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    bound = dict(zip(ORDERS, renyi([event(rate, noise)], Relation(2, 0)), strict=True))
    for order in (1.5, 2.0, 4.0, 8.0):
        assert bound[order] >= math.log(base @ mixed**order) / (order - 1)


def test_little_noise_stays_below_the_bound_without_sampling():
    for noise in (0.01, 0.019, 0.021):
        assert (_rdp._step(0.01, noise, "gaussian", Relation()) <= np.asarray(ORDERS) / noise**2 / 2 * 1.000001).all()
