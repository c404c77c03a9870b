"""How many candidates a slate has, and where those that nobody chose come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.datasets._shaping.acts import Acts
from client.datasets._shaping.candidates import Asked, Nearest, Offers, Shelves
from client.datasets._shaping.clients import Owners
from client.datasets._shaping.settings import CandidateSettings
from client.datasets._source import Source

BORROWED = ("others_same_window", "same_query")
"""Origins that look at other people's behaviour: no client can."""


@dataclass(frozen=True, kw_only=True)
class Filler:
    """Draws candidates of one origin. shelf: int64 [N], the client's own items where items make the clients, else 0.

    A query that has nothing near, or that nobody else asked, is filled up from the shelf.
    """

    settings: CandidateSettings
    origin: str
    shelves: Shelves
    shelf: np.ndarray
    numbers: dict[str, int]
    offers: Offers | None = None
    asked: Asked | None = None
    nearest: Nearest | None = None

    def negatives(self, part: int) -> int:
        """How many others a slate of that part has."""
        more = self.settings.test_negatives
        return self.settings.negatives if part == 0 or more is None else more

    def room_for(
        self, items: np.ndarray, relevance: np.ndarray, part: int, generator: np.random.Generator
    ) -> np.ndarray:
        """bool [n]: which of the chosen items stand in the slate. At most as many as there are others, or there would
        be nothing to rank them against; the most relevant first, then by lot.
        """
        most = max(self.negatives(part), 1)
        kept = np.ones(len(items), bool)
        if len(items) > most:
            order = np.lexsort((generator.random(len(items)), -relevance))
            kept[order[most:]] = False
        return kept

    def fill(
        self,
        items: np.ndarray,
        seen: np.ndarray,
        *,
        generator: np.random.Generator,
        client: int,
        user: int,
        query: str,
        first: float,
        last: float,
        part: int,
        chosen: np.ndarray | None = None,
    ) -> np.ndarray:
        """int64: `items`, then at most `negatives` others: what was `seen` first, then by the origin.

        first: the time of the slate, NaN where it has none. last: nothing is drawn from then on. chosen: further items
        that were chosen beside them, none of which may stand as not relevant.
        """
        barred = items if chosen is None else np.concatenate([items, chosen])
        seen = seen[~np.isin(seen, barred)]
        count = self.negatives(part)
        if len(seen) > count:
            seen = generator.choice(seen, count, replace=False)
        found = [items.astype(np.int64), seen.astype(np.int64)]
        barred = np.concatenate([barred, seen]).astype(np.int64)
        count -= len(seen)
        shelf = int(self.shelf[items[0]]) if len(items) else client
        if count and self.offers is not None and np.isfinite(first):
            day = float(np.floor(first))
            drawn = self.offers.draw(
                generator,
                count=count,
                group=shelf,
                first=day,
                last=min(day + self.settings.window_days, last - 1.0),
                customer=user,
                taken=barred,
            )
            found.append(drawn)
            count = 0  # a slate with few others on offer stays short: the shelf would give away what nobody wants
        if count and query and self.asked is not None:
            number = self.numbers.get(query, -2)
            drawn = self.asked.draw(generator, count=count, query=number, last=last, customer=user, taken=barred)
            found.append(drawn)
            count -= len(drawn)
        if count and query and self.nearest is not None:
            among = None if not self.shelf.any() else self.shelf == shelf
            drawn = self.nearest.draw(count=count, query=query, among=among, taken=barred)
            found.append(drawn)
            count -= len(drawn)
        if count:
            found.append(
                self.shelves.draw(
                    generator,
                    count=count,
                    group=shelf,
                    first=0,
                    last=0,
                    customer=user,
                    taken=np.concatenate([barred, *found[2:]]),
                )
            )
        return np.concatenate(found).astype(np.int64)


def filler_of(source: Source, settings: CandidateSettings, acts: Acts, owners: Owners) -> Filler:
    """The filler that the settings name; `auto` is others_same_window where acts have times, else the catalogue."""
    origin = settings.origin
    if origin == "auto":
        origin = "others_same_window" if acts.timed and len(acts) else "catalogue"
    shelf = owners.of_item if owners.of_item is not None else np.zeros(len(source.catalog), np.int32)
    chosen = np.flatnonzero(acts.relevance > 0) if origin in BORROWED else np.zeros(0, np.int64)
    chosen = chosen[np.argsort(acts.time[chosen], kind="stable")]
    user, item, time, query = (column[chosen] for column in (acts.user, acts.item, acts.time, acts.query))
    return Filler(
        settings=settings,
        origin=origin,
        shelves=Shelves(shelf),
        shelf=shelf,
        numbers={text: number for number, text in enumerate(source.queries)} if origin == "same_query" else {},
        offers=Offers(time, user, item, shelf[item]) if origin == "others_same_window" and len(item) else None,
        asked=Asked(query, user, item, time) if origin == "same_query" else None,
        nearest=Nearest(source.catalog.titles) if origin == "bm25" else None,
    )
