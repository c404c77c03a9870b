"""BM25 of the query over the catalogue's titles (Robertson et al. 1994), by the bm25s library."""

from __future__ import annotations

from functools import lru_cache

import bm25s
import numpy as np

from mmrank.encoders.text._tokens import tokens
from simulations.evaluation import Chunk, Scorer
from simulations.rows import RowContext


def build(context: RowContext) -> Scorer:
    """Words are cut as for the text encoders. A slate without a query has one score for all."""
    index = bm25s.BM25()
    index.index([tokens(title) for title in context.dataset.catalog.titles], show_progress=False)
    known = frozenset(index.vocab_dict)

    @lru_cache(maxsize=512)
    def scores_of(query: str) -> np.ndarray | None:
        words = [word for word in tokens(query) if word in known]
        return index.get_scores(words) if words else None

    def score(chunk: Chunk) -> np.ndarray:
        candidates = chunk.batch.candidates.numpy()
        scores = np.zeros(candidates.shape)
        for row, slate in enumerate(chunk.slates):
            found = scores_of(slate.query)
            if found is not None:
                scores[row] = found[candidates[row]]
        return scores

    return score
