"""At stake: noise that cancels over rounds still has to hide a client that comes back; a wrong sensitivity does not."""

import copy
import itertools
import json
import pickle
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.correlated import CorrelatedNoise, NoiseStream
from mmrank.privacy.noise import SecureNoise, SeededNoise
from mmrank.privacy.participation import Participation
from mmrank.privacy.toeplitz import BufferedToeplitz, optimise, strategy_for

SHIPPED = json.loads((files("mmrank.privacy") / "data" / "strategies.json").read_text())["strategies"]
SMALL = BufferedToeplitz(decay=(0.5, 0.9), weight=(0.3, 0.2))
FACTS = {"rounds": 12, "noise_multiplier": 2.0, "max_participations": 3, "min_separation": 4}

strategies = st.lists(
    st.tuples(st.floats(0, 0.999), st.floats(0, 1)),
    max_size=3,
).map(
    lambda pairs: BufferedToeplitz(
        decay=tuple(decay for decay, _ in pairs), weight=tuple(weight / (len(pairs) + 0.001) for _, weight in pairs)
    )
)


def dense(decay, weight, rounds: int) -> np.ndarray:
    """C from its definition, entry by entry."""
    matrix = np.eye(rounds)
    for row, column in itertools.product(range(rounds), range(rounds)):
        if row > column:
            matrix[row, column] = sum(w * d ** (row - column - 1) for d, w in zip(decay, weight, strict=True))
    return matrix


def patterns(rounds: int, most: int, apart: int):
    """All ways to take part in at most `most` rounds, any two at least `apart` apart."""
    for count in range(1, most + 1):
        for chosen in itertools.combinations(range(rounds), count):
            if all(later - earlier >= apart for earlier, later in itertools.pairwise(chosen)):
                yield list(chosen)


def tree_error(rounds: int, most: int, apart: int) -> float:
    """RMS error of prefix sums of the binary tree, from dense matrices, and flattered: only the nodes that a prefix
    needs count, and the client takes part in rounds 0, b, 2b, ..., which is at most the tree's worst case."""
    nodes, decode = {}, np.zeros((rounds, 4 * rounds))
    for t in range(1, rounds + 1):
        start = 0
        while start < t:
            width = 1 << ((t - start).bit_length() - 1)
            decode[t - 1, nodes.setdefault((start, start + width), len(nodes))] = 1
            start += width
    strategy = np.zeros((4 * rounds, rounds))
    for (start, stop), row in nodes.items():
        strategy[row, start:stop] = 1
    np.testing.assert_array_equal(decode @ strategy, np.tril(np.ones((rounds, rounds))))
    sensitivity = np.linalg.norm(strategy[:, : most * apart : apart].sum(1))
    return float(sensitivity * np.sqrt((decode**2).sum(1).mean()))


@pytest.mark.parametrize("entry", SHIPPED, ids=lambda e: f"{e['rounds']}-{e['max_participations']}")
def test_a_shipped_strategy_is_worth_what_its_numbers_say(entry):
    rounds, most, apart = entry["rounds"], entry["max_participations"], entry["min_separation"]
    matrix = dense(entry["decay"], entry["weight"], min(rounds, 200)) if rounds <= 200 else None
    strategy = strategy_for(rounds, max_participations=most, min_separation=apart)
    assert (list(strategy.decay), list(strategy.weight)) == (entry["decay"], entry["weight"])
    if matrix is not None:
        prefix = np.tril(np.ones((rounds, rounds))) @ np.linalg.inv(matrix)
        assert np.sqrt((prefix**2).sum(1).mean()) == pytest.approx(entry["rms_error"], rel=1e-9)
        moved = np.linalg.norm(matrix[:, : most * apart : apart].sum(1))
        assert moved == pytest.approx(entry["sensitivity"], rel=1e-8)
    assert strategy.rms_error(rounds) == pytest.approx(entry["rms_error"], rel=1e-9)
    assert strategy.sensitivity(rounds, max_participations=most, min_separation=apart) == pytest.approx(
        entry["sensitivity"], rel=1e-12
    )


