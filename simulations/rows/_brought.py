"""Scores that a data set brings: of the ranker that the shop had, or of a TREC run."""

from __future__ import annotations

import numpy as np

from simulations.evaluation import Chunk, Scorer


def brought_scorer(name: str) -> Scorer:
    """The scores of Slate.scores[name]; a slate that has none is ranked by chance, as one score for all is."""

    def score(chunk: Chunk) -> np.ndarray:
        scores = np.zeros(chunk.batch.candidates.shape)
        for row, slate in enumerate(chunk.slates):
            found = (slate.scores or {}).get(name)
            if found is not None:
                scores[row, : len(found)] = found
        return scores

    return score
