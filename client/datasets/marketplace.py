"""A generated bilingual shop with known truth: people's tastes are known, so the best possible ranking is known too.

Public: items of fifty types with rendered pictures, titles in Chinese and English, prices and merchants. Pattern,
accent, cut, finish and backdrop stand in no title; material, tone, feature and origin in no picture; colour in every
picture and in six titles out of ten. Private: people with tastes in all of them, whose queries, clicks and purchases
are generated for one client at a time when they are asked for. Nothing of a client is kept but a small cache.

`Slate.oracle` (utility without noise), `Slate.propensity` and `Marketplace.tastes` are the truth: for tests and
evaluation, never for training. The generator is frozen: see _marketplace.settings.GENERATOR. Licence: this project's
own; nobody's data are in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Literal, overload

import numpy as np

from client.datasets import Kind, Split
from client.datasets._marketplace.behaviour import World, assemble, explore, log_impressions
from client.datasets._marketplace.items import Items, columns, make_items
from client.datasets._marketplace.people import make_people
from client.datasets._marketplace.pictures import RENDERER, Pictures
from client.datasets._marketplace.queries import ASKED, Intent, intents, phrases
from client.datasets._marketplace.settings import GENERATOR, Shop
from client.datasets._marketplace.shelves import Shelves, make_shelves
from client.datasets._marketplace.titles import WRITTEN, make_titles
from client.datasets._marketplace.visits import make_visits
from client.datasets._marketplace.vocabulary import TYPES, brand
from mmrank.catalog import Catalog
from mmrank.errors import DatasetError
from mmrank.randomness import numpy_generator
from mmrank.slates import Slate


def load(
    *,
    items: int = 20_000,
    types: int = 50,
    devices: int = 200,
    merchants: int = 8,
    people_per_merchant: int = 200,
    impressions_per_person: int = 12,
    image_size: int = 64,
    seed: int = 0,
    variant: Literal["standard", "hard"] = "standard",
    clients: Literal["mixed", "devices", "merchants"] = "mixed",
) -> Marketplace:
    """The shop. Half a second for 20,000 items; people cost nothing until their client is asked for.

    items: at least 200 a merchant. types: product types, 23 query intents each; at least `merchants`.
    devices, merchants: how many clients of each kind; `clients` says which are in the registry.
    impressions_per_person: median number of visits in the 60 days; log-normal, at least 3.
    variant: in `hard` tastes drift, merchants differ in style and language, and clicks are noisier.
    Raises ConfigError naming value, bound and remedy.
    """
    shop = Shop(
        items=items,
        types=types,
        devices=devices,
        merchants=merchants,
        people_per_merchant=people_per_merchant,
        impressions_per_person=impressions_per_person,
        image_size=image_size,
        seed=seed,
        variant=variant,
        clients=clients,
    )
    return Marketplace(shop)


@dataclass(frozen=True)
class Registry(Sequence[str]):
    """Client ids `merchant-0`, ..., then `device-000000`, ...; made when asked for."""

    merchants: int
    devices: int

    def __len__(self) -> int:
        return self.merchants + self.devices

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"Expected client index {index} in [0, {len(self)}).")
        return f"merchant-{place}" if place < self.merchants else f"device-{place - self.merchants:06d}"

    def __iter__(self) -> Iterator[str]:
        return (self[place] for place in range(len(self)))

    def __contains__(self, client_id: object) -> bool:
        kind, _, number = str(client_id).partition("-")
        if not (number.isascii() and number.isdigit()):
            return False
        count = {"merchant": self.merchants, "device": self.devices}.get(kind, 0)
        width = "06d" if kind == "device" else "d"
        return int(number) < count and number == format(int(number), width)


@dataclass(eq=False)
class Marketplace:
    """The data set; see client.datasets.Dataset for the contract and the module for what is in it."""

    shop: Shop
    name: str = field(default="marketplace", init=False)
    synthetic: bool = field(default=True, init=False)
    simulation_only: str | None = field(default=None, init=False)
    epoch_days: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        self.items: Items = make_items(self.shop)
        titles, stated = make_titles(self.shop, self.items)
        places = [WRITTEN.index(a.name) if a.name in WRITTEN else -1 for a in ASKED]
        self._titled = np.column_stack([stated[:, p] if p >= 0 else np.zeros(len(stated), bool) for p in places])
        self.catalog = Catalog(
            name="marketplace",
            item_ids=[f"mp-{index:06d}" for index in range(self.shop.items)],
            titles=titles,
            prices=self.items.prices,
            merchants=self.items.merchants,
            merchant_names=[" ".join(brand(merchant)) for merchant in range(self.shop.merchants)],
            categories=self.items.types,
            category_names=[f"{kind.zh[0]} / {kind.name}" for kind in TYPES[: self.shop.types]],
            images=Pictures(self.items, self.shop.image_size),
        )
        self.client_ids: Sequence[str] = Registry(
            merchants=0 if self.shop.clients == "devices" else self.shop.merchants,
            devices=0 if self.shop.clients == "merchants" else self.shop.devices,
        )
        self._device = lru_cache(maxsize=64)(self._generate)
        self._merchant = lru_cache(maxsize=8 if self.shop.people_per_merchant <= 500 else 1)(self._generate)
        self._shelves = lru_cache(maxsize=None)(lambda merchant: make_shelves(self.shop, self.items, merchant))

    @cached_property
    def version(self) -> str:
        """The frozen generator's name, and a hash of the settings and of a sample of what came out."""
        sha = hashlib.sha256(f"{self.shop.key()} {RENDERER} {self.catalog.digest}".encode())
        for index in range(4):
            sha.update(np.ascontiguousarray(Pictures(self.items, self.shop.image_size).pixels(index)).tobytes())
        sha.update(fingerprint(self._generate("device-000000")["test"]).encode())
        return f"{GENERATOR}/{sha.hexdigest()[:16]}"

    @cached_property
    def intents(self) -> Sequence[Intent]:
        """Public: every query intent."""
        return intents(self.shop.types)

    @cached_property
    def intent_of(self) -> dict[str, Intent]:
        """Public: the intent behind each query that people write; '' (browsing) has none."""
        return {words: intent for intent in self.intents for words in phrases(intent)}

    def kind(self, client_id: str) -> Kind:
        """Public: merchant or device. DatasetError for an unknown client."""
        if client_id not in self.client_ids:
            raise DatasetError(
                f"Expected client '{client_id}' among the {len(self.client_ids)} registered, from "
                f"'{self.client_ids[0]}' to '{self.client_ids[-1]}'; set dataset.devices, dataset.merchants or "
                "dataset.clients."
                if len(self.client_ids)
                else f"Client '{client_id}' is not registered: dataset.clients={self.shop.clients} holds none."
            )
        return "merchant" if client_id.startswith("merchant-") else "device"

    def data_identity(self, client_id: str) -> str:
        """Generator, settings that change this client's behaviour, seed, client; never its data."""
        key = self.shop.behaviour_key(self.kind(client_id))
        return f"{GENERATOR}/{key}/seed-{self.shop.seed}/{client_id}"

    def slates(self, client_id: str, split: Split) -> list[Slate]:
        """Private: the client's slates of days [0, 42), [42, 48) or [48, 60), by time."""
        generate = self._device if self.kind(client_id) == "device" else self._merchant
        return list(generate(client_id)[split])

    def tastes(self, client_id: str) -> np.ndarray:
        """The truth, for tests and evaluation: float32 [people, D], tastes on day -60; columns as in `columns()`."""
        self.kind(client_id)
        return self._world(client_id)[0].people.taste

    def columns(self) -> list[tuple[str, str, str]]:
        """(attribute, value, modality) of each column of `items.attributes` and of `tastes`."""
        return columns()

    def _world(self, client_id: str) -> tuple[World, np.random.Generator]:
        merchant = int(client_id.partition("-")[2]) if client_id.startswith("merchant-") else None
        rng = numpy_generator(self.shop.seed, "marketplace", "behaviour", self.shop.variant, client_id)
        shelves: Shelves = self._shelves(merchant)
        count = 1 if merchant is None else self.shop.people_per_merchant
        people = make_people(self.shop, self.items, count, shelves.types, rng)
        return World(self.shop, self.items, self._titled, shelves, people, make_visits(people, rng)), rng

    def _generate(self, client_id: str) -> dict[str, list[Slate]]:
        world, rng = self._world(client_id)
        logged = log_impressions(world, rng)
        return assemble(world, logged, explore(world, logged, rng))


def fingerprint(slates: Sequence[Slate]) -> str:
    """Hash of queries, candidates, relevance and histories of `slates`, for the frozen generator's tests."""
    sha = hashlib.sha256()
    for slate in slates:
        sha.update(f"{slate.query} {slate.user} {slate.time_days:.6f}".encode())
        for array in (slate.candidates, slate.history, slate.event_type):
            sha.update(array.astype("<i8").tobytes())
        sha.update(slate.relevance.astype("<f4").tobytes())
    return sha.hexdigest()
