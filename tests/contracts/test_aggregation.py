"""At stake: a rule that depends on who answers first, or forgets on restart, can't be repeated or resumed."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from mmrank import components
from mmrank.errors import ConfigError
from server.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

NAMES = components.available("server.aggregation")
NEEDED = {"fedprox": {"mu": 0.1}}
PARAMS = {"w": np.array([1.0, 2.0, 3.0], np.float32), "b": np.array([[0.5]], np.float32)}


def rule(name, **settings):
    return components.build("server.aggregation", {"name": name, **NEEDED.get(name, {}), **settings})


def updates(clients, seed=0):
    """Random updates whose magnitudes differ so much that the order of addition shows in the last bits."""
    draw = np.random.default_rng(seed)
    return {
        f"client-{i}": {
            key: (draw.normal(size=array.shape) * 10.0 ** draw.integers(-6, 6, array.shape)).astype(np.float32)
            for key, array in PARAMS.items()
        }
        for i in range(clients)
    }


def same(left, right):
    return set(left) == set(right) and all(
        left[key].dtype == right[key].dtype and left[key].tobytes() == right[key].tobytes() for key in left
    )


def test_the_documented_rules_are_there():
    assert {"fedavg", "fedadam", "fedprox"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_clients_does_not_matter_bit_for_bit(name):
    subject = rule(name)
    given_updates = updates(4)
    results = [
        subject.apply(subject.init(PARAMS), PARAMS, {client: given_updates[client] for client in order})
        for order in itertools.permutations(given_updates)
    ]
    for state, params in results[1:]:
        assert same(params, results[0][1])
        assert same(state, results[0][0])


@effort(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), clients=st.integers(1, 30))
def test_equal_updates_are_a_fixed_point_of_averaging(seed, clients):
    """Any number of clients that send the same update move the model as one of them would."""
    one = updates(1, seed)["client-0"]
    for name in NAMES:
        subject = rule(name)
        alone = subject.apply(subject.init(PARAMS), PARAMS, {"a": one})
        many = subject.apply(subject.init(PARAMS), PARAMS, {f"c{i}": one for i in range(clients)})
        assert same(alone[1], many[1]), name
        assert same(alone[0], many[0]), name


@pytest.mark.parametrize("name", NAMES)
def test_updates_of_zero_leave_a_new_model_alone(name):
    subject = rule(name)
    zero = {key: np.zeros_like(array) for key, array in PARAMS.items()}
    assert same(subject.apply(subject.init(PARAMS), PARAMS, {"a": zero, "b": zero})[1], PARAMS)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_that_is_passed_in_changes(name):
    subject = rule(name)
    state, given_updates = subject.init(PARAMS), updates(3)
    before = [array.copy() for array in (*state.values(), *PARAMS.values())]
    subject.apply(state, PARAMS, given_updates)
    for array, old in zip((*state.values(), *PARAMS.values()), before, strict=True):
        np.testing.assert_array_equal(array, old)
    assert all(same(given_updates[client], updates(3)[client]) for client in given_updates)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_survives_checkpointing(name, tmp_path):
    subject = rule(name, server_momentum=0.9) if name in ("fedavg", "fedprox") else rule(name)
    state, params = subject.apply(subject.init(PARAMS), PARAMS, updates(3))
    save_checkpoint(tmp_path, Checkpoint(run="r", config_sha256="c", round_number=1, parameters=params, state=state))
    stored = load_checkpoint(tmp_path, config_sha256="c")
    straight = subject.apply(state, params, updates(3, seed=1))
    resumed = subject.apply(stored.state, stored.parameters, updates(3, seed=1))
    assert same(straight[1], resumed[1])
    assert same(straight[0], resumed[0])


@pytest.mark.parametrize("name", NAMES)
def test_the_model_stays_float32_with_its_shapes(name):
    subject = rule(name)
    params = subject.apply(subject.init(PARAMS), PARAMS, updates(2))[1]
    assert {key: (array.dtype, array.shape) for key, array in params.items()} == {
        key: (np.dtype(np.float32), array.shape) for key, array in PARAMS.items()
    }


# By hand: two clients, three numbers. The mean of A and B is (1, -1, 0.5).

A = {"w": np.array([1.5, -2.0, 1.0], np.float32)}
B = {"w": np.array([0.5, 0.0, 0.0], np.float32)}
START = {"w": np.array([1.0, 2.0, 3.0], np.float32)}


@pytest.mark.parametrize("name", ["fedavg", "fedprox"])
def test_averaging_by_hand(name):
    assert rule(name).apply({}, START, {"a": A, "b": B})[1]["w"].tolist() == [2.0, 1.0, 3.5]
    halved = rule(name, server_learning_rate=0.5)
    assert halved.apply({}, START, {"a": A, "b": B})[1]["w"].tolist() == [1.5, 1.5, 3.25]


def test_server_momentum_by_hand():
    """v = 0.5 v + mean: the second equal round moves by 1.5 times the mean."""
    subject = rule("fedavg", server_momentum=0.5)
    state, params = subject.apply(subject.init(START), START, {"a": A, "b": B})
    assert params["w"].tolist() == [2.0, 1.0, 3.5]
    assert subject.apply(state, params, {"a": A, "b": B})[1]["w"].tolist() == [3.5, -0.5, 4.25]


def test_fedadam_by_hand():
    """Betas and tau 0.5, rate 1: d = mean / 2, v = 0.5 * 0.25 + 0.5 d^2, step = d / (sqrt(v) + 0.5)."""
    subject = rule("fedadam", server_learning_rate=1.0, beta_1=0.5, beta_2=0.5, tau=0.5)
    state, params = subject.apply(subject.init(START), START, {"a": A, "b": B})
    # Coordinate 0: d = 0.5, v = 0.125 + 0.125 = 0.25, step = 0.5 / (0.5 + 0.5) = 0.5. Coordinate 1: the mirror image.
    # Coordinate 2: d = 0.25, v = 0.125 + 0.03125 = 0.15625, step = 0.25 / (0.395284707521 + 0.5) = 0.27924079.
    np.testing.assert_allclose(params["w"], [1.5, 1.5, 3.27924079], rtol=1e-7)
    np.testing.assert_allclose(state["v/w"], [0.25, 0.25, 0.15625], rtol=0)
    state, params = subject.apply(state, params, {"a": A, "b": B})
    # Coordinate 0: d = 0.25 + 0.5 = 0.75, v = 0.125 + 0.28125 = 0.40625, step = 0.75 / (0.637377439 + 0.5).
    assert math.isclose(params["w"][0], 1.5 + 0.75 / 1.137377439, rel_tol=1e-6)


def test_fedadam_takes_the_known_variance_of_noise_off_the_second_moment():
    """v is 0.25 where 0.09 is noise: the first step is d / (sqrt(0.16) + tau); where all of it is, d / tau."""
    start = {"w": np.zeros(2, np.float32)}
    subject = rule(
        "fedadam", server_learning_rate=1.0, beta_1=0.0, beta_2=0.0, tau=0.1, bias_correction=True, noise_std=0.3
    )
    moved = subject.apply(subject.init(start), start, {"a": {"w": np.array([0.5, -0.2], np.float32)}})[1]["w"]
    np.testing.assert_allclose(moved, [0.5 / (0.4 + 0.1), -0.2 / 0.1], rtol=1e-6)
    with pytest.raises(ConfigError, match=r"noise_std=0.3 with bias_correction alone"):
        rule("fedadam", noise_std=0.3)


def test_fedadam_with_bias_correction_is_torchs_adam():
    subject = rule("fedadam", server_learning_rate=0.1, beta_1=0.8, beta_2=0.9, tau=1e-8, bias_correction=True)
    state, params = subject.init(START), START
    weight = torch.nn.Parameter(torch.tensor(START["w"], dtype=torch.float64))
    adam = torch.optim.Adam([weight], lr=0.1, betas=(0.8, 0.9), eps=1e-8)
    for turn in (1.0, -0.5, 2.0):
        one, other = {"w": A["w"] * turn}, {"w": B["w"] * turn}
        state, params = subject.apply(state, params, {"a": one, "b": other})
        weight.grad = -torch.tensor((one["w"] + other["w"]) / 2, dtype=torch.float64)
        adam.step()
    np.testing.assert_allclose(params["w"], weight.detach().numpy(), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("fedavg", {"server_learning_rate": 0.0}, r"server_learning_rate=0.0 in \(0.0, inf\)"),
        ("fedavg", {"server_momentum": 1.0}, r"server_momentum=1.0 in \[0.0, 1.0\)"),
        ("fedadam", {"tau": 0.0}, r"tau=0.0 in \(0.0, inf\)"),
        ("fedadam", {"beta_2": 1.5}, r"beta_2=1.5"),
        ("fedprox", {"mu": -1.0}, r"mu=-1.0 in \[0.0, inf\)"),
        ("fedadam", {"beta1": 0.9}, "Did you mean 'beta_1'"),
    ],
)
def test_settings_out_of_bounds_are_refused(name, settings, message):
    with pytest.raises(ConfigError, match=message):
        rule(name, **settings)
