"""Latent semantic analysis: a truncated SVD of a sparse matrix, the same on every call."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD

from mmrank.encoders._linear import fix_signs, pad_columns


def components(matrix: csr_matrix, rank: int, *, spectrum: float) -> np.ndarray:
    """float32 [features, rank]: right singular vectors of `matrix` [texts, features], scaled.

    Column i is multiplied by (s_i / s_1)^(spectrum - 1): at 1 the plain projection, at 0 each direction
    counts the same (whitening). Between them, directions that tell similar products apart gain weight.
    Deerwester et al. 1990; the power is Caron 2001's. Too small a catalogue leaves columns of zeros.
    """
    usable = min(rank, min(matrix.shape) - 1)
    if usable < 1 or matrix.nnz == 0:
        return np.zeros((matrix.shape[1], rank), np.float32)
    svd = TruncatedSVD(usable, algorithm="randomized", n_iter=7, random_state=0).fit(matrix)
    singular_values = np.maximum(svd.singular_values_, 1e-12)
    weight = (singular_values / singular_values[0]) ** (spectrum - 1.0)
    # Directions without any variance are rounding noise: whitening must not blow them up.
    weight[singular_values < 1e-6 * singular_values[0]] = 0.0
    return pad_columns(fix_signs(svd.components_.T) * weight, rank).astype(np.float32)
