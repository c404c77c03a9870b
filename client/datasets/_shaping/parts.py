"""Which part a slate is for: by time for everybody alike, by its query, or as the file says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from client.datasets import Split
from client.datasets._shaping.acts import UNTIMED_DAYS
from client.datasets._shaping.settings import SplitSettings
from client.datasets._source import NONE, Lists, Source
from mmrank.errors import ConfigError

FEW_DAYS = 10
"""Data over more days than these are cut at midnight."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Where the parts begin. by: time, query or column. edges: [4], the days at which training, validation and test
    begin and test ends; of the untimed, see client.datasets._shaping.acts. shares: of queries, validation and test.
    public: whether the edges depend on nobody's behaviour.
    """

    by: str
    edges: tuple[float, float, float, float]
    shares: tuple[float, float]
    public: bool

    def of_times(self, times: np.ndarray) -> np.ndarray:
        """int8 [n]: index of SPLITS; NONE beyond the end of test."""
        found = np.searchsorted(self.edges[1:], times, side="right").astype(np.int8)
        return np.where(found > 2, NONE, found).astype(np.int8)

    def of_query(self, text: str) -> int:
        """The index of SPLITS of those words: a hash, so the same in every run and on every client.

        >>> Parts(by="query", edges=(0, 0, 0, 0), shares=(0.1, 0.2), public=True).of_query("running shoes")
        0
        """
        point = int.from_bytes(hashlib.sha256(text.strip().lower().encode()).digest()[:6], "big") / 2**48
        validation, test = self.shares
        return 2 if point < test else 1 if point < test + validation else 0

    def end_of(self, part: int) -> float:
        """The day at which a part ends: nothing is drawn from after it."""
        return self.edges[part + 1]


def parts_of(source: Source, settings: SplitSettings, times: np.ndarray) -> Parts:
    """The parts of a source. times: of everything that people chose, float64 [n], NaN where unknown.

    Raises ConfigError for a split that the source can't have.
    """
    by = settings.by if settings.by != "auto" else _usual(source)
    if by == "column" and not any((lists.part != NONE).any() for lists in source.lists):
        raise ConfigError(
            "Expected dataset.split.by=column where a column says the part (split: beside judgments or impressions); "
            "set dataset.split.by: time or query."
        )
    shares = (settings.validation_fraction, settings.test_fraction)
    if settings.edges is not None:
        return Parts(by=by, edges=(-np.inf, *settings.edges), shares=shares, public=True)
    test, validation = 1 - shares[1], 1 - shares[1] - shares[0]
    known = times[np.isfinite(times)]
    if by != "time" or not len(known):
        edges = (-np.inf, np.inf, np.inf, np.inf)
    elif not source.timed:
        edges = (-np.inf, UNTIMED_DAYS * validation, UNTIMED_DAYS * test, np.inf)
    else:
        validation, test = np.quantile(known, [validation, test]).tolist()
        if np.ptp(known) > FEW_DAYS:
            validation, test = float(np.ceil(validation)), float(np.ceil(test))
        edges = (-np.inf, validation, test, np.inf)
    return Parts(by=by, edges=edges, shares=shares, public=not (by == "time" and source.timed))


def parts_of_lists(parts: Parts, source: Source) -> Iterator[np.ndarray]:
    """int8 [L] of each of the source's lists: index of SPLITS or NONE."""
    for lists in source.lists:
        if parts.by == "column":
            yield lists.part
        elif parts.by == "time" and not lists.judged:
            yield parts.of_times(lists.time)
        else:
            yield np.array([parts.of_query(_words(source, lists, index)) for index in range(len(lists))], np.int8)


def _words(source: Source, lists: Lists, index: int) -> str:
    query = int(lists.query[index])
    return source.queries[query] if query >= 0 else f"list {index}"


def _usual(source: Source) -> str:
    if any((lists.part != NONE).any() for lists in source.lists):
        return "column"
    acted = source.events is not None or any(not lists.judged for lists in source.lists)
    return "time" if acted else "query"
