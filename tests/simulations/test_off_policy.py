"""At stake: what a ranking is said to be worth, had it been shown, must be what clicks and propensities say."""

from __future__ import annotations

import numpy as np
import pytest

from mmrank.slates import Slate
from simulations._intervals import ratio
from simulations.off_policy import VALUE, WEIGHT, expected_discounts, weighted_clicks


def slate(clicks, propensity=None):
    length = len(clicks)
    return Slate(
        query="",
        candidates=np.arange(length),
        relevance=np.array(clicks, np.float32),
        position=np.arange(length),
        history=np.zeros(0, np.int64),
        event_type=np.zeros(0, np.int64),
        age_days=np.zeros(0, np.float32),
        time_days=0.0,
        user=0,
        propensity=None if propensity is None else np.array(propensity, np.float32),
    )


def test_a_click_weighs_one_over_its_propensity_at_the_rank_that_it_would_have():
    shown = [slate([1, 0, 1], [1.0, 0.5, 0.25]), slate([1, 0], None)]
    found = weighted_clicks(np.array([[0.0, 2.0, 1.0], [1.0, 0.0, 0.0]]), shown)
    # ranked 1, 2, 0: the clicked items are third and second
    assert found[VALUE][0] == pytest.approx(1 / np.log2(4) + 4 / np.log2(3))
    assert found[WEIGHT][0] == pytest.approx(1 + 4)
    assert np.isnan(found[VALUE][1])
    assert np.isnan(found[WEIGHT][1])


def test_ties_are_neither_lucky_nor_unlucky():
    even = expected_discounts(np.zeros(4))
    assert np.allclose(even, (1 / np.log2(np.arange(4) + 2)).mean())
    assert np.isfinite(expected_discounts(np.array([np.nan, 1.0]))).all()


def test_ips_finds_the_worth_of_a_ranking_from_clicks_on_another():
    """Simulated clicks: relevance times examination. The estimate must meet the true DCG of the new order."""
    draw, worth, examined = np.random.default_rng(0), np.array([0.1, 0.5, 0.3]), np.array([1.0, 0.5, 0.2])
    scores = np.array([0.0, 2.0, 1.0])
    slates = [slate((draw.random(3) < worth * examined).astype(float), examined) for _ in range(20_000)]
    found = weighted_clicks(np.tile(scores, (len(slates), 1)), slates)[VALUE]
    truth = float(worth @ expected_discounts(scores))
    assert abs(found.mean() - truth) < 4 * found.std() / np.sqrt(len(slates))
    shown = float(worth @ expected_discounts(np.array([3.0, 2.0, 1.0])))
    assert truth > shown + 0.1, "the new order is better than the one that was shown"


def test_a_ratio_is_resampled_together():
    value, weight = np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 4.0, 6.0, 1.0])
    found = ratio(value, weight, samples=200, seed=0)
    assert found["mean"] == found["ci95"][0] == found["ci95"][1] == 0.5
    assert ratio(value[:0], weight[:0], samples=10, seed=0) == {"mean": None, "ci95": [None, None]}
