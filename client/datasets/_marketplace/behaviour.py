"""What people do with what they are shown.

An impression is the logging ranker's twenty, top first. The person examines position k (0 the top) with
propensity (k + 1)^-0.5 and opens an examined item with probability a, their attraction to it:

    a = (1 - e) sigmoid((u - t) / s) + e n / L

with u the utility, s and e the noise, L the length of the list, and t such that the sigmoids of the list sum to the
person's appetite n: whatever the shelf, its best few are worth a look. Clicks are thus a position-based model with
known propensities (Joachims et al. 2017, section 3); t looks at the list, but not at its order.

Validation and test lists come from an exploration, which is simulation design: at least a hundred items of the asked
type in random order, none that the person opened before, everything examined (propensity 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.datasets._marketplace.items import Items
from client.datasets._marketplace.people import People, utility
from client.datasets._marketplace.settings import FULL_LIST, LAST_DAY, SHOWN, TEST_DAY, VALIDATION_DAY, Shop
from client.datasets._marketplace.shelves import Shelves
from client.datasets._marketplace.visits import Visits, stated
from mmrank.slates import EVENT_TYPES, Slate

VIEW, CLICK, CART, PURCHASE = (EVENT_TYPES.index(name) for name in ("view", "click", "cart", "purchase"))
PROPENSITY = (np.arange(1, SHOWN + 1, dtype=np.float64) ** -0.5).astype(np.float32)
"""float32 [20]: probability that a position is examined."""

SECONDS_PER_ITEM = 15.0
MATCHING = 20
"""A full list has at least so many items that match the modifier, where the shelf has them."""


@dataclass(frozen=True, eq=False)
class Shown:
    """n lists of L candidates and what became of them. events: int64 [n, L], a code of EVENT_TYPES or -1."""

    rows: np.ndarray
    candidates: np.ndarray
    utility: np.ndarray
    events: np.ndarray


@dataclass(frozen=True, eq=False)
class World:
    """All that one client's behaviour is drawn from. titled: bool [N, 3], which titles state queries.ASKED."""

    shop: Shop
    items: Items
    titled: np.ndarray
    shelves: Shelves
    people: People
    visits: Visits

    @property
    def noise(self) -> tuple[float, float]:
        """(s, e) of the module's formula."""
        return (0.45, 0.10) if self.shop.hard else (0.32, 0.05)

    def pool(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """int64 [n, width]: what could be shown at the visits `rows`, padded with -1."""
        pool = self.shelves.of_type[self.visits.product[rows]]
        for place in np.flatnonzero(self.visits.product[rows] < 0):
            pool[place] = self.shelves.browsing(rng)
        return pool

    def respond(
        self, rows: np.ndarray, candidates: np.ndarray, propensity: np.ndarray, rng: np.random.Generator
    ) -> Shown:
        """What the visitors `rows` do with `candidates` [n, L], examined with `propensity` [L]."""
        visits, people = self.visits, self.people
        person = visits.person[rows]
        taste = people.taste_at(person, visits.share()[rows])
        match = visits.match(self.items, people, rows, candidates)
        liking = utility(self.items, taste, people.price_level[person], candidates, match)
        attraction = attractions(liking, people.appetite[person], *self.noise)
        examined = rng.random(candidates.shape) < propensity
        clicked = examined & (rng.random(candidates.shape) < attraction)
        further = rng.random(candidates.shape)
        bought = clicked & (further < 0.45 * attraction)
        carted = clicked & ~bought & (further > 0.75)
        viewed = examined & ~clicked & (rng.random(candidates.shape) < 1 / candidates.shape[1])
        events = np.full(candidates.shape, -1, np.int64)
        for chosen, code in ((viewed, VIEW), (clicked, CLICK), (carted, CART), (bought, PURCHASE)):
            events[chosen] = code
        return Shown(rows, candidates, liking, events)


def attractions(liking: np.ndarray, appetite: np.ndarray, spread: float, noise: float) -> np.ndarray:
    """float64 [n, L]: probability that an examined item is opened; see the module's formula.

    liking: [n, L] utilities. appetite: [n], below L. The threshold is found by bisection.
    """
    scaled = liking.astype(np.float64) / spread
    low, high = scaled.min(1) - 20.0, scaled.max(1) + 20.0
    for _ in range(24):
        middle = (low + high) / 2
        many = (1 / (1 + np.exp(middle[:, None] - scaled))).sum(1) > appetite
        low, high = np.where(many, middle, low), np.where(many, high, middle)
    best = 1 / (1 + np.exp(((low + high) / 2)[:, None] - scaled))
    return (1 - noise) * best + noise * appetite[:, None] / liking.shape[1]


def log_impressions(world: World, rng: np.random.Generator) -> Shown:
    """Everything shown before the validation day: the logging ranker knows titles and quality, but not the person."""
    rows = np.flatnonzero(world.visits.time < VALIDATION_DAY)
    pool = world.pool(rows, rng)
    score = 1.5 * stated(world.visits, world.items, world.titled, rows, pool)
    score = score - 8.0 * world.visits.other_type(world.items, rows, pool)
    score += 0.3 * world.items.quality[pool] + rng.standard_normal(pool.shape)
    score[pool < 0] = -np.inf
    top = np.argsort(-score, axis=1, kind="stable")[:, :SHOWN]
    return world.respond(rows, np.take_along_axis(pool, top, axis=1), PROPENSITY, rng)


def explore(world: World, logged: Shown, rng: np.random.Generator) -> list[Shown]:
    """Full lists from the validation day on, each person's first visit first, then their second, and so on."""
    late = np.flatnonzero(world.visits.time >= VALIDATION_DAY)
    turn = np.zeros(len(late), np.int64)
    for person in np.unique(world.visits.person[late]):
        mine = world.visits.person[late] == person
        turn[mine] = np.arange(mine.sum())
    opened = _opened(world, logged)
    out = []
    for step in range(int(turn.max(initial=-1)) + 1):
        rows = late[turn == step]
        candidates = _full_lists(world, rows, opened, rng)
        out.append(world.respond(rows, candidates, np.ones(FULL_LIST, np.float32), rng))
        opened = np.concatenate([opened, _opened(world, out[-1])])
    return out


def _opened(world: World, shown: Shown) -> np.ndarray:
    """int64 [k]: person x N + item of everything that was clicked or more."""
    row, column = np.nonzero(shown.events >= CLICK)
    return world.visits.person[shown.rows[row]] * len(world.items) + shown.candidates[row, column]


def _full_lists(world: World, rows: np.ndarray, opened: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int64 [n, FULL_LIST]: random order; what was opened before is left out while the shelf has anything else."""
    pool = world.pool(rows, rng)
    key = rng.random(pool.shape)
    wanted = world.visits.wanted(world.items, rows, pool) & (pool >= 0)
    first = np.argsort(np.where(wanted, key, 2.0), axis=1)[:, :MATCHING]
    ahead = np.zeros(pool.shape, bool)
    np.put_along_axis(ahead, first, True, axis=1)
    key -= ahead & wanted
    key += 5.0 * world.visits.other_type(world.items, rows, pool)
    key += 20.0 * np.isin(world.visits.person[rows, None] * len(world.items) + pool, opened)
    key[pool < 0] = 99.0
    taken = np.argsort(key, axis=1)[:, :FULL_LIST]
    return rng.permuted(np.take_along_axis(pool, taken, axis=1), axis=1)


def assemble(world: World, logged: Shown, explored: list[Shown]) -> dict[str, list[Slate]]:
    """Slates by split and by time, each with the person's events from strictly before it."""
    history = _Histories(world, [logged, *explored])
    splits: dict[str, list[Slate]] = {"train": [], "validation": [], "test": []}
    for shown, logging in [(logged, True), *((part, False) for part in explored)]:
        relevance = np.select([shown.events == PURCHASE, shown.events >= CLICK], [2.0, 1.0], 0.0).astype(np.float32)
        length = shown.candidates.shape[1]
        position = np.arange(length) if logging else np.full(length, -1)
        propensity = PROPENSITY if logging else np.ones(length, np.float32)
        for place, row in enumerate(shown.rows.tolist()):
            time = float(world.visits.time[row])
            if not 0 <= time < LAST_DAY:
                continue
            split = "train" if logging else "validation" if time < TEST_DAY else "test"
            person = int(world.visits.person[row])
            items, types, ages = history.before(person, time)
            splits[split].append(
                Slate(
                    query=world.visits.query[row],
                    candidates=shown.candidates[place],
                    relevance=relevance[place],
                    position=position,
                    history=items,
                    event_type=types,
                    age_days=ages,
                    time_days=time,
                    user=person,
                    propensity=propensity,
                    oracle=shown.utility[place],
                )
            )
    return {name: sorted(slates, key=lambda slate: slate.time_days) for name, slates in splits.items()}


class _Histories:
    """Every person's events by time."""

    def __init__(self, world: World, parts: list[Shown]) -> None:
        person, time, item, kind = [], [], [], []
        for shown in parts:
            row, column = np.nonzero(shown.events >= 0)
            person.append(world.visits.person[shown.rows[row]])
            time.append(world.visits.time[shown.rows[row]] + (column + 1) * SECONDS_PER_ITEM / 86_400)
            item.append(shown.candidates[row, column])
            kind.append(shown.events[row, column])
        owner, when = np.concatenate(person), np.concatenate(time)
        order = np.lexsort((when, owner))
        self._time, self._item = when[order], np.concatenate(item)[order]
        self._kind = np.concatenate(kind)[order]
        self._edges = np.searchsorted(owner[order], np.arange(len(world.people) + 1))

    def before(self, person: int, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items, event types and ages in days of the person's events strictly before `time`, oldest first."""
        start, end = int(self._edges[person]), int(self._edges[person + 1])
        end = start + int(np.searchsorted(self._time[start:end], time, side="left"))
        return self._item[start:end], self._kind[start:end], (time - self._time[start:end]).astype(np.float32)
