"""At stake: each epsilon of a plan is true against the viewer that it names, for one unit and for a whole person."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom, norm

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.federations import (
    in_both,
    planned_noise,
    rounds_left,
)
from mmrank.privacy.persons import Share, person_epsilon
from mmrank.privacy.plans import Plan, repeated
from mmrank.privacy.renyi_filter import filter_epsilon, order_for
from mmrank.privacy.size_classes import SizeClass, class_rates, edges


def plan(**changes) -> Plan:
    return Plan(
        **{
            "mechanism": "client_update",
            "unit": "client",
            "noise_at": "central",
            "sampling_rate": 0.05,
            "noise_multiplier": 1.0,
            "delta": 1e-4,
            "rounds": 100,
            **changes,
        }
    )


def merchant(**changes) -> Plan:
    return Plan(
        **{
            "mechanism": "dp_sgd",
            "unit": "user",
            "sampling_rate": 0.05,
            "noise_multiplier": 1.5,
            "delta": 1e-4,
            "rounds": 10,
            "steps_per_round": 5,
            **changes,
        }
    )


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Of a Gaussian whose means lie mu standard deviations apart (Balle and Wang 2018, Theorem 8)."""

    def excess(value: float) -> float:
        return norm.cdf(mu / 2 - value / mu) - math.exp(value + norm.logcdf(-mu / 2 - value / mu)) - delta

    return float(brentq(excess, 0.0, 500.0, xtol=1e-10))


def test_sampling_of_clients_counts_where_the_server_is_trusted_and_cohorts_are_secret():
    central = plan()
    assert 2.86 <= central.epsilon() <= 2.90
    assert central.epsilon(central.claim("server")) == math.inf
    assert "the server" in central.headline.trusted
    known = Event(sampling_rate=1.0, noise_multiplier=1.0, steps=100)
    assert epsilon([known], 1e-4) == pytest.approx(gaussian_epsilon(10.0, 1e-4), rel=0.01)
    assert epsilon([known], 1e-4, accountant="rdp") == pytest.approx(90.93, abs=0.01)  # without Poisson sampling


def test_local_noise_is_charged_for_replacing_a_whole_update_in_every_round():
    local = plan(noise_at="local", noise_multiplier=20.0)
    exact = gaussian_epsilon(2 * math.sqrt(100) / 20.0, 1e-4)
    assert exact <= local.epsilon() <= 1.02 * exact
    assert local.epsilon(local.claim("server")) == local.epsilon(local.claim("released models"))
    assert local.epsilon_of_participations(5) == pytest.approx(gaussian_epsilon(2 * math.sqrt(5) / 20, 1e-4), rel=0.02)


def test_distributed_noise_is_charged_without_sampling_and_as_concentrated():
    shared = plan(noise_at="distributed", noise_multiplier=10.0)
    rho = 100 / (2 * 10.0**2)
    assert gaussian_epsilon(1.0, 1e-4) <= shared.epsilon() <= rho + 2 * math.sqrt(rho * math.log(1e4))
    assert shared.epsilon() == epsilon(
        [Event(sampling_rate=1.0, noise_multiplier=10.0, steps=100)], 1e-4, accountant="rdp"
    )
    assert shared.epsilon() == plan(noise_at="distributed", noise_multiplier=10.0, sampling_rate=0.9).epsilon()


def test_dp_sgd_claims_the_same_against_everybody():
    slates = merchant(unit="slate")
    assert [slates.epsilon(claim) for claim in slates.claims] == [
        epsilon([Event(sampling_rate=0.05, noise_multiplier=1.5, steps=50)], 1e-4)
    ] * 2
    assert all("slate" in claim.adjacency and "Poisson" in claim.sampler for claim in slates.claims)


