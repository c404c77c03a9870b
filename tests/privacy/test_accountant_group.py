"""At stake: what a person with many slates is told; k times the unit's epsilon would be a wrong number both ways."""

import itertools
import math

import numpy as np
import pytest
from dp_accounting import NeighboringRelation
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.group import changed_epsilon, group_epsilon
from tests.privacy.references import one_step_epsilon


def event(rate: float, noise: float, steps: int = 1, family="gaussian") -> Event:
    return Event(sampling_rate=rate, noise_multiplier=noise, steps=steps, family=family)


def density(x, mean, noise):
    return np.exp(-(((x - mean) / noise) ** 2) / 2) / (noise * math.sqrt(2 * math.pi))


@pytest.mark.parametrize(("units", "value"), [(1, 1.83), (2, 3.98), (5, 11.6), (10, 27.9)])
def test_a_person_with_k_slates_pays_what_the_mixture_costs(units, value):
    """The field's own figures for rate 0.01, noise 1, 1,000 steps (Charles et al. 2024's accounting)."""
    assert group_epsilon([event(0.01, 1.0, 1000)], 1e-5, units=units) == pytest.approx(value, rel=0.01)


@pytest.mark.parametrize(
    ("rate", "noise", "units"), list(itertools.product([0.01, 0.2, 0.7], [0.6, 2.0], [2, 5])) + [(1.0, 3.0, 4)]
)
def test_one_step_of_a_group_agrees_with_integration(rate, noise, units):
    x = np.linspace(-14 * noise, units + 14 * noise, 50_001)
    mixed = sum(binom.pmf(k, units, rate) * density(x, k, noise) for k in range(units + 1))
    alone, step = density(x, 0.0, noise), x[1] - x[0]
    for at in (1e-3, 1e-7):
        exact = max(one_step_epsilon(mixed, alone, step, at), one_step_epsilon(alone, mixed, step, at))
        value = group_epsilon([event(rate, noise)], at, units=units)
        assert exact * (1 - 1e-6) <= value <= exact * 1.01 + 2e-4


def test_a_group_of_one_is_a_unit_and_of_none_pays_nothing():
    history = [event(0.05, 1.0, 50), event(0.02, 2.0, 7)]
    assert group_epsilon(history, 1e-6, units=1) == epsilon(history, 1e-6)
    assert group_epsilon(history, 1e-6, units=0) == group_epsilon([], 1e-6, units=3) == 0.0


def test_an_unsampled_group_is_a_gaussian_of_its_size():
    assert group_epsilon([event(1.0, 8.0, 3)], 1e-6, units=4) == pytest.approx(
        epsilon([event(1.0, 2.0, 3)], 1e-6), rel=1e-9
    )
    assert changed_epsilon([event(1.0, 8.0, 3)], 1e-6, own=2, changed=1) == pytest.approx(
        epsilon([event(1.0, 2.0, 3)], 1e-6), rel=1e-9
    )


def test_a_group_under_concentrated_noise_pays_its_square():
    sums = event(1.0, 20.0, 3, "concentrated")
    assert group_epsilon([sums], 1e-6, units=4) == pytest.approx(
        epsilon([event(1.0, 5.0, 3, "concentrated")], 1e-6), rel=1e-9
    )
    mixed = [sums, event(0.1, 2.0, 10)]
    assert group_epsilon(mixed, 1e-6, units=3) > group_epsilon(mixed, 1e-6, units=2) > epsilon(mixed, 1e-6)


