"""What the collaborative rows share: people's histories as rows of a sparse matrix."""

from __future__ import annotations

import numpy as np
from scipy import sparse
from threadpoolctl import threadpool_limits

from simulations.evaluation import Chunk
from simulations.rows import RowContext, RowSkippedError


def one_blas_thread() -> threadpool_limits:
    """A context for fitting: implicit runs threads of its own, and warns where BLAS would run more."""
    return threadpool_limits(1, "blas")


def train_matrix(context: RowContext) -> sparse.csr_matrix:
    """float32 [people, items] of the training part. Raises RowSkippedError where it holds nothing."""
    matrix = context.train_events.matrix(len(context.dataset.catalog))
    if not matrix.nnz:
        raise RowSkippedError("nobody chose anything in the training part")
    return matrix


def history_matrix(chunk: Chunk, items: int) -> sparse.csr_matrix:
    """float32 [B, items]: 1 where the whole history before the slate holds the item."""
    chosen = [np.unique(slate.history) for slate in chunk.slates]
    edges = np.cumsum([0, *map(len, chosen)])
    columns = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
    return sparse.csr_matrix((np.ones(len(columns), np.float32), columns, edges), shape=(len(chosen), items))


def at_candidates(scores: np.ndarray, chunk: Chunk) -> np.ndarray:
    """float [B, L] of the candidates, from float [B, items]."""
    return np.take_along_axis(scores, np.maximum(chunk.batch.candidates.numpy(), 0), axis=1)
