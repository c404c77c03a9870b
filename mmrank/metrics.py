"""nDCG@10, MRR, recall@10 and hit@3 of each slate, with trec_eval's definitions.

Gains are linear, as in trec_eval's `ndcg_cut` and ir-measures' `nDCG@10`: an item of relevance 2 gains
twice what one of relevance 1 does. An item is relevant where its relevance is above 0.

Ties are neither lucky nor unlucky: each measure is its expected value over all orders of the tied items
(McSherry and Najork 2008, "Computing Information Retrieval Performance Measures Efficiently in the Presence
of Tied Scores", section 3). So a constant scorer gets exactly what a random one gets on average, and the
order in which candidates are stored, or their ids, change nothing. Without ties the values equal trec_eval's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mmrank.errors import MmrankError

METRICS = ("ndcg@10", "mrr", "recall@10", "hit@3")
"""The measures, in the order in which they are reported."""


def slate_metrics(scores: np.ndarray, relevance: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    """Each of METRICS for every slate, in [0, 1]; NaN where a slate has no relevant item.

    scores, relevance: float [B, L], relevance >= 0; mask: bool [B, L], False where padded.
    Returns float64 [B] by name. Padded items change nothing. A score that is not a number
    ranks last, tied with others like it, so a model that has diverged is no better than chance.

    Raises MmrankError where the shapes differ.

    >>> values = slate_metrics(np.array([[3., 2., 1.]]), np.array([[0., 1., 0.]]), np.ones((1, 3), bool))
    >>> {name: round(float(value[0]), 3) for name, value in values.items()}
    {'ndcg@10': 0.631, 'mrr': 0.5, 'recall@10': 1.0, 'hit@3': 1.0}
    """
    if scores.ndim != 2 or not scores.shape == relevance.shape == mask.shape:
        raise MmrankError(
            f"Expected scores {scores.shape}, relevance {relevance.shape} and mask {mask.shape} "
            "to have one shape [slates, items]; pad them to the longest slate."
        )
    mask = mask.astype(bool)
    gain = np.where(mask, relevance, 0).astype(np.float64)
    answerable = (gain > 0).any(axis=1)
    values = {name: np.full(len(scores), np.nan) for name in METRICS}
    if answerable.any():
        ranked = _rank(scores[answerable], gain[answerable], mask[answerable])
        for name, value in (
            ("ndcg@10", _ndcg(ranked, 10)),
            ("mrr", _reciprocal_rank(ranked)),
            ("recall@10", _recall(ranked, 10)),
            ("hit@3", _hit(ranked, 3)),
        ):
            values[name][answerable] = np.clip(value, 0.0, 1.0)  # sums may pass 1 by rounding
    return values


@dataclass(frozen=True, kw_only=True)
class _Ranked:
    """B slates in descending order of score; a tie's group is the run of items with one score.

    gain: float [B, L]. tie_start, tie_end: int [B, L], the half-open range of the tie that place i belongs to.
    """

    gain: np.ndarray
    tie_start: np.ndarray
    tie_end: np.ndarray

    def tie_mean(self, values: np.ndarray) -> np.ndarray:
        """float [B, L]: the mean of `values` over the tie of each place, which is what it holds in expectation."""
        total = np.concatenate([np.zeros((len(values), 1)), np.cumsum(values, axis=1)], axis=1)
        within = np.take_along_axis(total, self.tie_end, 1) - np.take_along_axis(total, self.tie_start, 1)
        return within / (self.tie_end - self.tie_start)


def _rank(scores: np.ndarray, gain: np.ndarray, mask: np.ndarray) -> _Ranked:
    key = np.where(np.isnan(scores), -np.inf, scores.astype(np.float64))
    order = np.lexsort((-key, ~mask), axis=1)  # padded items last, whatever their scores
    key = np.take_along_axis(key, order, 1)
    shown = np.take_along_axis(mask, order, 1)
    changes = (key[:, 1:] != key[:, :-1]) | (shown[:, 1:] != shown[:, :-1])
    size, width = key.shape
    edge = np.ones((size, 1), bool)
    place = np.arange(width)
    tie_start = np.maximum.accumulate(np.where(np.concatenate([edge, changes], 1), place, 0), axis=1)
    last = np.where(np.concatenate([changes, edge], 1), place + 1, width)
    tie_end = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    return _Ranked(gain=np.take_along_axis(gain, order, 1), tie_start=tie_start, tie_end=tie_end)


def _ndcg(ranked: _Ranked, cutoff: int) -> np.ndarray:
    """Jarvelin and Kekalainen 2002 with discount 1 / log2(place + 1), places from 1; float [B]."""
    discount = 1.0 / np.log2(np.arange(2, min(cutoff, ranked.gain.shape[1]) + 2))
    ideal = -np.sort(-ranked.gain, axis=1)[:, : len(discount)]
    return (ranked.tie_mean(ranked.gain)[:, : len(discount)] @ discount) / (ideal @ discount)


def _recall(ranked: _Ranked, cutoff: int) -> np.ndarray:
    relevant = (ranked.gain > 0).astype(np.float64)
    return ranked.tie_mean(relevant)[:, :cutoff].sum(axis=1) / relevant.sum(axis=1)


def _first_tie(ranked: _Ranked) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the first tie that holds a relevant item: items above it, its items, its relevant items; int [B] each."""
    relevant = ranked.gain > 0
    rows, first = np.arange(len(relevant)), relevant.argmax(axis=1)
    start, end = ranked.tie_start[rows, first], ranked.tie_end[rows, first]
    place = np.arange(relevant.shape[1])
    inside = (place >= start[:, None]) & (place < end[:, None])
    return start, end - start, (relevant & inside).sum(axis=1)


def _reciprocal_rank(ranked: _Ranked) -> np.ndarray:
    """E[1 / place of the first relevant item]: its place within the tie is a draw without replacement."""
    above, items, relevant = _first_tie(ranked)
    place = np.arange(int((items - relevant).max()) + 1)
    missed = (items - relevant)[:, None] - place
    # chance that the first `place` items of the tie are all irrelevant, times that the next one is relevant
    misses = np.where(missed > 0, missed / np.maximum(items[:, None] - place, 1), 0.0)
    still_waiting = np.concatenate([np.ones((len(items), 1)), np.cumprod(misses, axis=1)[:, :-1]], axis=1)
    return (still_waiting * (1.0 - misses) / (above[:, None] + place + 1)).sum(axis=1)


def _hit(ranked: _Ranked, cutoff: int) -> np.ndarray:
    """P[a relevant item stands in the first `cutoff` places]."""
    above, items, relevant = _first_tie(ranked)
    missed = np.ones(len(items))
    for place in range(cutoff):
        inside = place < np.minimum(cutoff - above, items)
        chance = np.maximum(items - relevant - place, 0) / np.maximum(items - place, 1)
        missed *= np.where(inside, chance, 1.0)
    return 1.0 - missed