def test_at_1000_rounds_and_5_participations_the_error_is_at_most_55_percent_of_the_trees():
    entry = next(e for e in SHIPPED if (e["rounds"], e["max_participations"]) == (1000, 5))
    column = np.concatenate([[1.0], np.array(entry["weight"]) @ np.power.outer(entry["decay"], np.arange(999.0))])
    matrix = np.tril(column[np.abs(np.subtract.outer(np.arange(1000), np.arange(1000)))])
    prefix = np.tril(np.ones((1000, 1000))) @ np.linalg.inv(matrix)
    error = np.linalg.norm(matrix[:, ::200].sum(1)) * np.sqrt((prefix**2).sum(1).mean())
    tree = tree_error(1000, 5, 200)
    assert 14 < tree < 17
    assert error <= 0.55 * tree
    assert error == pytest.approx(7.66, abs=0.01)


@given(strategy=strategies, rounds=st.integers(1, 40))
def test_inverse_and_matrix_give_the_identity(strategy, rounds):
    matrix = dense(strategy.decay, strategy.weight, rounds)
    np.testing.assert_allclose(matrix[:, 0], strategy.coefficients(rounds), atol=1e-12)
    inverse = np.zeros((rounds, rounds))
    for column in range(rounds):
        inverse[column:, column] = strategy.inverse_coefficients(rounds)[: rounds - column]
    np.testing.assert_allclose(matrix @ inverse, np.eye(rounds), atol=1e-10)


