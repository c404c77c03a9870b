"""At stake: one released float may tell the exact sum below the noise, whatever epsilon says over the reals."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mmrank.errors import PrivacyError
from mmrank.privacy.noise import GRID_BITS, SecureNoise, SeededNoise, rounding_cost, snapped
from tests.privacy.models import examples, mechanism, train

DRAWS = 200_000


def naive(sum_below: float) -> np.ndarray:
    """`sum_below` + N(0, 1), all in float32: what a training loop does that adds torch.randn."""
    return (sum_below + torch.randn(DRAWS, generator=torch.Generator().manual_seed(3))).numpy()


def ours(sum_below: float, std: float = 1.0) -> np.ndarray:
    noise = SecureNoise().normal((DRAWS,), std, dtype=torch.float64)
    return snapped(noise + sum_below, std).float().numpy()


def zero_for_certain(released: np.ndarray) -> np.ndarray:
    """Mironov (2012): 1 + noise is a multiple of 2^-24 wherever it is small, so what is none came from 0."""
    return (np.abs(released) < 2.0**-4) & (np.float64(released) * 2.0**24 % 1 != 0)


def test_one_value_of_naive_float32_noise_gives_the_sum_away_and_none_of_ours_does():
    from_zero, from_one = zero_for_certain(naive(0.0)), zero_for_certain(naive(1.0))
    assert from_one.sum() == 0
    assert from_zero.mean() > 0.03  # so delta is above 3%, for any epsilon
    assert zero_for_certain(ours(0.0)).sum() == zero_for_certain(ours(1.0)).sum() == 0


def test_a_sum_in_float64_that_is_rounded_to_float32_still_has_such_values():
    """Near 0, float32 is finer than what 1 + noise can reach in float64: about one value in 10^9."""
    from_zero = torch.tensor([3 * 2.0**-60], dtype=torch.float64)
    reachable = torch.tensor([-1.0, -1.0 + 2.0**-53], dtype=torch.float64) + 1.0
    assert from_zero.float() != 0
    assert from_zero.float() < reachable.float()[1]
    assert torch.equal(snapped(from_zero, 1.0), snapped(reachable, 1.0)[:1])


@pytest.mark.parametrize("below", [0.0, 1.0, -0.3141592653589793, 1e-9, 1000.0 + 1 / 3])
def test_what_is_released_has_the_support_and_the_odds_of_the_rounded_gaussian(below):
    released = ours(below).astype(np.float64)
    grid = 2.0**-(GRID_BITS)
    assert np.array_equal(released, np.round(released / grid) * grid)
    cells = np.arange(np.floor((below - 4) / grid), np.ceil((below + 4) / grid)) * grid
    expected = DRAWS * np.diff(stats.norm.cdf([*(cells - grid / 2), cells[-1] + grid / 2], loc=below))
    counts = np.array([(released == cell).sum() for cell in cells])
    common = expected >= 10  # with rarer cells the law of chi-square has a longer tail
    rest = DRAWS - counts[common].sum(), DRAWS - expected[common].sum()
    result = stats.chisquare([*counts[common], rest[0]], [*expected[common], rest[1]])
    assert result.pvalue > 1e-7


@given(
    std=st.floats(1e-30, 1e30),
    sums=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=5),
)
def test_the_grid_depends_on_the_noise_alone(std, sums):
    released = snapped(torch.tensor(sums, dtype=torch.float64) * std, std).numpy()
    grid = 2.0 ** (np.frexp(std)[1] - 1 - GRID_BITS)
    assert std * 2.0 ** -(GRID_BITS + 1) < grid <= std * 2.0**-GRID_BITS
    assert np.array_equal(released / grid, np.round(released / grid))
    assert np.abs(released - np.array(sums) * std).max() <= grid / 2 + 1e-9 * std
    assert not np.signbit(released[released == 0]).any()


def test_a_step_of_training_is_released_on_the_grid():
    private = mechanism(noise_multiplier=1.0, max_grad_norm=0.5, expected_batch_size=4.0)
    moved = train(private, examples(7), noise=SeededNoise(5))
    before = train(mechanism(noise_multiplier=0.0, max_grad_norm=0.5, expected_batch_size=4.0), examples(0))
    # plain SGD of rate 1: the parameters move by the noisy sum over the public denominator
    sums = np.float64(moved - before) * 4.0 / 2.0 ** (-1 - GRID_BITS)
    assert np.abs(sums - np.round(sums)).max() < 1e-3
    assert (np.abs(sums) > 0.5).mean() > 0.9


def test_without_noise_nothing_is_rounded_and_a_float32_sum_is_refused():
    exact = torch.tensor([0.1], dtype=torch.float64)
    assert torch.equal(snapped(exact, 0.0), exact)
    with pytest.raises(PrivacyError, match="float64"):
        snapped(exact.float(), 1.0)
    with pytest.raises(PrivacyError, match="1e-100"):
        snapped(exact, 1e-200)


def test_what_rounding_costs_grows_with_the_values_and_stays_far_below_a_promise():
    few, many = rounding_cost(10**6), rounding_cost(10**9)
    assert 0 < few[0] < many[0] < 1e-5
    assert 0 < few[1] <= many[1] < 1e-11
    assert rounding_cost(10**9, largest_sum=1e6)[0] > many[0]


def test_float64_noise_is_as_close_to_a_normal_as_the_bound_on_its_rounding_says():
    """The same words, in 60 digits: at most 18 units of 2^-53 a standard deviation of radius."""
    mpmath = pytest.importorskip("mpmath")
    source, kept = SecureNoise(), []
    plain = source._bytes
    source._bytes = lambda count: kept.append(plain(count)) or kept[-1]
    values = source.normal((600,), 1.0, dtype=torch.float64).numpy().reshape(2, -1)
    words = np.frombuffer(kept[0], dtype="<i8").reshape(2, -1)
    with mpmath.workdps(60):
        for column in range(words.shape[1]):
            size, angle = abs(int(words[0, column])), mpmath.pi * int(words[1, column]) / 2**63
            if size < 2**52:
                continue  # a further word was drawn
            radius = mpmath.sqrt(-2 * mpmath.log(mpmath.mpf(size) / 2**63))
            bound = (18 * radius + 1 / radius) * mpmath.mpf(2) ** -53
            assert abs(radius * mpmath.cos(angle) - values[0, column]) < bound
            assert abs(radius * mpmath.sin(angle) - values[1, column]) < bound
