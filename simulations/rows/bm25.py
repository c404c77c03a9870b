"""BM25 of the query over the catalogue's titles (Robertson et al. 1994), by the bm25s library."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from mmrank._title_search import TitleSearch
from simulations.evaluation import Chunk, Scorer
from simulations.rows import RowContext


def build(context: RowContext) -> Scorer:
    """Words are cut as for the text encoders. A slate without a query has one score for all."""
    scores_of = lru_cache(maxsize=512)(TitleSearch(context.dataset.catalog.titles).scores)

    def score(chunk: Chunk) -> np.ndarray:
        candidates = chunk.batch.candidates.numpy()
        scores = np.zeros(candidates.shape)
        for row, slate in enumerate(chunk.slates):
            found = scores_of(slate.query)
            if found is not None:
                scores[row] = found[candidates[row]]
        return scores

    return score
