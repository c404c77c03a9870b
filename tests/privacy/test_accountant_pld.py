"""At stake: the epsilon in every report; an independent composition must find it neither low nor 1% high."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrank.privacy._pld import LARGE_EPSILON, RESOLVED, _composed, _gaussian_noise, _intervals
from mmrank.privacy.accountant import Event, accountant_used, delta, epsilon, merged
from mmrank.privacy.events import UNIT
from tests.privacy.references import epsilon_bounds


def event(rate: float, noise: float, steps: int) -> Event:
    return Event(sampling_rate=rate, noise_multiplier=noise, steps=steps)


SETTINGS = {
    "A": ([(0.01, 1.0, 1000)], 1e-5),
    "C": ([(0.1, 2.0, 100)], 1e-5),
    "D": ([(1.0, 10.0, 100)], 1e-5),
    "E": ([(0.5, 4.0, 50)], 1e-5),
    "F": ([(0.01, 0.8, 2000)], 1e-6),
    "G": ([(0.005, 5.0, 200)], 1e-6),
    "a public target": ([(0.05, 1.0, 100)], 1e-4),
    "small delta": ([(0.01, 1.0, 1000)], 1e-10),
    "little noise": ([(0.2, 0.5, 30)], 1e-6),
    "one step": ([(0.3, 1.0, 1)], 1e-6),
    "sigma halved half-way": ([(0.02, 2.0, 100), (0.02, 1.0, 100)], 1e-6),
    "rate doubled half-way": ([(0.02, 1.0, 100), (0.04, 1.0, 100)], 1e-6),
    "with unsampled rounds": ([(0.01, 1.0, 1000), (1.0, 30.0, 100)], 1e-6),
}
LONG = {
    "B": ([(0.001, 0.6, 10_000)], 1e-6),
    "H": ([(0.05, 1 + 0.1 * i, 1 + i % 3) for i in range(20)], 1e-5),
    "a million steps": ([(0.001, 1.0, 1_000_000)], 1e-6),
    **{
        f"q={rate} sigma={noise} T={steps} delta={at}": ([(rate, noise, steps)], at)
        for rate in (0.003, 0.03, 0.3)
        for noise in (0.7, 1.5, 4.0)
        for steps in (1, 30, 1000)
        for at in (1e-4, 1e-9)
        if rate * math.sqrt(steps) / noise > 0.01
    },
}


def assert_agrees(parts, at):
    value = epsilon([event(*part) for part in parts], at)
    low, high = zip(*(epsilon_bounds(parts, at, removed=r, about=value) for r in (True, False)), strict=True)
    assert max(high) - max(low) <= 0.01 * value  # the reference has resolved what it is to judge
    assert max(low) <= value
    if accountant_used([event(*part) for part in parts], delta=at) == "pld":
        assert value <= 1.01 * max(high)
    else:
        assert value > LARGE_EPSILON


@pytest.mark.parametrize("name", SETTINGS)
def test_pld_agrees_with_an_independent_composition(name):
    assert_agrees(*SETTINGS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_pld_agrees_with_an_independent_composition_on_a_long_grid(name):
    parts, at = LONG[name]
    if epsilon([event(*part) for part in parts], at) == 0:
        low, _ = epsilon_bounds(parts, at, removed=True, about=0.01)
        assert low <= 0
    else:
        assert_agrees(parts, at)


@pytest.mark.parametrize(("noise", "steps"), [(10.0, 100), (0.5, 1), (2.0, 7), (500.0, 10_000_000)])
def test_unsampled_rounds_are_one_gaussian(noise, steps):
    """Exactly (Balle and Wang 2018), at any number of steps and any epsilon."""
    value = epsilon([event(1.0, noise, steps)], 1e-8)
    assert delta([event(1.0, noise, steps)], value) == pytest.approx(1e-8, rel=1e-5)
    assert value == pytest.approx(epsilon([event(1.0, noise / math.sqrt(steps), 1)], 1e-8), rel=1e-7)


@pytest.mark.parametrize(("steps", "at", "used"), [(1000, 1e-10, "pld"), (10_000_000, 1e-10, "rdp")])
def test_where_rounding_reaches_delta_renyi_takes_over(steps, at, used):
    history = [event(0.001, 2.0, steps)]
    assert accountant_used(history, delta=at) == used
    assert 0 < epsilon(history, at) <= epsilon(history, at, accountant="rdp")


def test_a_small_epsilon_is_composed_on_a_finer_grid():
    """What the coarse grid adds to each step's loss would otherwise be a large part of it."""
    for parts in ([(0.005, 5.0, 200)], [(1e-4, 1.0, 10_000)], [(0.001, 1.0, 1_000_000)]):
        history = merged([event(*part) for part in parts])
        value = epsilon(history, 1e-6)
        finest = min(_intervals(history, UNIT))
        assert value >= RESOLVED * finest or finest == 1e-5
    assert _composed(history, UNIT, 1e-3).get_epsilon_for_delta(1e-6) > 1.04 * value


def test_precisions_add_up():
    assert _gaussian_noise([event(1.0, 3.0, 1), event(1.0, 4.0, 1)]) == pytest.approx(2.4)


RATES, NOISES = st.floats(1e-4, 1.0), st.floats(0.4, 20.0)


@pytest.mark.slow
@given(rate=RATES, noise=NOISES, steps=st.integers(1, 2000), at=st.floats(1e-10, 1e-3), more=st.floats(1.02, 3.0))
@settings(max_examples=25, deadline=None)
def test_epsilon_is_monotone_in_every_parameter(rate, noise, steps, at, more):
    # two grids may round by different parts of a thousandth
    here = epsilon([event(rate, noise, steps)], at) * (1 - 0.003)
    assert here <= epsilon([event(min(1.0, rate * more), noise, steps)], at)
    assert here <= epsilon([event(rate, noise / more, steps)], at)
    assert here <= epsilon([event(rate, noise, math.ceil(steps * more))], at)
    assert here <= epsilon([event(rate, noise, steps)], max(1e-10, at / more))
    assert here <= epsilon([event(rate, noise, steps), event(0.01, 3.0, 1)], at)
    assert here <= epsilon([event(rate, noise, steps)], at, accountant="rdp")
