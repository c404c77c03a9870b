"""TF-IDF of words, word pairs and character n-grams, reduced by latent semantic analysis.

Vocabulary, IDF and directions come from the public catalogue's titles, never from a query. Titles that hold both
languages tie them together: 运动鞋 and "running shoes" meet in one direction, also for a query in one of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import numpy as np
from scipy.sparse import csr_matrix, diags
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import nn

from mmrank.encoders._linear import Projection, unit_length
from mmrank.encoders.text import _svd, _tokens
from mmrank.errors import ConfigError


class Tfidf:
    """A frozen text encoder; rows are float32 [feature_dim] of unit length."""

    trainable = False
    row_dtype = "float32"

    def __init__(
        self,
        *,
        feature_dim: int,
        max_features: int,
        min_df: int,
        char_weight: float,
        pair_weight: float,
        spectrum: float,
    ) -> None:
        self.row_shape = (feature_dim,)
        self.version = (
            f"tfidf-1/{_tokens.VERSION}/{feature_dim}/{max_features}/{min_df}/{char_weight}/{pair_weight}/{spectrum}"
        )
        self._max_features = max_features
        self._min_df = min_df
        self._weights = {"w": 1.0, "p": pair_weight, "c": char_weight}
        self._spectrum = spectrum
        self._vectorizer: TfidfVectorizer | None = None
        self._components = np.zeros((0, feature_dim), np.float32)

    def fit(self, texts: Sequence[str]) -> Self:
        written = [text for text in dict.fromkeys(texts) if text.strip()]
        if not any(map(_tokens.tokens, written)):
            return self.restore({"vocabulary": np.zeros(0, "<U1"), "idf": np.zeros(0, np.float32)})
        min_df = self._min_df if len(written) >= 1000 else 1  # a small catalogue has no words to spare
        vectorizer = self._new_vectorizer(min_df=min_df, max_features=self._max_features)
        counted = vectorizer.fit_transform(written)
        vocabulary = vectorizer.get_feature_names_out().astype(str)
        self.restore({"vocabulary": vocabulary, "idf": vectorizer.idf_.astype(np.float32)})
        self._components = _svd.components(self._weighted(counted), self.row_shape[0], spectrum=self._spectrum)
        return self

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        if self._vectorizer is None:
            raise RuntimeError("Tfidf.rows needs fit or restore first")
        if not len(texts) or not len(self._components):
            return np.zeros((len(texts), *self.row_shape), np.float32)
        return unit_length(self._weighted(self._vectorizer.transform(texts)) @ self._components)

    def tower(self, dim: int) -> nn.Module:
        return Projection(self.row_shape[0], dim)

    def state(self) -> dict[str, np.ndarray]:
        if self._vectorizer is None:
            raise RuntimeError("Tfidf.state needs fit or restore first")
        vocabulary: dict[str, int] = self._vectorizer.vocabulary_ if len(self._components) else {}
        return {
            "vocabulary": np.array(sorted(vocabulary, key=vocabulary.__getitem__), dtype=str),
            "idf": self._idf,
            "components": self._components,
        }

    def restore(self, state: Mapping[str, np.ndarray]) -> Self:
        words = state["vocabulary"].tolist()
        self._idf = np.asarray(state["idf"], np.float32)
        self._components = state.get("components", np.zeros((len(words), *self.row_shape), np.float32))
        # scikit-learn refuses an empty vocabulary; the word can't be met, since features carry a prefix
        self._vectorizer = self._new_vectorizer(vocabulary={word: i for i, word in enumerate(words)} or {"none": 0})
        self._vectorizer.idf_ = self._idf if len(words) else np.ones(1, np.float32)
        self._kind_weight = np.array([self._weights[word[0]] for word in words], np.float32)
        return self

    def _new_vectorizer(self, **settings: object) -> TfidfVectorizer:
        return TfidfVectorizer(analyzer=_tokens.features, sublinear_tf=True, dtype=np.float32, norm=None, **settings)

    def _weighted(self, counted: csr_matrix) -> csr_matrix:
        """TF-IDF rows with each kind's weight, brought to unit length."""
        weighted = counted @ diags(self._kind_weight)
        norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
        return (diags(1.0 / np.where(norms > 0, norms, 1.0)) @ weighted).tocsr().astype(np.float32)


def build(
    *,
    feature_dim: int = 64,
    max_features: int = 60_000,
    min_df: int = 2,
    char_weight: float = 0.3,
    pair_weight: float = 0.5,
    spectrum: float = 0.5,
) -> Tfidf:
    """max_features: the vocabulary's most frequent terms. min_df: titles that a term must stand in, where the
    catalogue has 1,000 or more. char_weight, pair_weight: of character n-grams and word pairs beside words' 1.
    spectrum: 1 keeps singular values as they are, 0 evens them out.
    Raises ConfigError where one is out of bounds.
    """
    for name, value, low in (("feature_dim", feature_dim, 1), ("max_features", max_features, 1), ("min_df", min_df, 1)):
        if value < low:
            raise ConfigError(f"Expected model.text.{name}={value} of at least {low}; set model.text.{name}.")
    for name, weight in (("char_weight", char_weight), ("pair_weight", pair_weight), ("spectrum", spectrum)):
        if not 0 <= weight <= 1:
            raise ConfigError(f"Expected model.text.{name}={weight} in [0, 1]; set model.text.{name}.")
    return Tfidf(
        feature_dim=feature_dim,
        max_features=max_features,
        min_df=min_df,
        char_weight=char_weight,
        pair_weight=pair_weight,
        spectrum=spectrum,
    )
