"""Slates of what people did: a person's acts of one moment, against items that they did not choose.

What was chosen in one moment (a day) with the same words is relevant together. What was only seen, or disliked,
stands beside it as not relevant, and the slate is filled up with candidates. History is what the person did before
the moment began, at this client.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from client.datasets._shaping.acts import Acts, moment_starts
from client.datasets._shaping.fill import Filler
from client.datasets._shaping.parts import Parts
from client.datasets._shaping.queries import Template
from client.datasets._source import Source
from mmrank.randomness import numpy_generator
from mmrank.slates import Slate

LONGEST_HISTORY = 1000
"""Events that a slate holds at most; model.history_length may not be larger."""
WIDTHS = {"day": 1.0, "hour": 1 / 24, "event": 0.0}
TOO_FEW = "fewer than 2 candidates"


@dataclass(frozen=True, kw_only=True)
class Moments:
    """Makes the slates of acts. derive: the share of moments without words that are given some, by `templates`.

    Each moment's draws are its own: they depend on the client, the person and the time alone.
    """

    source: Source
    clients: Sequence[str]
    acts: Acts
    parts: Parts
    filler: Filler
    templates: Sequence[Template]
    derive: float
    moment: str
    seed: int

    def slates(self, client: int, part: int) -> Iterator[Slate | str]:
        """The slates of a client in a part, or why one could not be made, person by person."""
        width = WIDTHS[self.moment] if self.acts.timed else 0.0
        for user, rows in self.acts.people_of(client):
            acts = _sliced(self.acts, rows)
            # once for all slates, whose histories are then parts of the same: else each had a copy of its own
            acts = replace(acts, item=acts.item.astype(np.int64), kind=acts.kind.astype(np.int64))
            cuts = np.flatnonzero(np.r_[moment_starts(acts, width), True])
            begins = cuts[:-1]
            wanted = np.maximum.reduceat(acts.relevance, begins) > 0
            wanted &= (
                self.parts.of_times(acts.time[begins]) == part if self._timed else self._by_query(acts, begins, part)
            )
            for index in np.flatnonzero(wanted).tolist():
                yield from self._moment(client, user, acts, slice(int(cuts[index]), int(cuts[index + 1])), part)

    def begun(self) -> tuple[np.ndarray, np.ndarray]:
        """(client, part) of each moment in which something was chosen, int [n]; NONE for a part beyond the last."""
        width = WIDTHS[self.moment] if self.acts.timed else 0.0
        begins = np.flatnonzero(moment_starts(self.acts, width))
        begins = begins[np.maximum.reduceat(self.acts.relevance, begins) > 0]
        if self._timed:
            return self.acts.client[begins], self.parts.of_times(self.acts.time[begins])
        by_query = np.array([self.parts.of_query(text) for text in ("", *self.source.queries)], np.int8)
        return self.acts.client[begins], by_query[self.acts.query[begins] + 1]

    def _name(self, acts: Acts, rows: slice) -> tuple[str, ...]:
        time = float(acts.time[rows.start])
        width = WIDTHS[self.moment] if self.acts.timed else 0.0
        if width > 0:
            return (str(int(time // width)),)
        return (repr(time), self.source.catalog.item_ids[int(acts.item[rows.start])])

    @property
    def _timed(self) -> bool:
        return self.parts.by == "time"

    def _by_query(self, acts: Acts, begins: np.ndarray, part: int) -> np.ndarray:
        words = [self.source.queries[query] if query >= 0 else "" for query in acts.query[begins].tolist()]
        return np.array([self.parts.of_query(text) == part for text in words], bool)

    def _moment(self, client: int, user: int, acts: Acts, rows: slice, part: int) -> Iterator[Slate | str]:
        """A slate for each query of the moment."""
        history = _history(acts, rows.start)
        generator = numpy_generator(
            self.seed, "moments", self.clients[client], self.source.users[user], *self._name(acts, rows)
        )
        for query, items, relevance, seen in self._asked(acts, rows, generator):
            chosen = self.filler.room_for(items, relevance, part, generator)
            shown = self.filler.fill(
                items[chosen],
                seen,
                generator=generator,
                client=client,
                user=user,
                query=query,
                first=float(acts.time[rows.start]),
                last=self.parts.end_of(part) if self._timed else np.inf,
                part=part,
                chosen=acts.item[rows][acts.relevance[rows] > 0],
            )
            if len(shown) < 2:
                yield TOO_FEW
                continue
            order = generator.permutation(len(shown))
            grades = np.zeros(len(shown), np.float32)
            grades[: chosen.sum()] = relevance[chosen]
            yield Slate(
                query=query,
                candidates=shown[order],
                relevance=grades[order],
                position=np.full(len(shown), -1, np.int64),
                history=history.item,
                event_type=history.kind,
                age_days=(acts.time[rows.start] - history.time).astype(np.float32),
                time_days=float(acts.time[rows.start]),
                user=user,
            )

    def _asked(
        self, acts: Acts, rows: slice, generator: np.random.Generator
    ) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
        """(words, items that were chosen, their relevance, items that were only seen), by words."""
        derived = generator.random() < self.derive
        template = self.templates[int(generator.integers(len(self.templates)))]
        item, relevance, query = acts.item[rows], acts.relevance[rows], acts.query[rows]
        for number in dict.fromkeys(query.tolist()):
            here = query == number
            items, best = _best(item[here], relevance[here])
            chosen, seen = items[best > 0], items[best <= 0]
            best = best[best > 0]
            if number >= 0 or not derived:
                words = [self.source.queries[number] if number >= 0 else ""] * len(chosen)
            else:
                words = [template(one) for one in chosen.tolist()]
            for text in dict.fromkeys(words):
                same = np.array([word == text for word in words], bool)
                yield text, chosen[same], best[same], seen


def _best(items: np.ndarray, relevance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [n] different items, in the order in which they came; float32 [n], the most that each was worth)."""
    if len(items) == 1:
        return items.astype(np.int64), relevance
    found, first, place = np.unique(items, return_index=True, return_inverse=True)
    best = np.zeros(len(found), np.float32)
    np.maximum.at(best, place.reshape(-1), relevance)
    order = np.argsort(first)
    return found[order].astype(np.int64), best[order]


def _history(acts: Acts, before: int) -> Acts:
    return _sliced(acts, slice(max(0, before - LONGEST_HISTORY), before))


def _sliced(acts: Acts, rows: slice) -> Acts:
    columns = {
        name: getattr(acts, name)[rows] for name in ("client", "user", "item", "time", "kind", "relevance", "query")
    }
    return Acts(**columns, edges=acts.edges, timed=acts.timed)
