"""At stake: the epsilon that is printed; one too small is a false promise to people."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrank.errors import PrivacyError
from mmrank.privacy import _prv, accountant
from mmrank.privacy.accountant import Event, accountant_used, epsilon, merged, steps_within


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
@settings(max_examples=6, deadline=None)
def test_more_steps_more_sampling_and_less_noise_cost_more(rate, noise, steps):
    here = epsilon([event(rate, noise, steps)], 1e-6)
    assert here <= epsilon([event(rate, noise, steps + 5)], 1e-6)
    assert here <= epsilon([event(min(1.0, rate * 1.5), noise, steps)], 1e-6)
    assert here <= epsilon([event(rate, noise / 1.3, steps)], 1e-6)


def test_little_noise_is_too_narrow_for_loss_variables_and_another_accountant_says_so():
    history = [Event(sampling_rate=1.0, noise_multiplier=0.1, steps=1)]
    used = accountant_used(history, "prv", delta=1e-5)
    assert used != "prv"
    assert epsilon(history, 1e-5, accountant="prv") >= epsilon(history, 1e-5)


@pytest.mark.parametrize("method", ["pld", "rdp", "prv"])
def test_rounds_whose_settings_change_half_way_cost_between_the_two(method):
    """Planned in advance: 50 rounds, then 50 with twice the cohort, or with less noise."""
    gentle, wider, louder = event(0.05, 1.2, 50), event(0.1, 1.2, 50), event(0.05, 0.9, 50)
    for harsh in (wider, louder):
        value = epsilon([gentle, harsh], 1e-6, accountant=method)
        assert epsilon([gentle] * 2, 1e-6, accountant=method) < value < epsilon([harsh] * 2, 1e-6, accountant=method)


def test_a_hundred_rounds_of_a_twentieth_cost_at_most_2_point_9():
    assert epsilon([event(0.05, 1.0, 100)], 1e-4) <= 2.90


PRV = [
    ([(0.01, 1.0, 1000)], 1e-5),
    ([(0.1, 2.0, 100)], 1e-5),
    ([(1.0, 10.0, 100)], 1e-5),
    ([(0.5, 4.0, 50)], 1e-5),
    ([(0.05, 1.0, 100)], 1e-8),
    ([(0.01, 1.0, 300), (0.03, 1.5, 200), (1.0, 20.0, 5)], 1e-6),
    ([(0.2, 0.5, 30)], 1e-6),
]


@pytest.mark.parametrize(("parts", "delta"), PRV)
def test_prv_is_close_to_pld_and_not_below_it(parts, delta):
    history = [event(*part) for part in parts]
    by_losses, by_variables = epsilon(history, delta), epsilon(history, delta, accountant="prv")
    assert accountant_used(history, "prv", delta=delta) == "prv"
    assert by_losses <= by_variables <= by_losses * 1.01 + 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "delta"), [([(0.001, 0.6, 10_000)], 1e-6), ([(0.005, 5.0, 200)], 1e-6)])
def test_prv_is_close_to_pld_on_large_grids(parts, delta):
    test_prv_is_close_to_pld_and_not_below_it(parts, delta)


def test_prv_takes_the_worse_direction():
    """The larger of both, each composed by itself: removing costs more, and adding is not forgotten."""
    history = [event(0.05, 1.0, 100)]
    both = [v.compute_epsilon(1e-5, 1e-8, 0.005)[1] for v in _prv._composed(history, 1e-5)[0]]
    assert both[0] > both[1] > 1.5
    assert epsilon(history, 1e-5, accountant="prv") > max(both)


@pytest.mark.parametrize("method", ["pld", "rdp", "prv"])
@pytest.mark.parametrize("parts", [[(0.05, 1.0, 100)], [(1.0, 5.0, 10)], [(0.01, 1.0, 100), (0.02, 2.0, 50)]])
def test_delta_answers_the_inverse_question(method, parts):
    history = [event(*part) for part in parts]
    value = accountant.delta(history, 2.0, accountant=method)
    back = epsilon(history, value * (1 + 1e-6), accountant=method)
    assert back == pytest.approx(2.0, rel=0.02)
    assert accountant.delta(history, 3.0, accountant=method) < value
    assert accountant.delta(history, epsilon(history, 1e-5, accountant=method), accountant=method) == pytest.approx(
        1e-5, rel=0.15
    )


def test_delta_without_events_or_noise():
    assert accountant.delta([], 1.0) == 0.0
    assert accountant.delta([event(0.1, 0.0, 1)], 1.0) == 1.0
    assert accountant.delta([event(0.1, 1.0, 1)], math.inf) == 0.0
    with pytest.raises(PrivacyError, match="epsilon=-1"):
        accountant.delta([event(0.1, 1.0, 1)], -1.0)


def test_a_concentrated_event_is_composed_by_renyi():
    """Only its zCDP is known: 40 steps at rho = 1/200 are rho = 0.2."""
    sums = Event(sampling_rate=1.0, noise_multiplier=10.0, steps=40, family="concentrated")
    rho, delta = 0.2, 1e-6
    # Bun and Steinke 2016, Prop. 1.3, from above; their Lemma for the exact Gaussian of this rho, from below
    gaussian = epsilon([event(1.0, 10.0, 40)], delta)
    assert gaussian < epsilon([sums], delta) < rho + 2 * math.sqrt(rho * math.log(1 / delta))
    for method in ("pld", "rdp", "prv"):
        assert epsilon([sums], delta, accountant=method) == epsilon([sums], delta, accountant="rdp")
        assert accountant_used([sums, event(0.1, 1.0, 5)], method) == "rdp"
    assert accountant_used([event(0.1, 1.0, 5)]) == "pld"
    assert merged([sums, event(1.0, 10.0, 40)]) == (sums, event(1.0, 10.0, 40))
    assert 0 < accountant.delta([sums], 3.0) < 1e-4


def test_a_concentrated_event_gains_nothing_from_sampling():
    with pytest.raises(PrivacyError, match="unamplified"):
        Event(sampling_rate=0.5, noise_multiplier=1.0, steps=1, family="concentrated")
    with pytest.raises(PrivacyError, match="family='laplace'"):
        Event(sampling_rate=1.0, noise_multiplier=1.0, steps=1, family="laplace")


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
    with pytest.raises(PrivacyError, match="reports less than is spent"):
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
    assert accountant_used([event], "pld") == accountant_used([event], "prv") == "rdp"


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "delta"),
    [
        (1e-9, 1.0, 1, 1e-10),  # a rate whose divergence is below double precision's 1e-16
        (1e-9, 1.0, 10_000_000, 1e-10),
        (1e-4, 1.0, 10_000_000, 1e-10),  # rounding of the transforms would be above delta
        (1.0, 1000.0, 10_000_000, 1e-10),
        (1.0, 1e-3, 1, 1e-10),
        (1e-6, 0.01, 1, 1e-10),  # one step's losses would take 6 million points
        (0.999999999, 1.0, 10, 1e-6),
        (0.5, 1e6, 1, 0.9),
    ],
)
def test_edges_are_bounded_without_a_warning(rate, noise, steps, delta):
    """pytest makes each warning an error; the bound without sampling, as one Gaussian, is above all of them."""
    history = [event(rate, noise, steps)]
    unsampled = epsilon([event(1.0, noise, steps)], delta)
    by_renyi = epsilon(history, delta, accountant="rdp")
    assert 0 <= epsilon(history, delta) <= by_renyi
    assert epsilon(history, delta) <= unsampled * (1 + 1e-6)
    assert epsilon(history, delta, accountant="prv") <= max(by_renyi, unsampled * 1.01 + 0.01)


def test_a_rate_too_small_to_resolve_still_costs():
    """dp-accounting's RDP takes the log of 1 + 1e-18, finds 0, and reports that nothing was spent."""
    history = [event(1e-9, 0.5, 10_000_000)]
    assert accountant.delta(history, 0.0, accountant="rdp") > 1e-7


def test_noise_that_is_next_to_none_is_charged_as_none():
    assert epsilon([event(0.1, 1e-200, 1)], 1e-6) == math.inf
