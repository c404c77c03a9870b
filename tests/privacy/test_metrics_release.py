"""At stake: a measure that tells more of a person than its noise hides, or that tells who has no data."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmrank.errors import PrivacyError
from mmrank.metrics import METRICS
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.metrics_release import Estimate, MetricRelease
from mmrank.privacy.noise import SecureNoise, SeededNoise

RELEASE = MetricRelease(noise_multiplier=4.0)
USERS = dataclasses.replace(RELEASE, unit="user", max_slates=3)
CLIENT = dataclasses.replace(RELEASE, unit="client", max_slates=3)
LOCAL = dataclasses.replace(CLIENT, noise_at="local")

EMPTY = {name: np.zeros(0) for name in METRICS}


def measured(*rows: tuple[float, float]) -> dict[str, np.ndarray]:
    """Values of slates, one (nDCG@10, MRR) each."""
    table = np.array(rows, np.float64).reshape(-1, 2)
    return {"ndcg@10": table[:, 0], "mrr": table[:, 1]}


anything = st.floats(allow_nan=True, allow_infinity=True)
tables = st.lists(st.tuples(anything, anything, st.integers(0, 4)), max_size=20)


def split(table) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return measured(*(row[:2] for row in table)), np.array([row[2] for row in table], np.int64)


@given(table=tables, weight=st.sampled_from([2.0**-24, 0.25, 0.5, 1.0, 16.0]), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_slate_moves_the_sum_by_its_sensitivity_at_most(table, weight, data):
    release = dataclasses.replace(RELEASE, count_weight=weight)
    row = data.draw(st.tuples(anything, anything, st.integers(0, 4)))
    place = data.draw(st.integers(0, len(table)))
    with_it = [*table[:place], row, *table[place:]]
    moved = release.total(split(with_it)[0]) - release.total(split(table)[0])
    assert np.linalg.norm(moved) <= release.sensitivity


@given(table=tables, bundle=st.lists(st.tuples(anything, anything), max_size=9), data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_persons_whole_bundle_moves_the_sum_by_its_sensitivity_at_most(table, bundle, data):
    person = [(*row, 99) for row in bundle]
    joined = data.draw(st.permutations([*table, *person])) if len(table) < 6 else [*person, *table]
    others = [row for row in joined if row[2] != 99]
    moved = USERS.total(*split(joined)) - USERS.total(*split(others))
    assert np.linalg.norm(moved) <= USERS.sensitivity


@given(table=tables, other=tables)
@settings(max_examples=200, deadline=None)
def test_a_clients_vector_is_short_and_two_are_within_what_is_charged(table, other):
    one, two = (CLIENT.total(split(rows)[0]) for rows in (table, other))
    assert np.linalg.norm(one) <= CLIENT.sensitivity
    assert np.linalg.norm(one - two) <= 2 * CLIENT.sensitivity  # half the noise multiplier in LOCAL.event


def test_the_sensitivity_is_reached():
    assert np.linalg.norm(RELEASE.total(measured((1.0, 0.0)))) == RELEASE.sensitivity == math.sqrt(0.75)
    assert np.linalg.norm(CLIENT.total(measured((1.0, 1.0), (1.0, 1.0)))) == CLIENT.sensitivity


def test_three_slates_of_two_people_by_hand():
    values = measured((1.0, 0.5), (0.5, 0.25), (0.25, 1.0), (0.0, 0.0))
    owner = np.array([7, 7, 3, 3])
    assert RELEASE.total(values) == pytest.approx([1.75 - 2, 1.75 - 2, 0.5 * 4])
    assert USERS.total(values, owner) == pytest.approx([0.75 + 0.125 - 1, 0.375 + 0.5 - 1, 0.5 * 2])
    first_slates = dataclasses.replace(USERS, max_slates=1)
    assert first_slates.total(values, owner) == pytest.approx([1.0 + 0.25 - 1, 0.5 + 1.0 - 1, 0.5 * 2])
    assert CLIENT.total(values) == pytest.approx([1.75 / 3 - 0.5, 1.75 / 3 - 0.5, 0.5], abs=1e-7)


def test_a_measure_that_is_no_number_adds_nothing():
    good = measured((0.75, 0.5))
    for bad in (math.nan, math.inf, -math.inf):
        assert (RELEASE.total(measured((0.75, 0.5), (bad, 1.0), (1.0, bad))) == RELEASE.total(good)).all()
        owner = np.array([0, 1, 1])
        assert (USERS.total(measured((0.75, 0.5), (bad, 1.0), (1.0, bad)), owner) == USERS.total(good, owner[:1])).all()
        assert (CLIENT.total(measured((bad, bad))) == 0).all()
    assert (RELEASE.total(measured((3.0, -2.0))) == RELEASE.total(measured((1.0, 0.0)))).all()


def test_the_order_of_slates_moves_no_bit():
    draw = np.random.default_rng(0)
    rows = draw.random((5000, 2))
    owner = draw.integers(0, 700, 5000)
    shuffled = draw.permutation(5000)
    everything = dataclasses.replace(USERS, max_slates=5000)
    assert (RELEASE.total(measured(*rows)) == RELEASE.total(measured(*rows[shuffled]))).all()
    assert (
        everything.total(measured(*rows), owner) == everything.total(measured(*rows[shuffled]), owner[shuffled])
    ).all()
    # one person's mean is the same to the last bit beside others as alone
    alone = everything.total(measured(*rows[owner == 5]), owner[owner == 5])
    others = owner != 5
    assert (
        everything.total(measured(*rows), owner) - everything.total(measured(*rows[others]), owner[others]) == alone
    ).all()


@pytest.mark.parametrize("release", [RELEASE, USERS, CLIENT, LOCAL], ids=["slate", "user", "client", "local"])
def test_an_empty_client_answers_like_any_other(release):
    owner = np.zeros(3, np.int64)
    full = release.release(measured((1, 1), (0.5, 0.5), (0.25, 0.25)), SeededNoise(1, "a"), owner=owner)
    none = release.release(EMPTY, SeededNoise(1, "a"), owner=owner[:0])
    assert none.shape == full.shape == (release.length,)
    assert none.dtype == full.dtype == np.float32
    assert len(none.tobytes()) == len(full.tobytes())
    assert np.isfinite(none).all()
    assert np.count_nonzero(none) > len(none) / 2, "noise, which is exactly 0 on its grid once in a hundred draws"


@pytest.mark.parametrize("release", [RELEASE, USERS, CLIENT, LOCAL], ids=["slate", "user", "client", "local"])
def test_neighbours_with_the_same_noise_differ_by_one_unit_alone(release):
    """What goes out besides the data is the same draw of noise, however many units there are."""
    values, owner = measured((1, 1), (0.5, 0.5), (0.25, 0.75)), np.array([0, 0, 1])
    fewer = {name: column[:2] for name, column in values.items()}
    first = release.release(values, SeededNoise(3, "n"), owner=owner)
    second = release.release(fewer, SeededNoise(3, "n"), owner=owner[:2])
    exact = release.total(values, owner) - release.total(fewer, owner[:2])
    grid = release.std / 32  # both lie on the public grid of their noise
    assert (first - second).astype(np.float64) == pytest.approx(exact, abs=grid)
    assert 0 < np.linalg.norm(exact) <= release.sensitivity * (1 + (release.noise_at == "local"))


def scale_is_accepted(draws: np.ndarray, claimed: float) -> bool:
    """Whether the mean square of `draws` fits N(0, claimed^2), at a false alarm rate of 3e-7 (chi-square)."""
    statistic = float((draws**2).sum()) / claimed**2
    low, high = stats.chi2.ppf([1.5e-7, 1 - 1.5e-7], draws.size)
    return low < statistic < high


@pytest.mark.parametrize("source", [SecureNoise, lambda: SeededNoise(2, "size")], ids=["secure", "seeded"])
def test_the_noise_is_what_the_event_charges_and_another_would_be_seen(source):
    noise, values = source(), measured((1, 0.5), (0.25, 0.5))
    for release in (RELEASE, CLIENT, LOCAL):
        exact = release.total(values)
        draws = np.array([release.release(values, noise) for _ in range(2000)]) - exact
        charged = release.event.noise_multiplier * release.sensitivity * (2 if release.noise_at == "local" else 1)
        assert scale_is_accepted(draws, charged)
        assert not scale_is_accepted(draws, charged * 2 / 3)
        assert not scale_is_accepted(draws, charged * 3 / 2)
        assert abs(np.corrcoef(draws.T)[0, 1]) < 0.15


def test_the_event_is_made_of_the_fields_that_run():
    assert RELEASE.event == Event(sampling_rate=1.0, noise_multiplier=4.0, steps=1)
    assert LOCAL.event == Event(sampling_rate=1.0, noise_multiplier=2.0, steps=1)
    assert epsilon([dataclasses.replace(RELEASE, noise_multiplier=0.0).event], 1e-5) == math.inf


def test_a_vector_beside_an_update_costs_a_little_more_noise():
    update = Event(sampling_rate=0.1, noise_multiplier=1.0, steps=1)
    both = RELEASE.beside(update)
    assert both.sampling_rate == 0.1
    assert 1 / both.noise_multiplier**2 == pytest.approx(1 / 1.0**2 + 1 / 4.0**2)
    assert epsilon([both], 1e-5) > epsilon([update], 1e-5)
    # unsampled, it is the composition of the two
    flat = Event(sampling_rate=1.0, noise_multiplier=2.0, steps=1)
    assert epsilon([RELEASE.beside(flat)], 1e-5) == pytest.approx(epsilon([flat, RELEASE.event], 1e-5), rel=0.01)
    silent = Event(sampling_rate=1.0, noise_multiplier=0.0, steps=1)
    assert epsilon([RELEASE.beside(silent)], 1e-5) == math.inf
    with pytest.raises(PrivacyError, match="steps"):
        RELEASE.beside(Event(sampling_rate=0.1, noise_multiplier=1.0, steps=2))


@pytest.mark.parametrize(("slates", "clients"), [(60, 1), (400, 5), (8, 1)])
def test_intervals_hold_the_exact_mean_as_often_as_they_say(slates, clients):
    """For a count well above its noise, for a sum of several releases, and for one that the noise drowns."""
    rows = np.random.default_rng(slates).beta(3, 2, (slates, 2))
    total = RELEASE.total(measured(*rows))
    spread = dataclasses.replace(RELEASE, noise_multiplier=RELEASE.noise_multiplier * math.sqrt(clients))
    source, hits, repeats = SeededNoise(9, "coverage", slates), 0, 2000
    for _ in range(repeats):
        vector = spread.noised(total, source)
        found = RELEASE.estimates(vector, releases=clients)["ndcg@10"]
        assert 0 <= found.low <= found.high <= 1
        hits += found.low - 1e-6 <= rows[:, 0].mean() <= found.high + 1e-6
    low = stats.binom.ppf(1e-6, repeats, 0.95)
    assert hits >= low
    if slates > 8:  # not by being wide
        assert hits <= stats.binom.ppf(1 - 1e-6, repeats, 0.95)


def test_without_noise_the_estimate_is_the_mean():
    exact = dataclasses.replace(RELEASE, noise_multiplier=0.0)
    vector = exact.release(measured((1.0, 0.5), (0.5, 0.25)), SecureNoise())
    found = exact.estimates(vector)
    assert found["ndcg@10"] == Estimate(mean=0.75, low=0.75, high=0.75)
    assert found["mrr"].mean == 0.375
    assert exact.count(vector) == (2.0, 0.0)


def test_a_count_that_the_noise_drowns_says_nothing():
    found = RELEASE.estimates(np.array([3.0, -2.0, -1.0], np.float32))["mrr"]
    assert math.isnan(found.mean)
    assert (found.low, found.high) == (0.0, 1.0)
    assert RELEASE.count(np.array([3.0, -2.0, -1.0], np.float32))[0] == -2.0


@pytest.mark.parametrize(
    "change",
    [
        {"noise_multiplier": -1.0},
        {"noise_multiplier": math.nan},
        {"measures": ()},
        {"measures": ("ndcg@10", "ndcg@10")},
        {"measures": ("loss",)},
        {"unit": "event"},
        {"max_slates": 0},
        {"count_weight": 0.0},
        {"count_weight": 0.1},
        {"count_weight": math.inf},
        {"noise_at": "server"},
        {"noise_at": "local"},
    ],
    ids=str,
)
def test_a_release_that_can_not_keep_its_promise_is_refused(change):
    with pytest.raises(PrivacyError):
        dataclasses.replace(RELEASE, **change)


def test_values_of_another_shape_are_refused():
    with pytest.raises(PrivacyError, match="mrr are missing"):
        RELEASE.total({"ndcg@10": np.zeros(2)})
    with pytest.raises(PrivacyError, match="one value a slate"):
        RELEASE.total({"ndcg@10": np.zeros(2), "mrr": np.zeros(3)})
    with pytest.raises(PrivacyError, match="owner"):
        USERS.total(measured((1, 1)))
    with pytest.raises(PrivacyError, match="shape"):
        RELEASE.noised(np.zeros(2), SecureNoise())
    with pytest.raises(PrivacyError, match="shape"):
        RELEASE.estimates(np.zeros(2))
