"""From purchases to slates: who bought what on one day, in which words, and what else was on offer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from client.datasets._shaping.candidates import Offers, Shelves
from mmrank.randomness import numpy_generator
from mmrank.slates import EVENT_TYPES, Slate

PURCHASE = EVENT_TYPES.index("purchase")
RELEVANCE = 2.0  # a purchase, see mmrank.slates.Slate
FEWEST = 10
"""A shorter list than this (or than asked for, where that is less) says little of a ranking, and is left out."""


@dataclass(frozen=True, kw_only=True)
class Basket:
    """What one person bought on one day. items: int64 [n], unique; person: index within the client.

    names: of this basket alone, for its draws.
    """

    customer: int
    names: tuple[int | str, ...]
    person: int
    day: int
    items: np.ndarray
    history: np.ndarray
    history_day: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Composer:
    """Turns baskets into slates; the same basket gives the same slates whoever the client is.

    queries: share of baskets that were searched for. query_texts: the words derived from item i, by template.
    offer_groups: int64 [N], the group in `offers` that item i's candidates come from.
    """

    offers: Offers | Shelves
    offer_groups: np.ndarray
    query_texts: Sequence[Callable[[int], str]]
    queries: float
    window_days: int
    one_item_slates: bool
    seed: int

    def slates(self, basket: Basket, *, candidates: int, last_day: int, shop: str) -> Iterator[Slate | None]:
        """The slates of one basket; None for one with too little else on offer.

        A basket that was searched for gives a slate for each query, one that was browsed for a single slate.
        Nothing is drawn from after `last_day`, the end of the part that the basket lies in.
        """
        generator = numpy_generator(self.seed, "hm", shop, *basket.names)
        searched = generator.random() < self.queries
        template = self.query_texts[int(generator.integers(len(self.query_texts)))]
        wanted: dict[str, list[int]] = {}
        for item in basket.items.tolist():
            wanted.setdefault(template(item) if searched else "", []).append(item)
        for query, items in wanted.items():
            groups = [[item] for item in items] if self.one_item_slates else [items]
            for relevant in groups:
                yield self._slate(basket, query, relevant, generator, candidates, last_day)

    def _slate(
        self, basket: Basket, query: str, items: list[int], generator: np.random.Generator, candidates: int, last: int
    ) -> Slate | None:
        relevant = np.array(items, np.int64)
        if len(relevant) > candidates // 2:  # a huge basket must leave something to rank it against
            relevant = generator.choice(relevant, candidates // 2, replace=False)
        others = self.offers.draw(
            generator,
            count=candidates - len(relevant),
            group=int(self.offer_groups[relevant[0]]),
            first=basket.day,
            last=min(basket.day + self.window_days, last),
            customer=basket.customer,
            taken=basket.items,
        )
        if len(relevant) + len(others) < min(FEWEST, candidates):
            return None
        shown = np.concatenate([relevant, others])
        order = generator.permutation(len(shown))
        return Slate(
            query=query,
            candidates=shown[order],
            relevance=np.where(order < len(relevant), RELEVANCE, 0.0).astype(np.float32),
            position=np.full(len(shown), -1, np.int64),
            history=basket.history,
            event_type=np.full(len(basket.history), PURCHASE, np.int64),
            age_days=(basket.day - basket.history_day).astype(np.float32),
            time_days=float(basket.day),
            user=basket.person,
        )
