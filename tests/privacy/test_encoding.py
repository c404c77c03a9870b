"""At stake: a rounded update is never longer than what the accountant counts with, and means what it meant."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrank.privacy import encoding
from mmrank.privacy.noise import SecureNoise, SeededNoise

floats = st.floats(-1e3, 1e3, allow_subnormal=False)


@given(values=st.lists(floats, min_size=1, max_size=40), norm=st.floats(1e-3, 1e3))
@settings(max_examples=60, deadline=None)
def test_a_clipped_update_is_within_the_norm_and_a_short_one_is_as_it_was(values, norm):
    update = np.array(values)
    short = encoding.clipped(update, norm)
    assert np.linalg.norm(short) <= norm * (1 + 1e-12)
    if np.linalg.norm(update) < norm * (1 - 1e-9):
        assert np.array_equal(short, update)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_update_that_is_not_finite_counts_as_zero(value):
    assert not encoding.clipped(np.array([1.0, value]), 1.0).any()


@pytest.mark.parametrize("scale", [1e300, 1e-300, 5e-324])
def test_huge_and_tiny_updates_are_clipped_without_overflow(scale):
    short = encoding.clipped(np.array([3.0, 4.0]) * scale, 1.0)
    assert np.linalg.norm(short) <= 1 + 1e-12
    if scale > 1:
        assert short == pytest.approx([0.6, 0.8])


@given(dimension=st.integers(1, 300), seed=st.binary(max_size=4))
@settings(max_examples=40, deadline=None)
def test_a_rotation_keeps_norms_and_comes_back(dimension, seed):
    values = np.random.Generator(np.random.PCG64(dimension)).normal(size=dimension)
    turned = encoding.rotate(values, seed)
    assert len(turned) == encoding.padded(dimension)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(values))
    assert encoding.unrotate(turned, seed, dimension) == pytest.approx(values)


def test_a_rotation_is_hadamards_matrix_in_each_block(monkeypatch):
    monkeypatch.setattr(encoding, "MAX_BLOCK", 4)
    matrix = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    values = np.arange(1.0, 7.0)
    signs = encoding._signs(b"s", 8)
    flat = np.append(values, [0, 0]) * signs
    assert encoding.rotate(values, b"s") == pytest.approx(np.concatenate([matrix @ flat[:4], matrix @ flat[4:]]))


def test_a_rotation_flattens_a_spike_and_depends_on_its_seed():
    spike = np.zeros(6000)
    spike[17] = 1.0
    turned = encoding.rotate(spike, b"seed")
    assert np.abs(turned).max() == pytest.approx(1 / 64)
    dense = np.ones(6000)
    assert not np.allclose(encoding.rotate(dense, b"seed"), encoding.rotate(dense, b"other"))
    assert 1900 < (encoding._signs(b"x", 4096) > 0).sum() < 2200


def test_the_norm_bound_is_the_papers_formula():
    r, d, beta = 50.0, 400, math.exp(-0.5)
    likely = r**2 + d / 4 + 1.0 * (r + math.sqrt(d) / 2)
    assert encoding.norm_bound_squared(scaled_norm=r, dimension=d, beta=beta) == math.floor(likely)
    assert encoding.norm_bound_squared(scaled_norm=0.5, dimension=1, beta=1e-9) == math.floor(1.5**2)


@pytest.mark.parametrize("scaled_norm", [3.0, 20.0, 2000.0])
def test_a_rounded_vector_is_within_its_bound_unbiased_and_seldom_drawn_again(scaled_norm):
    generator = np.random.Generator(np.random.PCG64(2))
    values = generator.normal(size=256)
    values *= scaled_norm / np.linalg.norm(values)
    beta = math.exp(-0.5)
    limit = encoding.norm_bound_squared(scaled_norm=scaled_norm, dimension=256, beta=beta)
    noise = SeededNoise(1, "rounding")
    rounded = np.array([encoding.round_within(values, limit, noise) for _ in range(2000)])
    assert (rounded**2).sum(axis=1).max() <= limit
    assert np.abs(rounded - values).max() < 1
    assert np.abs(rounded.mean(axis=0) - values).max() < 6 * 0.5 / math.sqrt(2000)
    free = np.floor(values) + (noise.uniform(256 * 2000).reshape(2000, 256) < values - np.floor(values))
    assert ((free**2).sum(axis=1) > limit).mean() <= beta


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_no_vector_passes_the_bound_whatever_comes_in(data):
    values = np.array(data.draw(st.lists(st.floats(-50, 50), min_size=1, max_size=8)))
    limit = data.draw(st.integers(0, 200))
    rounded = encoding.round_within(values, limit, SecureNoise())
    assert int(rounded @ rounded) <= limit


def test_zero_is_rounded_to_zero():
    """A client replaced by zeros adds noise alone: the neighbour that the guarantee compares with."""
    assert not encoding.round_within(np.zeros(100), 25, SecureNoise()).any()
