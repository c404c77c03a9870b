"""The generator's own ranking, where the data set was made and knows the truth."""

from __future__ import annotations

import numpy as np

from simulations.evaluation import Chunk, Scorer
from simulations.rows import RowContext, RowSkippedError


def build(context: RowContext) -> Scorer:
    """Scores by `Slate.oracle`. Raises RowSkippedError where the data set does not know the truth."""
    for client in context.evaluator.client_ids("validation")[:1]:
        if any(slate.oracle is None for slate in context.dataset.slates(client, "validation")):
            raise RowSkippedError(f"{context.dataset.name} does not know the true ranking")

    def score(chunk: Chunk) -> np.ndarray:
        scores = np.zeros(chunk.batch.candidates.shape)
        for row, slate in enumerate(chunk.slates):
            if slate.oracle is not None:
                scores[row, : len(slate.oracle)] = slate.oracle
        return scores

    return score
