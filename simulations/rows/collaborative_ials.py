"""iALS (Hu, Koren and Volinsky 2008), centralised, by the implicit library."""

from __future__ import annotations

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares

from mmrank.randomness import stream_key
from simulations.evaluation import Chunk, Scorer
from simulations.rows import RowContext
from simulations.rows._collaborative import at_candidates, history_matrix, one_blas_thread, train_matrix

CHOICES = ((32, 0.1, 1.0), (32, 0.1, 10.0), (64, 1.0, 10.0), (64, 10.0, 10.0))
"""(factors, regularisation, weight of a choice)."""
ITERATIONS = 15


def build(context: RowContext) -> Scorer:
    """A person's factors are recomputed from the history before each slate. Settings are chosen on validation."""
    matrix = train_matrix(context)

    def scorer(choice: tuple[int, float, float]) -> Scorer:
        factors, regularisation, weight = choice
        with one_blas_thread():
            model = AlternatingLeastSquares(
                factors=factors,
                regularization=regularisation,
                alpha=weight,
                iterations=ITERATIONS,
                num_threads=1,
                random_state=stream_key(context.seed, "ials") % 2**32,
            )
            model.fit(matrix, show_progress=False)

        def score(chunk: Chunk) -> np.ndarray:
            history = history_matrix(chunk, matrix.shape[1])
            people = model.recalculate_user(np.arange(len(chunk.slates)), history)
            return at_candidates(people @ model.item_factors.T, chunk)

        return score

    if "collaborative_ials" not in context.choices:
        context.choices["collaborative_ials"], _ = context.evaluator.choose((c, scorer(c)) for c in CHOICES)
    return scorer(context.choices["collaborative_ials"])
