"""At stake: the epsilon that is printed; one too small is a false promise to people."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrank.errors import PrivacyError
from mmrank.privacy import accountant
from mmrank.privacy.accountant import Event, epsilon, merged, steps_within


def event(rate: float, noise: float, steps: int) -> Event:
    return Event(sampling_rate=rate, noise_multiplier=noise, steps=steps)


# (q, sigma, T, delta) -> epsilon by PLD at 1e-3 and by Google's RDP accountant, measured with dp-accounting 0.6
TABLE = {
    "A": (0.01, 1.0, 1000, 1e-5, 1.829, 2.101),
    "C": (0.1, 2.0, 100, 1e-5, 2.338, 2.581),
    "D": (1.0, 10.0, 100, 1e-5, 4.377, 4.729),
    "E": (0.5, 4.0, 50, 1e-5, 3.962, 4.310),
}


@pytest.mark.parametrize("row", TABLE)
def test_known_settings_cost_what_the_table_says(row):
    rate, noise, steps, delta, pld, rdp = TABLE[row]
    assert epsilon([event(rate, noise, steps)], delta) == pytest.approx(pld, rel=0.01)
    assert epsilon([event(rate, noise, steps)], delta, accountant="rdp") == pytest.approx(rdp, rel=0.01)


def test_small_epsilons_are_computed_on_the_fine_grid():
    assert epsilon([event(0.005, 5.0, 200)], 1e-6) == pytest.approx(0.051, rel=0.01)


def test_pld_agrees_with_the_exact_gaussian_curve():
    """Unsampled, T steps are one Gaussian mechanism, whose delta(epsilon) is known (Balle and Wang 2018, Eq. 6)."""
    noise, steps, delta = 10.0, 100, 1e-5
    scale = noise / math.sqrt(steps)
    value = epsilon([event(1.0, noise, steps)], delta)

    def phi(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    exact = phi(0.5 / scale - value * scale) - math.exp(value) * phi(-0.5 / scale - value * scale)
    assert exact <= delta
    assert exact == pytest.approx(delta, rel=0.02)


def test_no_events_cost_nothing_and_no_noise_costs_everything():
    assert epsilon([], 1e-6) == 0.0
    assert epsilon([event(0.1, 1.0, 5), event(1.0, 0.0, 1)], 1e-6) == math.inf


def test_rounds_one_by_one_are_one_composed_event():
    rounds = [event(0.05, 1.1, 4)] * 25
    assert epsilon(rounds, 1e-6) == epsilon([event(0.05, 1.1, 100)], 1e-6)


def test_unlike_events_compose_below_the_sum_and_in_any_order():
    first, second = event(0.05, 1.0, 50), event(0.02, 0.8, 70)
    together = epsilon([first, second], 1e-5)
    assert together == epsilon([second, first], 1e-5)
    assert max(epsilon([first], 1e-5), epsilon([second], 1e-5)) < together
    assert together < epsilon([first], 5e-6) + epsilon([second], 5e-6)
    assert together <= epsilon([first, second], 1e-5, accountant="rdp")


@given(rate=st.sampled_from([0.01, 0.1, 0.5]), noise=st.sampled_from([0.8, 1.5, 4.0]), steps=st.integers(1, 60))
@settings(max_examples=15, deadline=None)
def test_more_steps_more_sampling_and_less_noise_cost_more(rate, noise, steps):
    here = epsilon([event(rate, noise, steps)], 1e-6)
    assert here <= epsilon([event(rate, noise, steps + 5)], 1e-6)
    assert here <= epsilon([event(min(1.0, rate * 1.5), noise, steps)], 1e-6)
    assert here <= epsilon([event(rate, noise / 1.3, steps)], 1e-6)


def test_clients_with_one_history_share_one_computation(monkeypatch):
    history = [event(0.031, 1.3, 7)]
    epsilon(history, 1e-6)
    monkeypatch.setattr(accountant, "_composed", lambda *_: pytest.fail("composed again"))
    for _ in range(200):
        epsilon(list(history), 1e-6)


def test_the_steps_left_are_the_most_that_fit():
    spent = [event(0.05, 2.0, 30)]
    left = steps_within(1.0, 1e-6, sampling_rate=0.05, noise_multiplier=2.0, spent=spent)
    assert left > 0
    assert epsilon([*spent, event(0.05, 2.0, left)], 1e-6) <= 1.0
    assert epsilon([*spent, event(0.05, 2.0, left + 1)], 1e-6) > 1.0
    assert steps_within(0.01, 1e-6, sampling_rate=0.5, noise_multiplier=0.5) == 0


def test_merging_counts_equal_events_once():
    assert merged([event(0.1, 1.0, 2), event(0.2, 1.0, 1), event(0.1, 1.0, 3)]) == (
        event(0.1, 1.0, 5),
        event(0.2, 1.0, 1),
    )


def test_the_central_limit_accountant_is_refused():
    with pytest.raises(PrivacyError, match="GDP reports less"):
        epsilon([event(0.1, 1.0, 5)], 1e-6, accountant="gdp")


@pytest.mark.parametrize(
    ("rate", "noise", "steps"),
    [
        (0.0, 1.0, 1),
        (1.2, 1.0, 1),
        (math.nan, 1.0, 1),
        (0.1, -1.0, 1),
        (0.1, math.nan, 1),
        (0.1, 1.0, 0),
        (0.1, 1.0, 1.5),
    ],
)
def test_an_event_out_of_bounds_is_refused(rate, noise, steps):
    with pytest.raises(PrivacyError, match="Expected"):
        event(rate, noise, steps)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-6, math.nan])
def test_a_delta_out_of_bounds_is_refused(delta):
    with pytest.raises(PrivacyError, match="delta"):
        epsilon([event(0.1, 1.0, 1)], delta)


def test_an_epsilon_too_large_to_compose_is_bounded_from_above():
    """A distribution of losses this wide would take all memory."""
    event = Event(sampling_rate=0.2, noise_multiplier=0.01, steps=100)
    assert epsilon([event], 1e-6) == epsilon([event], 1e-6, accountant="rdp") > 200
