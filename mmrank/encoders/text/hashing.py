"""Hashed words and character n-grams: no vocabulary and no IDF, so nothing of anyone's text is shared.

By default the reduction is a random projection, which depends on no data at all: merchants who keep their catalogues
to themselves get the same vector for the same words. `reduction: svd` takes directions from the public catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn

from mmrank.encoders._linear import Projection, unit_length
from mmrank.encoders.text import _svd, _tokens
from mmrank.errors import ConfigError
from mmrank.randomness import numpy_generator

_SPECTRUM = 0.5


class Hashing:
    """A frozen text encoder; rows are float32 [feature_dim] of unit length."""

    trainable = False
    row_dtype = "float32"

    def __init__(self, *, feature_dim: int, buckets: int, reduction: Literal["random", "svd"]) -> None:
        self.row_shape = (feature_dim,)
        self.version = f"hashing-1/{_tokens.VERSION}/{feature_dim}/{buckets}/{reduction}"
        self._reduction = reduction
        self._vectorizer = HashingVectorizer(
            analyzer=_tokens.features, n_features=buckets, norm="l2", alternate_sign=True, dtype=np.float32
        )
        self._components: np.ndarray | None = None

    def fit(self, texts: Sequence[str]) -> Self:
        width, dim = self._vectorizer.n_features, self.row_shape[0]
        if self._reduction == "random":
            # signs / sqrt(dim): cosines are kept up to about 1 / sqrt(dim) (Achlioptas 2003)
            signs = numpy_generator(0, "hashing projection", dim).integers(0, 2, (width, dim), dtype=np.int8)
            self._components = ((2.0 * signs - 1.0) / np.sqrt(dim)).astype(np.float32)
        else:
            written = [text for text in dict.fromkeys(texts) if text.strip()]
            self._components = np.zeros((width, dim), np.float32)
            if written:
                self._components = _svd.components(self._hashed(written), dim, spectrum=_SPECTRUM)
        return self

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        if self._components is None:
            raise RuntimeError("Hashing.rows needs fit or restore first")
        if not len(texts):
            return np.zeros((0, *self.row_shape), np.float32)
        return unit_length(self._hashed(texts) @ self._components)

    def tower(self, dim: int) -> nn.Module:
        return Projection(self.row_shape[0], dim)

    def _hashed(self, texts: Sequence[str]) -> csr_matrix:
        return self._vectorizer.transform(texts)


class HashingSvd(Hashing):
    """With directions of the public catalogue, which can be kept and put back."""

    def state(self) -> dict[str, np.ndarray]:
        if self._components is None:
            raise RuntimeError("HashingSvd.state needs fit or restore first")
        return {"components": self._components}

    def restore(self, state: Mapping[str, np.ndarray]) -> Self:
        self._components = state["components"]
        return self


def build(*, feature_dim: int = 64, buckets: int = 2**15, reduction: str = "random") -> Hashing:
    """buckets: width of the hashed counts. reduction: `random` (no data) or `svd` (of the public catalogue).

    Raises ConfigError where one is out of bounds.
    """
    if not 2 <= buckets <= 2**20:
        raise ConfigError(f"Expected model.text.buckets={buckets} in [2, {2**20}]; set model.text.buckets.")
    if feature_dim < 1:
        raise ConfigError(f"Expected model.text.feature_dim={feature_dim} of at least 1; set model.text.feature_dim.")
    if reduction == "random":
        return Hashing(feature_dim=feature_dim, buckets=buckets, reduction="random")
    if reduction == "svd":
        return HashingSvd(feature_dim=feature_dim, buckets=buckets, reduction="svd")
    raise ConfigError(f"Expected model.text.reduction={reduction!r} to be random or svd; set model.text.reduction.")
