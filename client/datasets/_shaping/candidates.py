"""Where the other candidates of a slate come from: what others chose, the catalogue, or what the words are near to."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from mmrank._title_search import TitleSearch

OVERSAMPLING = 8
"""Choices drawn for each candidate needed: most repeat an item rarely, so one draw is nearly always enough."""
NEAREST = 1000
"""How many of the nearest titles are kept for a query; the words of a person are asked once a slate."""


class Offers:
    """The choices of everybody, by group (all, one merchant, one type) and day: where candidates are drawn from."""

    def __init__(self, day: np.ndarray, customer: np.ndarray, item: np.ndarray, group: np.ndarray) -> None:
        """day, customer, item, group: int64 [P], by day; a float day is a time of it."""
        order = np.argsort(group, kind="stable")
        self._day, self._customer, self._item = day[order], customer[order], item[order]
        self._edges = np.searchsorted(group[order], np.arange(group.max() + 2))

    def draw(
        self,
        generator: np.random.Generator,
        *,
        count: int,
        group: int,
        first: float,
        last: float,
        customer: int,
        taken: np.ndarray,
    ) -> np.ndarray:
        """At most `count` distinct items, none of `taken`, that others than `customer` chose in [first, last + 1).

        Each is the item of a random choice: what sells twice as much is drawn twice as often, as the
        relevant item was, so the draw alone makes popularity neither better nor worse than chance.
        """
        if group + 1 >= len(self._edges):
            return np.zeros(0, np.int64)
        low, high = self._edges[group], self._edges[group + 1]
        start, end = low + np.searchsorted(self._day[low:high], (first, last + 1))
        available = int(end - start)
        if not available or not count:
            return np.zeros(0, np.int64)
        for size in sorted({min(available, OVERSAMPLING * count), available}):
            rows = start + generator.choice(available, size, replace=False)
            items = self._item[rows[self._customer[rows] != customer]]
            items = items[~np.isin(items, taken)]
            _, seen = np.unique(items, return_index=True)
            if len(seen) >= count:
                break
        return items[np.sort(seen)[:count]]


class Shelves:
    """The public catalogue by group: where candidates come from when nobody else's purchases may be looked at."""

    def __init__(self, group: np.ndarray) -> None:
        """group: int64 [N], of each item."""
        self._items = np.argsort(group, kind="stable")
        self._edges = np.searchsorted(group[self._items], np.arange(group.max() + 2))

    def draw(
        self,
        generator: np.random.Generator,
        *,
        count: int,
        group: int,
        first: int,
        last: int,
        customer: int,
        taken: np.ndarray,
    ) -> np.ndarray:
        """At most `count` distinct items of the group, none of `taken`, each as likely, whoever and whenever asks."""
        shelf = self._items[self._edges[group] : self._edges[group + 1]]
        some = generator.choice(shelf, min(len(shelf), count + len(taken)), replace=False)
        return some[~np.isin(some, taken)][:count]


class Asked:
    """The choices of everybody by their words: what else was chosen for the same query."""

    def __init__(self, query: np.ndarray, customer: np.ndarray, item: np.ndarray, day: np.ndarray) -> None:
        """query, customer, item: int [P], query below 0 where there were no words; day: float [P]."""
        order = np.lexsort((day, query))
        self._query, self._customer, self._item, self._day = query[order], customer[order], item[order], day[order]

    def draw(
        self, generator: np.random.Generator, *, count: int, query: int, last: float, customer: int, taken: np.ndarray
    ) -> np.ndarray:
        """At most `count` items, none of `taken`, that others than `customer` chose for `query` before `last`."""
        low, high = np.searchsorted(self._query, (query, query + 1))
        rows = slice(low, low + np.searchsorted(self._day[low:high], last, side="left"))
        items = np.unique(self._item[rows][self._customer[rows] != customer])
        items = items[~np.isin(items, taken)]
        return items if len(items) <= count else generator.choice(items, count, replace=False)


class Nearest:
    """The items whose titles are nearest to the words, by BM25; public titles alone."""

    def __init__(self, titles: Sequence[str]) -> None:
        self._search = TitleSearch(titles)
        self._kept = lru_cache(maxsize=512)(self._best)

    def draw(self, *, count: int, query: str, among: np.ndarray | None, taken: np.ndarray) -> np.ndarray:
        """At most `count` items, the nearest first, none of `taken`; only those that `among`, bool [N], allows."""
        items = self._kept(query)
        if among is not None:
            items = items[among[items]]
        return items[~np.isin(items, taken)][:count]

    def _best(self, query: str) -> np.ndarray:
        scores = self._search.scores(query)
        if scores is None:
            return np.zeros(0, np.int64)
        best = np.argsort(-scores, kind="stable")[:NEAREST]
        return best[scores[best] > 0]
