"""If a measure is wrong, or flatters a scorer that ties, every row of every report is wrong."""

from __future__ import annotations

import itertools
import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from ir_measures import RR, R, Success, nDCG

from mmrank.errors import MmrankError
from mmrank.metrics import METRICS, slate_metrics

REFERENCE = {nDCG @ 10: "ndcg@10", RR: "mrr", R @ 10: "recall@10", Success @ 3: "hit@3"}


def full(scores, relevance):
    scores, relevance = np.atleast_2d(scores).astype(float), np.atleast_2d(relevance).astype(float)
    return slate_metrics(scores, relevance, np.ones(scores.shape, bool))


@st.composite
def slates(draw, *, levels=4):
    """Scores with many ties, graded relevance and a mask that leaves something."""
    shape = draw(st.tuples(st.integers(1, 4), st.integers(1, 25)))
    scores = draw(hnp.arrays(float, shape, elements=st.integers(0, levels).map(float)))
    relevance = draw(hnp.arrays(float, shape, elements=st.integers(0, 2).map(float)))
    mask = draw(hnp.arrays(bool, shape))
    return scores, relevance, mask


def reference(scores, relevance):
    """Per-slate values of ir-measures (trec_eval) for full lists without ties."""
    qrels, run = {}, {}
    for row, (score, grade) in enumerate(zip(scores, relevance, strict=True)):
        qrels[str(row)] = {f"d{item}": int(value) for item, value in enumerate(grade)}
        run[str(row)] = {f"d{item}": float(value) for item, value in enumerate(score)}
    values = {name: np.full(len(scores), np.nan) for name in METRICS}
    for measured in ir_measures.iter_calc(list(REFERENCE), qrels, run):
        values[REFERENCE[measured.measure]][int(measured.query_id)] = measured.value
    return values


def test_three_items_by_hand():
    values = full([3.0, 2.0, 1.0], [0.0, 2.0, 1.0])
    ideal = 2.0 + 1.0 / math.log2(3)
    assert values["ndcg@10"][0] == pytest.approx((2.0 / math.log2(3) + 1.0 / 2.0) / ideal)
    assert values["mrr"][0] == 0.5
    assert values["recall@10"][0] == 1.0
    assert values["hit@3"][0] == 1.0


def test_graded_slates_without_ties_agree_with_trec_eval():
    generator = np.random.default_rng(3)
    scores = generator.permuted(np.arange(60.0)[None].repeat(40, axis=0), axis=1)
    relevance = generator.choice([0.0, 1.0, 2.0], p=[0.9, 0.07, 0.03], size=scores.shape)
    relevance[:, 0] = np.maximum(relevance[:, 0], 1.0)
    ours, theirs = full(scores, relevance), reference(scores, relevance)
    for name in METRICS:
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-9, err_msg=name)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=6), st.data())
def test_a_tie_is_the_mean_of_all_its_orders(scores, data):
    relevance = data.draw(st.lists(st.integers(0, 2), min_size=len(scores), max_size=len(scores)).filter(any))
    tied = full(scores, relevance)
    broken = [  # a tiny second key breaks every tie in one order
        np.asarray(scores) + np.asarray(order) * 1e-3 for order in itertools.permutations(range(len(scores)))
    ]
    each = full(np.stack(broken), np.tile(relevance, (len(broken), 1)))
    for name in METRICS:
        assert tied[name][0] == pytest.approx(each[name].mean()), name


def test_constant_scorer_is_as_good_as_chance_wherever_the_relevant_items_stand():
    relevance = np.zeros((2, 100))
    relevance[0, :3], relevance[1, -3:] = 1.0, 1.0
    generator = np.random.default_rng(0)
    chance = full(generator.random((20_000, 100)), np.tile(relevance[0], (20_000, 1)))
    constant = full(np.zeros_like(relevance), relevance)
    for name in METRICS:
        assert constant[name][0] == constant[name][1]
        assert constant[name][0] == pytest.approx(chance[name].mean(), abs=0.01)


@given(slates())
def test_measures_lie_between_zero_and_one(slate):
    scores, relevance, mask = slate
    answerable = (np.where(mask, relevance, 0) > 0).any(axis=1)
    for values in slate_metrics(scores, relevance, mask).values():
        assert (np.isnan(values) == ~answerable).all()
        assert ((values[answerable] >= 0) & (values[answerable] <= 1)).all()


@given(slates(), st.integers(1, 7), st.randoms(use_true_random=False))
def test_padding_is_inert(slate, extra, random):
    scores, relevance, mask = slate
    noise = np.array([[random.choice([99.0, np.nan, np.inf, 0.0]) for _ in range(extra)]] * len(scores))
    padded = slate_metrics(
        np.concatenate([noise, scores], axis=1),
        np.concatenate([np.ones_like(noise), relevance], axis=1),
        np.concatenate([np.zeros(noise.shape, bool), mask], axis=1),
    )
    for name, values in slate_metrics(scores, relevance, mask).items():
        np.testing.assert_allclose(padded[name], values, atol=1e-12)


@given(slates(), st.randoms(use_true_random=False))
def test_order_of_the_items_does_not_matter(slate, random):
    order = list(range(slate[0].shape[1]))
    random.shuffle(order)
    shuffled = slate_metrics(*(part[:, order] for part in slate))
    for name, values in slate_metrics(*slate).items():
        np.testing.assert_allclose(shuffled[name], values, atol=1e-12)


def test_raising_a_relevant_item_never_hurts():
    scores, relevance = np.arange(30.0), np.zeros(30)
    relevance[[4, 11]] = 1.0
    ladder = np.tile(scores, (31, 1))
    ladder[:, 4] = np.arange(31) - 0.5
    for name, values in full(ladder, np.tile(relevance, (31, 1))).items():
        assert (np.diff(values) >= -1e-12).all(), name


def test_scores_that_are_not_numbers_rank_last():
    diverged = full([np.nan, np.nan, 0.5, -np.inf], [1.0, 0.0, 0.0, 0.0])
    assert diverged["mrr"][0] == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 3)


def test_empty_slates_and_batches_have_no_value():
    assert all(len(values) == 0 for values in full(np.zeros((0, 4)), np.zeros((0, 4))).values())
    assert all(np.isnan(values).all() for values in full(np.zeros((2, 0)), np.zeros((2, 0))).values())


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(MmrankError, match=r"\(2, 3\)"):
        slate_metrics(np.zeros((2, 3)), np.zeros((2, 1)), np.ones((2, 3), bool))