@pytest.mark.parametrize("noise_at", ["central", "distributed", "local"])
def test_planned_noise_keeps_the_headline_claim(noise_at):
    shape = {"mechanism": "client_update", "unit": "client", "noise_at": noise_at, "sampling_rate": 0.1, "delta": 1e-6}
    noise = planned_noise(**shape, rounds=50, steps_per_round=1, epsilon=4.0)
    assert 0.99 * 4 <= Plan(**shape, rounds=50, noise_multiplier=noise).epsilon() <= 4.0


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"rounds": 0}, "rounds=0"),
        ({"rounds": 2.5}, "rounds=2.5"),
        ({"rounds": 10**7}, "at most 1,000,000 steps"),
        ({"noise_multiplier": 1e-200}, "noise_multiplier=1e-200"),
        ({"noise_multiplier": math.nan}, "noise_multiplier=nan"),
        ({"sampling_rate": 0.0}, "sampling_rate=0.0"),
        ({"sampling_rate": math.nan, "noise_at": "local"}, "sampling_rate=nan"),
        ({"delta": 0.0}, "delta=0.0"),
        ({"unit": "slate"}, "unit='slate'"),
        ({"noise_at": "client"}, "noise_at='client'"),
        ({"mechanism": "no_privacy"}, "mechanism='no_privacy'"),
        ({"steps_per_round": 3}, "steps_per_round=3"),
    ],
)
def test_a_plan_that_can_not_be_is_refused_with_value_and_bound(changes, told):
    with pytest.raises(PrivacyError, match=told):
        plan(**changes)


def hockey_stick(value: float, units: int, rate: float, noise: float) -> float:
    """The larger delta of adding and removing `units` units in one step, from the densities themselves."""
    x = np.linspace(-12 * noise, units + 12 * noise, 1_000_001)
    weights = binom.pmf(range(units + 1), units, rate)
    mixed = sum(weight * norm.pdf(x, shift, noise) for shift, weight in enumerate(weights))
    alone = norm.pdf(x, 0, noise)
    return max(
        float(np.trapezoid(np.maximum(above - math.exp(value) * below, 0.0), x))
        for above, below in ((mixed, alone), (alone, mixed))
    )


@pytest.mark.parametrize(("units", "rate", "noise"), [(5, 0.1, 1.5), (10, 0.02, 2.0)])
def test_a_person_with_many_slates_pays_what_the_mixture_costs(units, rate, noise):
    event = Event(sampling_rate=rate, noise_multiplier=noise, steps=1)
    claimed = person_epsilon([Share(event=event, units=units)], 1e-3)
    assert hockey_stick(claimed, units, rate, noise) <= 1e-3 * (1 + 1e-5)
    assert hockey_stick(0.97 * claimed, units, rate, noise) > 1e-3


@pytest.mark.parametrize(("units", "cost"), [(2, 3.98), (5, 11.64), (10, 27.90)])
def test_a_person_with_many_slates_over_many_steps(units, cost):
    event = Event(sampling_rate=0.01, noise_multiplier=1.0, steps=1000)
    found = person_epsilon([Share(event=event, units=units)], 1e-5)
    assert 0.999 * cost <= found <= 1.015 * cost


def test_units_that_are_all_drawn_are_one_large_unit():
    event = Event(sampling_rate=1.0, noise_multiplier=20.0, steps=25)
    exact = gaussian_epsilon(5 * 5 / 20.0, 1e-5)
    assert exact <= person_epsilon([Share(event=event, units=5)], 1e-5) <= 1.02 * exact + 0.02


def test_losses_that_are_too_large_fall_back_on_a_bound():
    event = Event(sampling_rate=0.5, noise_multiplier=0.1, steps=10)
    assert person_epsilon([Share(event=event, units=10)], 1e-5) >= 1e4
    assert (
        person_epsilon([Share(event=Event(sampling_rate=0.5, noise_multiplier=0.0, steps=1), units=2)], 1e-5)
        == math.inf
    )
    for units in (0, 1001, 2.0, True):
        with pytest.raises(PrivacyError, match="units="):
            Share(event=event, units=units)


