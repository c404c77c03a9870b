"""Item-kNN, centralised: items that the same people chose, weighted by BM25 or TF-IDF (implicit library)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from implicit.nearest_neighbours import ItemItemRecommender, bm25_weight, normalize, tfidf_weight
from scipy import sparse

from simulations.evaluation import Chunk, Scorer
from simulations.rows import RowContext
from simulations.rows._collaborative import at_candidates, history_matrix, one_blas_thread, train_matrix

KINDS: dict[str, Callable[[sparse.spmatrix], sparse.spmatrix]] = {  # of items x people, as in the library's own models
    "cosine": normalize,
    "tfidf": lambda counts: normalize(tfidf_weight(counts)),
    "bm25": lambda counts: bm25_weight(counts, 1.2, 0.75),
}
NEIGHBOURS = (20, 200)


def build(context: RowContext) -> Scorer:
    """A candidate scores the sum of its similarities to the history. Kind and neighbours are chosen on validation."""
    matrix = train_matrix(context)

    def scorer(choice: tuple[str, int]) -> Scorer:
        kind, neighbours = choice
        model = ItemItemRecommender(K=neighbours, num_threads=1)
        with one_blas_thread():
            model.fit(KINDS[kind](matrix.T).T.tocsr(), show_progress=False)
        similarity = model.similarity.tocsr()

        def score(chunk: Chunk) -> np.ndarray:
            history = history_matrix(chunk, matrix.shape[1])
            return at_candidates((history @ similarity).toarray(), chunk)

        return score

    if "collaborative_knn" not in context.choices:
        choices = [(kind, neighbours) for kind in KINDS for neighbours in NEIGHBOURS]
        context.choices["collaborative_knn"], _ = context.evaluator.choose((c, scorer(c)) for c in choices)
    return scorer(context.choices["collaborative_knn"])
