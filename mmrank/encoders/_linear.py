"""What the frozen encoders share: rows of unit length, the projection tower, and a reduction to fewer numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from torch import Tensor, nn

_CHUNK = 4096


@runtime_checkable
class Stateful(Protocol):
    """An encoder whose `fit` learned something from the public catalogue: its state can be kept and put back."""

    def fit(self, contents: Sequence[Any]) -> Self:
        """Learn from the public catalogue; deterministic."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """What `fit` learned; plain arrays, none of objects."""
        ...

    def restore(self, state: Mapping[str, np.ndarray]) -> Self:
        """Take a `state` of an encoder with the same version; returns itself, fitted."""
        ...


class Projection(nn.Module):
    """[batch, item, width] -> [batch, item, dim]: the only part of a frozen encoder that is trained."""

    def __init__(self, width: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, dim)

    def forward(self, rows: Tensor) -> Tensor:
        return self.linear(rows.to(self.linear.weight.dtype))


def unit_length(rows: np.ndarray) -> np.ndarray:
    """float32 rows of L2 norm 1; a row of zeros stays one."""
    rows = np.asarray(rows, np.float32)
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(norms > 1e-12, norms, 1.0)


def fix_signs(components: np.ndarray) -> np.ndarray:
    """[width, rank] with each column's largest entry positive: an eigenvector's sign is arbitrary."""
    largest = np.abs(components).argmax(axis=0)
    signs = np.sign(components[largest, np.arange(components.shape[1])])
    return components * np.where(signs == 0, 1.0, signs)


def pad_columns(components: np.ndarray, columns: int) -> np.ndarray:
    """[width, columns]: zero columns where the catalogue has too little to fill them."""
    missing = columns - components.shape[1]
    return np.pad(components, ((0, 0), (0, missing))) if missing > 0 else components[:, :columns]


class Reduced:
    """A frozen encoder with its rows reduced to `feature_dim` numbers by principal components.

    The components come from the public catalogue and are the same for queries. Rows have unit length. A row of
    zeros (nothing to encode) stays zero and takes no part in the fit.
    """

    trainable = False
    row_dtype = "float32"

    def __init__(self, encoder: Any, feature_dim: int) -> None:
        self.encoder = encoder
        self.feature_dim = feature_dim
        self.row_shape: tuple[int, ...] = (feature_dim,)
        self.version = f"{encoder.version}+pca1-{feature_dim}"
        self._mean = np.zeros(encoder.row_shape, np.float32)
        self._components: np.ndarray | None = None

    def fit(self, contents: Sequence[Any]) -> Self:
        self.encoder.fit(contents)
        return self.fit_rows(self.encoder.rows(contents))

    def fit_rows(self, raw: np.ndarray) -> Self:
        """Take mean and components from raw rows [N, width], read in chunks: they may be memory-mapped."""
        width = raw.shape[1]
        total, outer, count = np.zeros(width), np.zeros((width, width)), 0
        for start in range(0, len(raw), _CHUNK):
            chunk = np.asarray(raw[start : start + _CHUNK], np.float32)
            chunk = chunk[chunk.any(axis=1)]
            total += chunk.sum(axis=0, dtype=np.float64)
            outer += chunk.T @ chunk
            count += len(chunk)
        mean = total / max(count, 1)
        covariance = outer / max(count, 1) - np.outer(mean, mean)
        _, vectors = np.linalg.eigh(covariance)
        leading = fix_signs(vectors[:, ::-1][:, : self.feature_dim])
        self._mean = mean.astype(np.float32)
        self._components = pad_columns(leading, self.feature_dim).astype(np.float32)
        return self

    def reduce(self, raw: np.ndarray) -> np.ndarray:
        """float32 [N, feature_dim] of raw rows [N, width]."""
        if self._components is None:
            raise RuntimeError("Reduced.reduce needs fit, fit_rows or restore first")
        reduced = np.zeros((len(raw), self.feature_dim), np.float32)
        for start in range(0, len(raw), _CHUNK):
            chunk = np.asarray(raw[start : start + _CHUNK], np.float32)
            present = chunk.any(axis=1)
            reduced[start : start + _CHUNK][present] = unit_length((chunk[present] - self._mean) @ self._components)
        return reduced

    def rows(self, contents: Sequence[Any]) -> np.ndarray:
        return self.reduce(self.encoder.rows(contents))

    def state(self) -> dict[str, np.ndarray]:
        if self._components is None:
            raise RuntimeError("Reduced.state needs fit, fit_rows or restore first")
        return {"mean": self._mean, "components": self._components}

    def restore(self, state: Mapping[str, np.ndarray]) -> Self:
        self._mean, self._components = state["mean"], state["components"]
        return self

    def tower(self, dim: int) -> nn.Module:
        return Projection(self.feature_dim, dim)
