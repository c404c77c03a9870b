"""Visits: when each person comes, and what they ask for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.datasets._marketplace.items import Items, columns
from client.datasets._marketplace.people import MATCH, OTHER_TYPE, People
from client.datasets._marketplace.queries import ASKED, CHINESE, ENGLISH, Intent, phrase
from client.datasets._marketplace.settings import BURN_IN_DAYS, LAST_DAY

BROWSING, MODIFIED = 0.08, 0.60
"""Shares of visits without a query, and of queries that ask for more than a type."""

ASKED_SHARE = (0.45, 0.15, 0.40)
"""How often a modifier is of each attribute in queries.ASKED: colour, pattern, tone."""


@dataclass(frozen=True, eq=False)
class Visits:
    """V visits by time.

    person: int64 [V]. time: float64 [V], days. product: int64 [V], -1 where the person browses.
    asked: int64 [V], place in queries.ASKED, -1 for a type alone. value: int64 [V], -1 likewise. query: V strings.
    """

    person: np.ndarray
    time: np.ndarray
    product: np.ndarray
    asked: np.ndarray
    value: np.ndarray
    query: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.person)

    def share(self) -> np.ndarray:
        """float64 [V]: how much of the 120 days has passed."""
        return (self.time + BURN_IN_DAYS) / (BURN_IN_DAYS + LAST_DAY)

    def wanted(self, items: Items, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """bool [n, L]: which `candidates` [n, L] have what the visits `rows` [n] ask for; False without modifier."""
        out = np.zeros(candidates.shape, bool)
        for place, attribute in enumerate(ASKED):
            mine = np.flatnonzero(self.asked[rows] == place)
            if len(mine):
                out[mine] = items.codes[attribute.name][candidates[mine]] == self.value[rows[mine], None]
        return out & ~self.other_type(items, rows, candidates)

    def other_type(self, items: Items, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """bool [n, L]: which candidates are of another type than was asked for."""
        product = self.product[rows, None]
        return (product >= 0) & (items.types[candidates] != product)

    def match(self, items: Items, people: People, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """float32 [n, L]: what the query, or the interest of one who browses, adds to the utility."""
        out = MATCH * self.wanted(items, rows, candidates) + OTHER_TYPE * self.other_type(items, rows, candidates)
        browsing = np.flatnonzero(self.product[rows] < 0)
        out[browsing] = 0.5 * people.interest[self.person[rows[browsing]][:, None], items.types[candidates[browsing]]]
        return out.astype(np.float32)


def make_visits(people: People, rng: np.random.Generator) -> Visits:
    """Every visit of `people` from day -60 to day 60."""
    person = np.concatenate(
        [np.repeat(np.arange(len(people)), count) for count in (people.earlier, people.impressions)]
    )
    early = int(people.earlier.sum())
    arrival = people.arrival[person]
    time = arrival + rng.random(len(person)) * (LAST_DAY - arrival)
    time[:early] = (rng.random(early) - 1) * BURN_IN_DAYS
    order = np.argsort(time, kind="stable")
    person, time = person[order], time[order]
    product = _pick(people.interest[person], rng)
    asked = np.where(rng.random(len(person)) < MODIFIED, rng.choice(len(ASKED), len(person), p=ASKED_SHARE), -1)
    product[rng.random(len(person)) < BROWSING] = -1
    asked[product < 0] = -1
    visits = Visits(person, time, product, asked, np.full(len(person), -1), ())
    value = _values(visits, people, rng)
    return Visits(person, time, product, asked, value, _queries(visits, value, people, rng))


def _pick(log_weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int64 [n]: one index a row, with odds exp(log_weight) (Gumbel's trick)."""
    return np.argmax(log_weight + rng.gumbel(size=log_weight.shape), axis=1)


def _values(visits: Visits, people: People, rng: np.random.Generator) -> np.ndarray:
    """What people ask for leans towards what they like."""
    names = [column[0] for column in columns()]
    taste = people.taste_at(visits.person, visits.share())
    value = np.full(len(visits), -1, np.int64)
    for place, attribute in enumerate(ASKED):
        mine = visits.asked == place
        here = np.array([column for column, name in enumerate(names) if name == attribute.name])
        value[mine] = _pick(1.5 * taste[np.ix_(np.flatnonzero(mine), here)], rng)
    return value


def _queries(visits: Visits, value: np.ndarray, people: People, rng: np.random.Generator) -> tuple[str, ...]:
    language = np.where(rng.random(len(visits)) < people.chinese[visits.person], CHINESE, ENGLISH)
    words = rng.choice(3, (len(visits), 2), p=[0.6, 0.3, 0.1])
    out = []
    for row in range(len(visits)):
        if visits.product[row] < 0:
            out.append("")
            continue
        place = int(visits.asked[row])
        want = (ASKED[place].name, int(value[row])) if place >= 0 else ("", -1)
        out.append(
            phrase(Intent(int(visits.product[row]), *want), int(language[row]), int(words[row, 0]), int(words[row, 1]))
        )
    return tuple(out)


def stated(visits: Visits, items: Items, titled: np.ndarray, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """bool [n, L]: wanted, and the title says so, which is all that a text search can see.

    titled: bool [N, 3], whether the item's title states each attribute in queries.ASKED.
    """
    place = np.maximum(visits.asked[rows], 0)[:, None]
    return visits.wanted(items, rows, candidates) & titled[candidates, place]
