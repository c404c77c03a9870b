"""Which part a slate is for: by time for everybody alike, by its query, or as the file says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
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
    """The parts of a source. times: of its slates, float64 [n], NaN where unknown.

    Raises ConfigError for a split that the source can't have.
    """
    by = settings.by if settings.by != "auto" else _usual(source)
    if by == "column" and not any((lists.part != NONE).any() for lists in source.lists):
        raise ConfigError(
            "Expected dataset.split.by=column where a column says the part (split: beside judgments or impressions); "
            "set dataset.split.by: time or query."
        )
    shown = [lists for lists in source.lists if not lists.judged]
    if by == "time" and shown and not _any_timed(shown):
        raise ConfigError(
            "Expected dataset.split.by=time over impressions that have times; name their column (time: beside "
            "impressions), or set dataset.split.by: query."
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
        test = test if shares[1] > 0 else np.inf
        validation = validation if sum(shares) > 0 else np.inf
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


def name_of(source: Source, lists: Lists, index: int) -> str:
    """Names a list by what is its own, so that nothing that somebody else did gives it another name."""
    if len(lists.query_id):
        return lists.query_id[index]
    user, query = int(lists.user[index]), int(lists.query[index])
    items = lists.item[int(lists.start[index]) : int(lists.start[index + 1])]
    ids = [source.catalog.item_ids[item] for item in items.tolist()]
    names = (source.users[user] if user >= 0 else "", source.queries[query] if query >= 0 else "")
    return "\x1f".join([*names, repr(float(lists.time[index])), *ids])


def _words(source: Source, lists: Lists, index: int) -> str:
    query = int(lists.query[index])
    return source.queries[query] if query >= 0 else name_of(source, lists, index)


def _usual(source: Source) -> str:
    if any((lists.part != NONE).any() for lists in source.lists):
        return "column"
    shown = [lists for lists in source.lists if not lists.judged]
    if shown:
        return "time" if _any_timed(shown) else "query"
    return "time" if source.events is not None else "query"


def _any_timed(shown: Sequence[Lists]) -> bool:
    return any(bool(np.isfinite(lists.time).any()) for lists in shown)
