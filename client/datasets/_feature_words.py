"""Numbers as words: features of a pair of query and document by the bin that each lies in, for a ranker of texts."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol, overload

import numpy as np

from mmrank.errors import ConfigError

LARGEST_FEATURE = 65_535
SAMPLE_ROWS = 20_000
"""Rows that quantiles are taken of: the first of training."""
QUANTILES = 10
AT_ONCE = 10_000
"""Rows whose numbers wait to be binned together."""
_ABOVE = (0.001, 0.01, 0.05, *(tenth / 10 for tenth in range(1, 11)))
_SCALE = (*_ABOVE, *(digit * 10.0**power for power in range(4) for digit in (2, 5, 10)), 1e5, 1e6)
PUBLIC_EDGES = (*(-edge for edge in reversed(_SCALE)), *_SCALE)
"""Fixed, the same for every feature: tenths up to 1, for numbers that were normalised; 1, 2, 5, 10 and so on above."""

Edges = Literal["public", "train"] | Sequence[float]


class Binning(Protocol):
    """Bins of values by feature."""

    def ready(self, rows: int) -> bool:
        """Whether so many rows are enough to know the edges."""
        ...

    def bins(self, feature: np.ndarray, value: np.ndarray) -> np.ndarray:
        """uint8 [n]: the bin of each value."""
        ...


class FixedBins:
    """One ladder of edges for all features, chosen without a look at the data."""

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges = np.array(edges, np.float64)

    def ready(self, rows: int) -> bool:
        return True

    def bins(self, feature: np.ndarray, value: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._edges, value, side="right").astype(np.uint8)


class QuantileBins:
    """Edges of each feature at its deciles, 0 left out, over the rows that come first: those of training."""

    def __init__(self) -> None:
        self._edges: dict[int, np.ndarray] | None = None

    def ready(self, rows: int) -> bool:
        return self._edges is not None or rows >= SAMPLE_ROWS

    def bins(self, feature: np.ndarray, value: np.ndarray) -> np.ndarray:
        if self._edges is None:
            shares = np.arange(1, QUANTILES) / QUANTILES
            self._edges = {
                name: np.unique(np.quantile(value[rows], shares, method="lower")) for name, rows in _by_feature(feature)
            }
        found = np.zeros(len(value), np.uint8)
        for name, rows in _by_feature(feature):
            edges = self._edges.get(name)
            if edges is not None:
                found[rows] = np.searchsorted(edges, value[rows], side="right")
        return found


def binning(edges: Edges) -> Binning:
    """`public`, `train`, or a ladder of one's own. Raises ConfigError for what is none."""
    if edges == "public":
        return FixedBins(PUBLIC_EDGES)
    if edges == "train":
        return QuantileBins()
    numbers = None if isinstance(edges, str) else list(edges)
    usable = numbers is not None and all(isinstance(edge, int | float) for edge in numbers)
    if not usable or not 1 <= len(numbers) <= 255 or not (np.diff(numbers) > 0).all():  # type: ignore[arg-type]
        raise ConfigError(
            f"Expected dataset.edges={edges!r} to be public, train, or 1 to 255 numbers that ascend, such as "
            "[0.5, 1, 10]."
        )
    return FixedBins(numbers)  # type: ignore[arg-type]


class FeatureWords:
    """Rows of (feature, value) as they are read; three bytes a number once they are binned."""

    def __init__(self, edges: Edges) -> None:
        self._binning = binning(edges)
        self._feature, self._value, self._length = array("H"), array("d"), array("q")
        self._binned: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(self, features: Sequence[int], values: Sequence[float]) -> None:
        """One row; features in [0, LARGEST_FEATURE]."""
        self._feature.extend(features)
        self._value.extend(values)
        self._length.append(len(features))
        if len(self._length) % AT_ONCE == 0 and self._binning.ready(len(self._length)):
            self.settle()

    def settle(self) -> None:
        """Bin what waits; the edges are those of the rows so far, where the data say them.

        A value of 0, or that is no number, has no word: 0 is what SVMlight leaves out.
        """
        feature, value = np.frombuffer(self._feature, np.uint16), np.frombuffer(self._value, np.float64)
        kept = ~np.isnan(value) & (value != 0)
        ends = np.cumsum(np.frombuffer(self._length, np.int64))
        lengths = np.diff(np.r_[0, np.cumsum(kept)][ends], prepend=0) if len(ends) else ends
        feature, value = feature[kept], value[kept]
        self._binned.append((lengths, feature, self._binning.bins(feature, value)))
        self._feature, self._value, self._length = array("H"), array("d"), array("q")

    def titles(self) -> FeatureTitles:
        """Every row as a title."""
        self.settle()
        lengths, feature, bins = (np.concatenate(parts) for parts in zip(*self._binned, strict=True))
        self._binned.clear()
        return FeatureTitles(np.r_[0, np.cumsum(lengths)], feature, bins)


class FeatureTitles(Sequence[str]):
    """Titles made when they are asked for: `f12b3 f14b0` has feature 12 in bin 3, and no feature 13.

    Written together, since f12_3 would be two words to a text encoder.
    """

    def __init__(self, start: np.ndarray, feature: np.ndarray, bins: np.ndarray) -> None:
        """start: int64 [N + 1]; feature: uint16 [start[N]]; bins: uint8 [start[N]]."""
        self._start, self._feature, self._bins = start, feature, bins

    def __len__(self) -> int:
        return len(self._start) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        row = range(len(self))[index]  # raises IndexError, which ends an iteration
        place = slice(int(self._start[row]), int(self._start[row + 1]))
        pairs = zip(self._feature[place].tolist(), self._bins[place].tolist(), strict=True)
        return " ".join(f"f{feature}b{number}" for feature, number in pairs)


def _by_feature(feature: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(feature, its places)."""
    if not len(feature):
        return
    order = np.argsort(feature, kind="stable")
    names, begins = np.unique(feature[order], return_index=True)
    yield from zip(names.tolist(), np.split(order, begins[1:]), strict=True)
