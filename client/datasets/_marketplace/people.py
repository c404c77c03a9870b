"""The people: tastes, habits and tongues of those behind one client.

A person's utility of an item is

    u = 2.2 m + 1.2 (0.62 p + 0.62 x + 0.34 c + 0.34 d) + 0.4 q     (+ half their interest in its type, browsing)

m: the item has what the query asks for (1 or 0; -4 where it is of another type). p, x, c: taste for its
picture-only, text-only and colour attributes, each of mean 0 and variance 1 over the catalogue. d: price level of
the person times dearness of the item. q: quality, the same for everybody.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.datasets._marketplace.items import Items, columns
from client.datasets._marketplace.settings import LAST_DAY, Shop

MATCH, TASTE, QUALITY, OTHER_TYPE = 2.2, 1.2, 0.40, -4.0
PICTURE_SHARE, TEXT_SHARE, COLOUR_SHARE, PRICE_SHARE = 0.62, 0.62, 0.34, 0.34


@dataclass(frozen=True, eq=False)
class People:
    """P people. taste, later_taste: float32 [P, D], weights on `Items.attributes`, from day -60 to day 60.

    price_level: float32 [P]. appetite: float [P], how many items of a list they find worth a click.
    interest: float32 [P, types], log odds of asking for a type, -inf where nobody sells it to them.
    chinese: float [P], share of their queries in Chinese. impressions, earlier: int64 [P], visits from day 0
    on and before it (0 for newcomers). arrival: float [P], the first day of a newcomer, 0 for others.
    """

    taste: np.ndarray
    later_taste: np.ndarray
    price_level: np.ndarray
    appetite: np.ndarray
    interest: np.ndarray
    chinese: np.ndarray
    impressions: np.ndarray
    earlier: np.ndarray
    arrival: np.ndarray

    def __len__(self) -> int:
        return len(self.taste)

    def taste_at(self, person: np.ndarray, share: np.ndarray) -> np.ndarray:
        """float32 [n, D]: tastes of `person` [n] after `share` [n] of the 120 days; they drift in `hard` alone."""
        late = share[:, None].astype(np.float32)
        return (1 - late) * self.taste[person] + late * self.later_taste[person]


def make_people(shop: Shop, items: Items, count: int, types: np.ndarray, rng: np.random.Generator) -> People:
    """`count` people who can buy the product types `types`."""
    taste = _tastes(items, count, rng)
    drifted = 0.55 * taste + 0.83 * _tastes(items, count, rng) if shop.hard else taste
    interest = np.full((count, shop.types), -np.inf, np.float32)
    interest[:, types] = 1.3 * rng.standard_normal((count, len(types)))
    median = shop.impressions_per_person
    visits = np.rint(median * np.exp(0.5 * rng.standard_normal(count)))
    earlier = np.rint(0.6 * median * np.exp(0.6 * rng.standard_normal(count)))
    newcomer = rng.random(count) < 0.25
    arrival = np.where(newcomer, rng.random(count) * 0.95 * LAST_DAY, 0.0)
    visits *= 1 - arrival / LAST_DAY
    speakers = rng.dirichlet([2.5, 1.5, 1.0]) if shop.hard else np.array([0.5, 0.3, 0.2])
    tongue = rng.choice([0.97, 0.03, 0.5], count, p=speakers)
    return People(
        taste=taste,
        later_taste=drifted,
        price_level=rng.standard_normal(count).astype(np.float32),
        appetite=np.clip(3.2 * np.exp(0.25 * rng.standard_normal(count)), 2.0, 5.0),
        interest=interest,
        chinese=tongue,
        impressions=np.clip(visits, 3, 6 * median).astype(np.int64),
        earlier=np.where(newcomer, 0, np.clip(earlier, 1, 4 * median)).astype(np.int64),
        arrival=arrival,
    )


def _tastes(items: Items, count: int, rng: np.random.Generator) -> np.ndarray:
    """Two strong likes or dislikes each in pictures and in text, and a weak opinion of everything."""
    names = columns()
    weights = 0.25 * rng.standard_normal((count, len(names)))
    for modality, strong in (("picture", 2), ("text", 2), ("both", 1)):
        places = np.array([place for place, column in enumerate(names) if column[2] == modality])
        chosen = places[rng.random((count, len(places))).argsort(1)[:, :strong]]
        size = rng.uniform(1.0, 1.8, chosen.shape) * np.where(rng.random(chosen.shape) < 0.7, 1, -1)
        np.put_along_axis(weights, chosen, size, axis=1)
    out = np.zeros_like(weights)
    for modality, share in (("picture", PICTURE_SHARE), ("text", TEXT_SHARE), ("both", COLOUR_SHARE)):
        places = np.array([place for place, column in enumerate(names) if column[2] == modality])
        spread = items.spread[np.ix_(places, places)]
        part = weights[:, places]
        size = np.sqrt(np.einsum("pi,ij,pj->p", part, spread, part))
        out[:, places] = share * part / size[:, None]
    return out.astype(np.float32)


def utility(
    items: Items, taste: np.ndarray, price_level: np.ndarray, candidates: np.ndarray, match: np.ndarray
) -> np.ndarray:
    """float32 [n, L]: what `n` people with `taste` [n, D] think of `candidates` [n, L], without noise.

    match: float32 [n, L], what the query adds to each candidate (see the module's formula).
    """
    liking = np.einsum("nld,nd->nl", items.attributes[candidates], taste)
    price = PRICE_SHARE * price_level[:, None] * items.dearness[candidates]
    return (match + TASTE * (liking + price) + QUALITY * items.quality[candidates]).astype(np.float32)