@given(strategy=strategies, most=st.integers(1, 4), apart=st.integers(1, 5), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_no_way_to_take_part_moves_more_than_the_sensitivity_and_one_moves_as_much(strategy, most, apart, seed):
    rounds, generator = 9, np.random.default_rng(seed)
    matrix = dense(strategy.decay, strategy.weight, rounds)
    claimed = strategy.sensitivity(rounds, max_participations=most, min_separation=apart)
    worst = 0.0
    for chosen in patterns(rounds, most, apart):
        columns = matrix[:, chosen]
        for signs in itertools.product([-1.0, 1.0], repeat=len(chosen)):
            worst = max(worst, float(np.linalg.norm(columns @ np.array(signs))))
        directions = generator.standard_normal((len(chosen), 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        worst = max(worst, float(np.linalg.norm(columns @ directions)))
    assert worst <= claimed <= worst * (1 + 1e-8)


def test_streamed_noise_has_the_covariance_of_the_dense_matrix():
    rounds, size = 12, 40_000
    mechanism = CorrelatedNoise(**FACTS, max_grad_norm=0.5, strategy=SMALL)
    stream, source = NoiseStream(mechanism, size=size, run="a"), SecureNoise()
    rows = np.array([stream.next(source, round_number=t, digest=f"{t}") for t in range(1, rounds + 1)])
    inverse = np.linalg.inv(dense(SMALL.decay, SMALL.weight, rounds))
    expected = inverse @ inverse.T  # of z with standard deviation 2.0 x 0.5
    spread = np.sqrt((np.outer(np.diag(expected), np.diag(expected)) + expected**2) / size)
    assert (np.abs(rows @ rows.T / size - expected) < 6 * spread).all()
    # what a prefix sum has of it is the error that the plan says
    measured = np.sqrt((np.cumsum(rows, 0) ** 2).mean())
    assert measured == pytest.approx(mechanism.rms_error, rel=0.02)
    # and independent noise would have had another
    assert not (np.abs(rows @ rows.T / size - np.eye(rounds)) < 6 * spread).all()


def test_the_event_is_what_the_noise_leaves_of_the_worst_client():
    """Over the reals: the distance of two worlds in units of the released noise, from dense matrices."""
    mechanism = CorrelatedNoise(**FACTS)
    inverse = np.linalg.inv(dense(mechanism.matrix.decay, mechanism.matrix.weight, 12))
    covariance = mechanism.std**2 * inverse @ inverse.T
    apart = []
    for chosen in patterns(12, 3, 4):
        shift = np.zeros(12)
        shift[chosen] = mechanism.max_grad_norm
        apart.append(np.sqrt(shift @ np.linalg.solve(covariance, shift)))
    event = mechanism.event
    assert event.noise_multiplier == pytest.approx(1 / max(apart), rel=1e-7)
    assert event == Event(sampling_rate=1.0, noise_multiplier=event.noise_multiplier, steps=1)
    assert epsilon([event], 1e-6) > epsilon([Event(sampling_rate=1.0, noise_multiplier=2.0, steps=1)], 1e-6)


def test_a_strategy_for_other_facts_is_charged_for_these():
    made_for_one = strategy_for(12, max_participations=1, min_separation=12)
    mechanism = CorrelatedNoise(**FACTS, strategy=made_for_one)
    matrix = dense(made_for_one.decay, made_for_one.weight, 12)
    worst = max(np.linalg.norm(matrix[:, chosen].sum(1)) for chosen in patterns(12, 3, 4))
    assert mechanism.event.noise_multiplier == pytest.approx(2.0 / worst, rel=1e-7)
    assert mechanism.event.noise_multiplier <= 2.0 / worst


def test_facts_that_were_not_shipped_are_computed_and_near_the_shipped_optimum():
    computed = optimise(100, max_participations=5, min_separation=20)
    entry = next(e for e in SHIPPED if (e["rounds"], e["max_participations"]) == (100, 5))
    loss = computed.sensitivity(100, max_participations=5, min_separation=20) * computed.rms_error(100)
    assert loss == pytest.approx(entry["sensitivity"] * entry["rms_error"], rel=5e-3)
    # the same facts in other words find the shipped one
    assert strategy_for(100, max_participations=99, min_separation=20).decay == tuple(entry["decay"])
    other = strategy_for(37, max_participations=3, min_separation=7)
    assert strategy_for(37, max_participations=3, min_separation=7) is other


def test_a_single_round_is_the_gaussian_mechanism():
    mechanism = CorrelatedNoise(rounds=1, noise_multiplier=1.5, max_participations=1, min_separation=1)
    assert mechanism.event.noise_multiplier == pytest.approx(1.5, rel=1e-8)
    assert mechanism.event.noise_multiplier <= 1.5


@pytest.mark.parametrize(
    "bad",
    [
        {"decay": (1.0,), "weight": (0.1,)},
        {"decay": (0.5,), "weight": (-0.1,)},
        {"decay": (0.5, 0.6), "weight": (0.6, 0.6)},
        {"decay": (0.5,), "weight": ()},
        {"decay": (float("nan"),), "weight": (0.1,)},
        {"decay": (0.5,), "weight": (float("nan"),)},
    ],
)
def test_a_strategy_whose_sensitivity_is_not_known_is_refused(bad):
    with pytest.raises(PrivacyError):
        BufferedToeplitz(**bad)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "rounds"),
        ({"max_participations": 13}, "max_participations"),
        ({"max_participations": 0}, "max_participations"),
        ({"min_separation": 0}, "min_separation"),
        ({"min_separation": 2.5}, "min_separation"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"max_grad_norm": float("inf")}, "max_grad_norm"),
    ],
)
def test_a_plan_that_promises_nothing_is_refused(changes, message):
    with pytest.raises(PrivacyError, match=message):
        CorrelatedNoise(**{**FACTS, **changes})


def test_the_noise_of_a_round_is_drawn_once_and_for_one_sum():
    stream, source = NoiseStream(CorrelatedNoise(**FACTS), size=5, run="a"), SecureNoise()
    first = stream.next(source, round_number=1, digest="x")
    np.testing.assert_array_equal(stream.next(source, round_number=1, digest="x"), first)
    with pytest.raises(PrivacyError, match="another sum"):
        stream.next(source, round_number=1, digest="y")
    for wrong in (0, 3):
        with pytest.raises(PrivacyError, match="state of the noise"):
            stream.next(source, round_number=wrong, digest="x")
    # a lost round is given up, and the next one follows
    assert not np.array_equal(stream.next(source, round_number=2, digest="y"), first)
    with pytest.raises(PrivacyError, match="state of the noise"):
        stream.next(source, round_number=1, digest="x")


