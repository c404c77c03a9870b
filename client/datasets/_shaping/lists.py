"""Slates of lists that were shown or judged: the list is the slate, in its order.

Of impressions the history is what the person chose before; a judged list has none. Where items make the clients, each
client has its own part of a list. A list of one item says nothing, and is left out unless it is to be filled up.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from client.datasets._shaping.acts import Acts
from client.datasets._shaping.clients import Owners
from client.datasets._shaping.fill import Filler
from client.datasets._shaping.moments import LONGEST_HISTORY, TOO_FEW
from client.datasets._shaping.parts import name_of
from client.datasets._source import NONE, Lists, Source
from mmrank.randomness import numpy_generator
from mmrank.slates import Slate

PRODUCTION = "production"
"""The row of the ranker that the shop had, from a column of scores."""

Brought = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Scores of other rankers: by row, query id and item."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """The slates of one source's Lists.

    part: int8 [L]. rows: int64 [R], by client and list; a piece is what a client has of a list: piece i has the rows
    [edges[i], edges[i + 1]) of the list of_list[i], and client c the pieces [by_client[c], by_client[c + 1]).
    first_nobody: the number of the first person who is not named. ends: of each part, the day from which on nothing is
    drawn.
    """

    source: Source
    lists: Lists
    part: np.ndarray
    acts: Acts
    filler: Filler
    fill: bool
    brought: Brought
    clients: Sequence[str]
    seed: int
    first_nobody: int
    rows: np.ndarray
    of_list: np.ndarray
    edges: np.ndarray
    by_client: np.ndarray
    ends: tuple[float, float, float] = (np.inf, np.inf, np.inf)

    def slates(self, client: int, part: int) -> Iterator[Slate | str]:
        """The slates of a client in a part, or why one could not be made."""
        known = dict(self.acts.people_of(client)) if not self.lists.judged else {}
        for piece in range(int(self.by_client[client]), int(self.by_client[client + 1])):
            index = int(self.of_list[piece])
            user = int(self.lists.user[index])
            person = user if user >= 0 else self.first_nobody + index  # who is not named is nobody else
            if self.part[index] == part:
                rows = self.rows[self.edges[piece] : self.edges[piece + 1]]
                yield self._slate(client, index, rows, person, known.get(user), part)

    def pieces(self) -> tuple[np.ndarray, np.ndarray]:
        """(client, part) of each piece that makes a slate, int [n]: one of a single item makes none, unless filled."""
        client = np.repeat(np.arange(len(self.clients)), np.diff(self.by_client))
        mine = slice(int(self.by_client[0]), int(self.by_client[-1]))
        enough = (np.diff(self.edges)[mine] >= 2) | self.fill
        return client[enough], self.part[self.of_list[mine]][enough]

    def _slate(
        self, client: int, index: int, rows: np.ndarray, person: int, acted: slice | None, part: int
    ) -> Slate | str:
        lists = self.lists
        rows = _different(lists, rows)
        query = int(lists.query[index])
        words = self.source.queries[query] if query >= 0 else ""
        time = float(lists.time[index]) if np.isfinite(lists.time[index]) and not lists.judged else 0.0
        candidates = lists.item[rows].astype(np.int64)
        if self.fill:
            candidates = self._filled(client, index, candidates, words, part)
        if len(candidates) < 2:
            return TOO_FEW
        more = len(candidates) - len(rows)
        history = self._history(acted, time)
        return Slate(
            query=words,
            candidates=candidates,
            relevance=np.pad(lists.relevance[rows], (0, more)).astype(np.float32),
            position=np.pad(lists.position[rows], (0, more), constant_values=-1).astype(np.int64),
            propensity=_known(np.pad(lists.propensity[rows], (0, more), constant_values=np.nan)),
            history=self.acts.item[history].astype(np.int64),
            event_type=self.acts.kind[history].astype(np.int64),
            age_days=(time - self.acts.time[history]).astype(np.float32),
            time_days=time,
            user=person,
            scores=self._scores(index, rows, candidates),
        )

    def _filled(self, client: int, index: int, candidates: np.ndarray, words: str, part: int) -> np.ndarray:
        """The list, and others until there are as many as a slate has. The list's name names its draws."""
        missing = self.filler.negatives(part) + 1 - len(candidates)
        if missing <= 0:
            return candidates
        lists = self.lists
        name = name_of(self.source, lists, index)
        generator = numpy_generator(self.seed, "lists", self.clients[client], name)
        filled = self.filler.fill(
            candidates,
            candidates[:0],
            generator=generator,
            client=client,
            user=int(lists.user[index]),
            query=words,
            first=float(lists.time[index]),
            last=self.ends[part],
            part=part,
        )
        return filled[: len(candidates) + missing]

    def _history(self, acted: slice | None, time: float) -> slice:
        """What the person did at this client before that time, of the rows `acted`."""
        if acted is None:
            return slice(0, 0)
        end = acted.start + int(np.searchsorted(self.acts.time[acted], time, side="left"))
        return slice(max(acted.start, end - LONGEST_HISTORY), end)

    def _scores(self, index: int, rows: np.ndarray, candidates: np.ndarray) -> dict[str, np.ndarray] | None:
        """By row, float32 [L]; below all others where the ranker gave none."""
        found: dict[str, np.ndarray] = {}
        own = self.lists.score[rows]
        if np.isfinite(own).any():
            found[PRODUCTION] = np.pad(own, (0, len(candidates) - len(rows)), constant_values=np.nan)
        if len(self.lists.query_id):
            for name, queries in self.brought.items():
                given = queries.get(self.lists.query_id[index])
                if given is not None:
                    found[name] = np.array([given.get(item, np.nan) for item in candidates.tolist()], np.float32)
        return {name: _ranked_last(scores) for name, scores in found.items()} or None