def test_a_person_in_both_groups_pays_for_both_composed_and_not_added():
    shop, device = merchant(), plan()
    both = in_both(shop, device, "released models").epsilon
    assert max(shop.epsilon(), device.epsilon()) < both < shop.epsilon() + device.epsilon()
    events = [repeated(p.headline.event, p.rounds) for p in (shop, device)]
    assert both == epsilon(events, 1e-4)
    assert in_both(shop, device, "server").epsilon == math.inf
    shared = plan(noise_at="distributed", noise_multiplier=20.0)
    assert shop.epsilon() < in_both(shop, shared, "server").epsilon < math.inf
    slates = merchant(unit="slate")
    five = in_both(slates, device, "released models", first_units=5).epsilon
    assert five > max(both, person_epsilon([Share(event=repeated(slates.headline.event, 10), units=5)], 1e-4))
    with pytest.raises(PrivacyError, match="one number"):
        in_both(shop, plan(delta=1e-5), "server")
    with pytest.raises(PrivacyError, match="units=5"):
        in_both(slates, shared, "server", first_units=5)


def test_the_rounds_left_fit_and_one_more_does_not():
    claim = plan().headline
    rounds = rounds_left(claim, 2.0, 1e-4)
    assert plan(rounds=rounds).epsilon() <= 2.0 < plan(rounds=rounds + 1).epsilon()
    spent = [repeated(claim.event, 10)]
    assert rounds_left(claim, 2.0, 1e-4, spent=spent, declared=True) == rounds - 10
    assert rounds_left(claim, 1e-3, 1e-4) == 0
    with pytest.raises(PrivacyError, match="Nothing is promised"):
        rounds_left(plan().claim("server"), 2.0, 1e-4)
    with pytest.raises(PrivacyError, match="epsilon=inf"):
        rounds_left(claim, math.inf, 1e-4)


def test_a_plan_chosen_in_view_of_results_is_stopped_by_a_filter_of_one_order():
    claim = plan().headline
    spent = [repeated(claim.event, 20)]
    chosen = rounds_left(claim, 2.9, 1e-4, spent=spent)
    assert 0 < chosen < rounds_left(claim, 2.9, 1e-4, spent=spent, declared=True)
    order = order_for(claim.event, 2.9, 1e-4)
    assert filter_epsilon([*spent, repeated(claim.event, chosen)], 1e-4, order=order) <= 2.9
    assert filter_epsilon([*spent, repeated(claim.event, chosen + 1)], 1e-4, order=order) > 2.9
    unlike = [*spent, Event(sampling_rate=1.0, noise_multiplier=30.0, steps=3)]
    assert rounds_left(claim, 2.9, 1e-4, spent=unlike) <= chosen  # whichever of the two was first
    assert rounds_left(claim, 2.9, 1e-4, spent=[Event(sampling_rate=0.1, noise_multiplier=0.0, steps=1)]) == 0


def test_the_filter_is_renyi_dp_at_that_order():
    order, steps, noise, delta = 8.0, 30, 12.0, 1e-5
    divergence = steps * order / (2 * noise**2)  # Mironov 2017, Corollary 3
    # Canonne, Kamath and Steinke 2020, Proposition 12
    exact = divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    event = Event(sampling_rate=1.0, noise_multiplier=noise, steps=steps)
    assert filter_epsilon([event], delta, order=order) == pytest.approx(exact, rel=1e-9)
    assert filter_epsilon([event], delta, order=order) >= epsilon([event], delta)


def test_classes_give_q_from_the_declared_size_alone():
    sizes = [1e4, 1e3, 1e5]
    assert class_rates(sizes, 100.0) == [0.1, 0.01, 0.001]
    assert [round(low) for low, _ in edges(sizes)] == [316, 3162, 31623]
    assert edges(sizes)[-1][1] == pytest.approx(316_227.77, rel=1e-6)
    found = SizeClass(size=1e4, low=3e3, high=3e4, batch=100.0, plan=merchant(sampling_rate=0.01, noise_multiplier=2.0))
    assert found.expected_batch(1e4) == 100.0
    assert found.signal_to_noise(3e4, parameters=25) == pytest.approx(300 / (2.0 * 5))
    for wrong, told in (
        ([], "classes of different size"),
        ([1e3, 1e3], "different size"),
        ([math.nan], "class of nan"),
    ):
        with pytest.raises(PrivacyError, match=told):
            edges(wrong)
    with pytest.raises(PrivacyError, match="batch=2000"):
        class_rates(sizes, 2000.0)
