"""At stake: dropping a noisy matrix's weakest directions must keep what was learned, for good and on every rule."""

import numpy as np
import pytest

from mmrank import components
from mmrank.errors import ConfigError
from server.aggregation._low_rank import truncated

SHAPE = (24, 40)
RULES = {
    "fedavg": {},
    "fedprox": {"mu": 0.1},
    "fedadam": {"server_learning_rate": 1.0},
}


def rule(name="fedavg", **settings):
    return components.build("server.aggregation", {"name": name, **RULES[name], **settings})


def model():
    return {"head.weight": np.zeros(SHAPE, np.float32), "head.bias": np.zeros(SHAPE[0], np.float32)}


def signal(rank, seed=0):
    draw = np.random.default_rng(seed)
    return (draw.normal(size=(SHAPE[0], rank)) @ draw.normal(size=(rank, SHAPE[1]))).astype(np.float32)


def rounds(subject, sent):
    """The models after each of `sent`, arrays that one client sends as the matrix's update."""
    state, params, models = subject.init(model()), model(), []
    for matrix in sent:
        update = {"head.weight": matrix, "head.bias": np.ones(SHAPE[0], np.float32)}
        state, params = subject.apply(state, params, {"a": update})
        models.append(params)
    return models


def test_it_is_the_best_approximation_of_that_rank():
    matrix = signal(3) + 0.1 * np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    for rank in (1, 3, 10):
        near = truncated(matrix, rank)
        assert np.linalg.matrix_rank(near.astype(np.float64), tol=1e-4) == rank
        assert np.linalg.norm(matrix - near) == pytest.approx(np.sqrt((values[rank:] ** 2).sum()), rel=1e-5)
    np.testing.assert_allclose(truncated(matrix, 24), matrix, atol=1e-5)


def test_noise_is_dropped_and_what_is_learned_stays():
    draw = np.random.default_rng(5)
    learned = signal(2) / 10
    sent = [learned + draw.normal(size=SHAPE).astype(np.float32) for _ in range(50)]
    whole, kept = (rounds(rule(**settings), sent)[-1]["head.weight"] for settings in ({}, {"low_rank": {"head": 2}}))
    assert np.linalg.norm(kept - 50 * learned) < 0.5 * np.linalg.norm(whole - 50 * learned)


def test_a_direction_that_rises_slowly_is_not_forgotten():
    """Each round's second direction is dropped at rank 1, until it is the greater one."""
    first, second = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    first[0, 0], second[1, 1] = 4.0, 1.0
    models = rounds(rule(low_rank={"head": 1}), [first, *[second] * 5])
    for early in models[:4]:
        assert early["head.weight"][0, 0] == pytest.approx(4)
        assert early["head.weight"][1, 1] == pytest.approx(0, abs=1e-6)
    assert models[5]["head.weight"][1, 1] == pytest.approx(5)
    assert models[5]["head.weight"][0, 0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", RULES)
def test_at_full_rank_every_rule_does_what_it_did(name):
    sent = [signal(24, seed) / 10 for seed in range(3)]
    for plain, full in zip(
        rounds(rule(name), sent), rounds(rule(name, low_rank={"head.weight": 24}), sent), strict=True
    ):
        np.testing.assert_allclose(full["head.weight"], plain["head.weight"], atol=1e-4)
        np.testing.assert_array_equal(full["head.bias"], plain["head.bias"])


@pytest.mark.parametrize("name", RULES)
def test_each_model_of_each_rule_has_the_rank_and_vectors_are_left_alone(name):
    for number, params in enumerate(rounds(rule(name, low_rank={"head": 3}), [signal(9, seed) for seed in range(3)])):
        assert np.linalg.matrix_rank(params["head.weight"].astype(np.float64), tol=1e-3) == 3, number
        assert params["head.weight"].dtype == np.float32
        assert (params["head.bias"] != 0).all()


def test_it_goes_on_from_a_state_that_was_kept():
    subject = rule(low_rank={"head": 2}, server_momentum=0.5)
    sent = [{"head.weight": signal(5, seed), "head.bias": np.ones(SHAPE[0], np.float32)} for seed in range(4)]
    state, params = subject.init(model()), model()
    for update in sent[:2]:
        state, params = subject.apply(state, params, {"a": update})
    kept = {name: array.copy() for name, array in state.items()}, {name: array.copy() for name, array in params.items()}
    for update in sent[2:]:
        state, params = subject.apply(state, params, {"a": update})
    again = rule(low_rank={"head": 2}, server_momentum=0.5)
    for update in sent[2:]:
        kept = again.apply(*kept, {"a": update})
    np.testing.assert_array_equal(kept[1]["head.weight"], params["head.weight"])


def test_what_a_matrix_was_before_the_first_round_stays():
    draw = np.random.default_rng(8)
    start = {"head.weight": draw.normal(size=SHAPE).astype(np.float32), "head.bias": np.ones(SHAPE[0], np.float32)}
    zero = {name: np.zeros_like(array) for name, array in start.items()}
    subject = rule(low_rank={"head": 1})
    state, params = subject.apply(subject.init(start), start, {"a": zero})
    np.testing.assert_array_equal(params["head.weight"], start["head.weight"])
    learned = signal(1)
    params = subject.apply(state, params, {"a": {**zero, "head.weight": learned}})[1]
    np.testing.assert_allclose(params["head.weight"], start["head.weight"] + learned, atol=1e-5)


def test_the_longest_beginning_counts_in_any_order():
    for ranks in ({"head": 1, "head.weight": 4}, {"head.weight": 4, "head": 1}):
        matrix = rounds(rule(low_rank=ranks), [signal(9)])[-1]["head.weight"].astype(np.float64)
        assert np.linalg.matrix_rank(matrix, tol=1e-3) == 4


def test_what_names_no_matrix_and_what_is_no_rank_are_refused():
    for wrong in ("tail", "head.bias"):
        with pytest.raises(ConfigError, match=r"low_rank='.*' to begin the name of a trained matrix.*head.weight"):
            rule(low_rank={wrong: 2}).init(model())
    with pytest.raises(ConfigError, match=r"low_rank=16 to be a rank for each"):
        rule(low_rank=16)
    for rank in (0, -1, 1.5, True, "4"):
        with pytest.raises(ConfigError, match=r"low_rank.head=.*whole number"):
            rule(low_rank={"head": rank})