def listed_of(
    source: Source,
    lists: Lists,
    owners: Owners,
    *,
    part: np.ndarray,
    acts: Acts,
    filler: Filler,
    fill: bool,
    brought: Brought,
    seed: int,
    first_nobody: int,
    ends: tuple[float, float, float] = (np.inf, np.inf, np.inf),
) -> Listed:
    """Lists cut up by client, each client's in the order of time."""
    owner = owners.of_lists(lists)
    whole = np.repeat(np.arange(len(lists)), np.diff(lists.start))
    time = np.nan_to_num(lists.time, nan=0.0)[whole]
    order = np.lexsort((np.arange(len(whole)), whole, time, owner))
    order = order[owner[order] != NONE]
    key_owner, key_list = owner[order], whole[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (key_owner[1:] != key_owner[:-1]) | (key_list[1:] != key_list[:-1])
    edges = np.r_[np.flatnonzero(begins), len(order)]
    pieces = edges[:-1]
    return Listed(
        source=source,
        lists=lists,
        part=part,
        acts=acts,
        filler=filler,
        fill=fill,
        brought=brought,
        clients=owners.names,
        seed=seed,
        first_nobody=first_nobody,
        rows=order,
        of_list=key_list[pieces],
        edges=edges,
        by_client=np.searchsorted(key_owner[pieces], np.arange(len(owners.names) + 1)),
        ends=ends,
    )


def _different(lists: Lists, rows: np.ndarray) -> np.ndarray:
    """The rows of different items: of an item that stands twice the row that is worth most, and of equals the first."""
    items = lists.item[rows]
    if len(np.unique(items)) == len(items):
        return rows
    order = np.lexsort((np.arange(len(rows)), -lists.relevance[rows], items))
    first = np.r_[True, np.diff(items[order]) != 0]
    return rows[np.sort(order[first])]


def _known(values: np.ndarray) -> np.ndarray | None:
    return values.astype(np.float32) if np.isfinite(values).any() else None


def _ranked_last(scores: np.ndarray) -> np.ndarray:
    known = np.isfinite(scores)
    lowest = float(scores[known].min()) - 1.0 if known.any() else 0.0
    return np.where(known, scores, lowest).astype(np.float32)
