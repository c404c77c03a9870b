"""Chance: what a scorer that knows nothing gets on average, exactly."""

from __future__ import annotations

import numpy as np

from simulations.evaluation import Chunk, Scorer
from simulations.rows import RowContext


def build(context: RowContext) -> Scorer:
    """One score for all: each measure is then its mean over all orders (see mmrank.metrics), without a draw's noise."""

    def score(chunk: Chunk) -> np.ndarray:
        return np.zeros(chunk.batch.candidates.shape)

    return score