REPLACED = [
    (0.01, 1.0, 1000, 1e-5, 0.005),
    (0.1, 2.0, 100, 1e-5, 0.02),
    pytest.param(0.001, 0.6, 10_000, 1e-6, 0.005, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("rate", "noise", "steps", "at", "within"), REPLACED)
def test_one_changed_unit_is_just_above_the_pair_conjectured_to_be_worst(rate, noise, steps, at, within):
    """dp-accounting composes -C against +C under one coin (conjectured: Lebeda et al. 2024); ours is proved."""
    pair = privacy_loss_distribution.from_gaussian_mechanism(
        noise,
        sampling_prob=rate,
        value_discretization_interval=1e-3,
        neighboring_relation=NeighboringRelation.REPLACE_ONE,
    ).self_compose(steps)
    conjectured = pair.get_epsilon_for_delta(at)
    assert conjectured * 0.999 <= changed_epsilon([event(rate, noise, steps)], at, own=0, changed=1)
    assert changed_epsilon([event(rate, noise, steps)], at, own=0, changed=1) <= conjectured * (1 + within)


@pytest.mark.parametrize(
    "rate", [pytest.param(0.02, marks=pytest.mark.slow), 0.3, pytest.param(0.8, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("noise", [0.7, pytest.param(2.0, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("own", "changed"), [(0, 1), (1, 1), (1, 2), (2, 1), (0, 3)])
def test_one_step_of_changed_units_is_never_below_what_can_happen(rate, noise, own, changed):
    """On a line: each own unit is worth +-1, each changed one goes from one of -1, 0, 1 to another."""
    reach = own + changed
    x = np.linspace(-reach - 12 * noise, reach + 12 * noise, 4_001)
    step = x[1] - x[0]
    coins = [
        (binom.pmf(a, own, rate) * binom.pmf(b, changed, rate), a, b)
        for a in range(own + 1)
        for b in range(changed + 1)
    ]
    worst = dict.fromkeys((1e-2, 1e-6), 0.0)
    for mine, before, after in itertools.product((-1, 1), (-1, 0, 1), (-1, 0, 1)):
        p = sum(w * density(x, mine * a + before * b, noise) for w, a, b in coins)
        q = sum(w * density(x, after * b, noise) for w, a, b in coins)
        for at in worst:
            worst[at] = max(worst[at], one_step_epsilon(p, q, step, at), one_step_epsilon(q, p, step, at))
    for at, exact in worst.items():
        value = changed_epsilon([event(rate, noise)], at, own=own, changed=changed)
        assert exact * (1 - 1e-6) <= value
        assert value <= epsilon([event(1.0, noise / (own + 2 * changed))], at) * 1.01 + 1e-3


@pytest.mark.parametrize("angle", [0.5, 1.0, 2.0, 2.6, math.pi])
def test_a_changed_unit_may_turn_by_any_angle(angle):
    """In the plane: the unit's vector turns; the opposite one must be the costliest that the bound has to cover."""
    rate, noise, at = 0.2, 1.0, 1e-5
    axis = np.linspace(-8, 8, 401)
    x, y = np.meshgrid(axis, axis)
    nothing = density(x, 0, noise) * density(y, 0, noise)
    p = (1 - rate) * nothing + rate * density(x, 1, noise) * density(y, 0, noise)
    turned = density(x, math.cos(angle), noise) * density(y, math.sin(angle), noise)
    q = (1 - rate) * nothing + rate * turned
    exact = one_step_epsilon(p, q, (axis[1] - axis[0]) ** 2, at)
    assert 0 < exact <= changed_epsilon([event(rate, noise)], at, own=0, changed=1) * (1 + 1e-4)


def test_an_event_in_other_histories_costs_less_than_leaving_and_entering():
    history, at = [event(0.01, 1.0, 1000)], 1e-5
    own = group_epsilon(history, at, units=1)
    values = [changed_epsilon(history, at, own=1, changed=count) for count in (0, 1, 2)]
    assert values[0] == own
    assert own < values[1] < values[2]
    # taking 1 + k units out and putting k in again: epsilons of a chain, delta shared (1 + exp(epsilon) of it)
    chain = group_epsilon(history, at / 2, units=2) + group_epsilon(history, at / 2 / math.exp(4.2), units=1)
    assert values[1] < chain


def test_what_cannot_be_composed_is_infinite_or_renyis_bound():
    huge = group_epsilon([event(0.5, 0.3, 1000)], 1e-6, units=10)
    assert huge > 1000
    assert group_epsilon([event(0.5, 0.0, 1)], 1e-6, units=2) == math.inf


@pytest.mark.parametrize("count", [-1, 1.5, True])
def test_a_count_out_of_bounds_is_refused(count):
    with pytest.raises(PrivacyError, match="own="):
        group_epsilon([event(0.1, 1.0)], 1e-6, units=count)
    with pytest.raises(PrivacyError, match="changed="):
        changed_epsilon([event(0.1, 1.0)], 1e-6, own=1, changed=count)


@given(
    rate=st.floats(1e-3, 1.0),
    noise=st.floats(0.6, 10.0),
    steps=st.integers(1, 50),
    own=st.integers(0, 3),
    changed=st.integers(0, 2),
)
@settings(max_examples=8, deadline=None)
def test_more_units_never_cost_less(rate, noise, steps, own, changed):
    history = [event(rate, noise, steps)]
    here = changed_epsilon(history, 1e-6, own=own, changed=changed) * (1 - 0.005)
    assert here <= changed_epsilon(history, 1e-6, own=own + 1, changed=changed)
    assert here <= changed_epsilon(history, 1e-6, own=own, changed=changed + 1)
    assert here <= changed_epsilon([event(rate, noise, steps + 5)], 1e-6, own=own, changed=changed)
    assert here <= changed_epsilon([event(rate, noise / 1.2, steps)], 1e-6, own=own, changed=changed)