def test_round_0_and_rounds_past_the_plan_have_no_noise():
    stream, source = NoiseStream(CorrelatedNoise(**FACTS), size=2, run="a"), SecureNoise()
    with pytest.raises(PrivacyError):
        stream.next(source, round_number=0, digest="")
    for number in range(1, 13):
        stream.next(source, round_number=number, digest="x")
    with pytest.raises(PrivacyError, match="12 that were charged"):
        stream.next(source, round_number=13, digest="x")


def test_a_resumed_stream_goes_on_as_if_nothing_had_happened():
    mechanism = CorrelatedNoise(**FACTS)
    whole, broken = (NoiseStream(mechanism, size=4, run="a") for _ in range(2))
    for number in range(1, 7):
        expected = whole.next(SeededNoise(1, number), round_number=number, digest="x")
        got = broken.next(SeededNoise(1, number), round_number=number, digest="x")
        np.testing.assert_array_equal(got, expected)
        again = NoiseStream(mechanism, size=4, run="a")
        again.load_state_dict(broken.state_dict())
        np.testing.assert_array_equal(again.next(SecureNoise(), round_number=number, digest="x"), expected)
        broken = again


@pytest.mark.parametrize(
    "other",
    [
        lambda: NoiseStream(CorrelatedNoise(**FACTS), size=4, run="b"),
        lambda: NoiseStream(CorrelatedNoise(**FACTS), size=5, run="a"),
        lambda: NoiseStream(CorrelatedNoise(**{**FACTS, "noise_multiplier": 1.0}), size=4, run="a"),
        lambda: NoiseStream(CorrelatedNoise(**FACTS, strategy=SMALL), size=4, run="a"),
    ],
)
def test_the_state_of_another_run_model_or_plan_is_refused(other):
    state = NoiseStream(CorrelatedNoise(**FACTS), size=4, run="a").state_dict()
    with pytest.raises(PrivacyError, match="state of the noise"):
        other().load_state_dict(state)


def test_a_stream_cannot_be_duplicated_and_its_vectors_are_the_callers_own():
    stream = NoiseStream(CorrelatedNoise(**FACTS), size=4, run="a")
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(PrivacyError, match="same noise"):
            duplicate(stream)
    drawn = stream.next(SecureNoise(), round_number=1, digest="x")
    kept = drawn.copy()
    drawn[:] = 0
    np.testing.assert_array_equal(stream.next(SecureNoise(), round_number=1, digest="x"), kept)


def test_whatever_cohorts_are_asked_for_no_client_passes_the_plan():
    mechanism, generator = CorrelatedNoise(**FACTS), np.random.default_rng(0)
    for _ in range(30):
        state, history = Participation.of(mechanism), {}
        for number in range(1, 13):
            clients = [f"c{i}" for i in np.flatnonzero(generator.random(6) < 0.7)]
            cohort = state.eligible(clients, number)
            if len(cohort) < len(clients):
                with pytest.raises(PrivacyError, match=r"max_participations|min_separation"):
                    state.admit(clients, number)
            state = state.admit(cohort, number)
            assert sorted(state.cohort_of(number)) == sorted(cohort)
            for client in cohort:
                history.setdefault(client, []).append(number)
            state = Participation.of(mechanism).restored(json.loads(json.dumps(state.to_dict())))
        for rounds in history.values():
            assert len(rounds) <= 3
            assert all(later - earlier >= 4 for earlier, later in itertools.pairwise(rounds))
        assert max(len(rounds) for rounds in history.values()) == 3


def test_a_cohort_is_admitted_once_whole_and_each_client_once():
    state = Participation.of(CorrelatedNoise(**FACTS)).admit(["a", "b"], 2)
    for number in (2, 1, 13):
        with pytest.raises(PrivacyError, match="round"):
            state.admit(["c"], number)
    with pytest.raises(PrivacyError, match="once in a cohort"):
        state.admit(["c", "c"], 3)
    with pytest.raises(PrivacyError, match="Client a took part in round 2, and may again from round 6"):
        state.admit(["c", "a"], 5)
    assert "c" not in state.taken
    assert state.admit(["c", "a"], 6).taken == {"a": (2, 6), "b": (1, 2), "c": (1, 6)}
    with pytest.raises(PrivacyError, match="min_separation"):
        Participation.of(CorrelatedNoise(**{**FACTS, "min_separation": 3})).restored(state.to_dict())
