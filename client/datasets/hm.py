"""H&M purchases, in the layout of the public "H&M Personalized Fashion Recommendations" data.

The folder `root` holds articles.csv, transactions_train.csv and images/0xx/ARTICLE_ID.jpg; customers.csv is
not read: the ranker uses nothing of a person but the purchases. Set it with `--set dataset.root=PATH`.

There are purchases only, no queries and no impressions, so a slate is made of what is there:

- One basket (a customer and a day) is one moment. History is what the person bought on strictly earlier days.
- `queries` of the baskets were "searched for": the query is derived from the bought item's own public fields (type,
  colour and type, or section and type), and items of the basket with the same query are relevant together. A slate a
  query: about half of the slates at 0.3. The others were "browsed": query '', and the whole basket is relevant.
- The other candidates are items that *other* customers bought in the `window_days` after the basket, drawn in
  proportion to their purchases, once for everybody and before any partition into clients. They stand for the
  impressions that a shop would have served. No client can know them: hence `simulation_only`. With
  `candidates_from: catalogue` they are any items of the catalogue, alike: what a client can draw by itself, and what
  a promise to people needs, since nobody else's purchases then stand in a person's slates. What sells at all is
  then told from what does not: popularity ranks better than it would among served impressions. Items have no price
  then: the tables know one from somebody's purchase alone.
- Three parts by global time: the last `test_days`, the `validation_days` before, and all earlier days for training.
  A part's windows end with the part: nothing bought in validation or test is seen in training.

Clients are people with at least `min_purchase_days` purchase days (`devices`; the filter looks at all parts, as
simulation design), or, as a stand-in for merchants, since there is one retailer, the groups of the column `by`
(`merchants`): each serves its own items only, and the same person at two of them is two people.

The price of an item is what the shop asked on the first day that anybody bought it. It is the shop's list price,
so public, and every item has one: a price over the training part alone would tell which items had sold by then.

Licence: H&M's own terms, those of its Kaggle competition of 2022; nothing of the data is part of this project.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from client.datasets import Kind, Split
from client.datasets._hm_catalog import first_prices, query_texts, read_catalog
from client.datasets._hm_slates import FEWEST, Basket, Composer, Offers, Shelves
from client.datasets._hm_tables import Pictures, Purchases, data_folder, read_articles, read_purchases
from mmrank.catalog import Catalog
from mmrank.errors import ConfigError, DatasetError, nearest
from mmrank.slates import Slate

VERSION = "1"
HOLDS = "articles.csv, transactions_train.csv and images/"
SIZE = "105,542 items, 1.4 million people, 31.8 million purchases; a part of it will do"
MERCHANT_COLUMNS = ("index_name", "index_group_name", "section_name", "department_name", "garment_group_name")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SIMULATION_ONLY = (
    "The candidates of hm are drawn from other people's purchases, which no client can know; "
    "use hm in simulations, and a shop's own logged impressions in a deployment."
)

STAND_IN = (
    "The merchants of hm are groups of one retailer's items: the same purchases lie under another identity, with a "
    "ledger of its own, when they are grouped by another column."
)


def load(
    *,
    root: str | Path | None = None,
    clients: Literal["devices", "merchants"] = "devices",
    by: str = "index_name",
    min_purchase_days: int = 5,
    candidates: int = 100,
    train_candidates: int = 20,
    same_type: bool = False,
    candidates_from: Literal["others", "catalogue"] = "others",
    queries: float = 0.3,
    window_days: int = 21,
    validation_days: int = 90,
    test_days: int = 90,
    last_day: str | date | None = None,
    seed: int = 0,
    bad_rows: float = 0.01,
) -> HmDataset:
    """The data in `root`, as `clients`; see the module.

    candidates, train_candidates: longest slate in validation and test, and in training (fewer where the
    window holds fewer; left out below ten). same_type: one slate an item, against items of its own type.
    bad_rows: share of a table's rows that may be dropped, counted in `notes`. seed: of queries and candidates.
    last_day: YYYY-MM-DD, the end of the test part; the table's last purchase where None. Candidates of the catalogue
    need it: read from purchases it would move with one person's, and everybody's parts with it.

    Raises ConfigError for a setting out of bounds, DatasetError (file, column, line) for a table that is unusable.
    """
    if clients not in ("devices", "merchants"):
        raise ConfigError(f"Expected dataset.clients={clients!r} to be devices or merchants.")
    if candidates_from not in ("others", "catalogue"):
        raise ConfigError(f"Expected dataset.candidates_from={candidates_from!r} to be others or catalogue.")
    last = _last_day(last_day, needed=candidates_from == "catalogue")
    if by not in MERCHANT_COLUMNS:
        known = f"{', '.join(MERCHANT_COLUMNS)}.{nearest(str(by), MERCHANT_COLUMNS)}"
        raise ConfigError(f"Expected dataset.by={by!r} to be one of {known}")
    for name, value, low, high in (
        ("min_purchase_days", min_purchase_days, 1, 10_000),
        ("candidates", candidates, 2, 100_000),
        ("train_candidates", train_candidates, 2, 100_000),
        ("queries", queries, 0, 1),
        ("window_days", window_days, 0, 10_000),
        ("validation_days", validation_days, 1, 10_000),
        ("test_days", test_days, 1, 10_000),
        ("bad_rows", bad_rows, 0, 0.5),
    ):
        if not low <= value <= high:
            raise ConfigError(f"Expected dataset.{name}={value} in [{low}, {high}]; set dataset.{name}.")
    folder = data_folder(root)
    articles = read_articles(folder, extra=(by,), bad_rows=bad_rows)
    catalog = read_catalog(articles, by, folder)
    purchases = read_purchases(folder, catalog.index_of, bad_rows=bad_rows)
    if candidates_from == "others":  # a price is read from somebody's purchase
        catalog.prices[:] = first_prices(purchases, len(catalog))
    merchants = clients == "merchants"
    groups = catalog.merchants if merchants else np.zeros(len(catalog), np.int64)
    if same_type:
        groups = groups * len(catalog.category_names) + catalog.categories
    composer = Composer(
        offers=Shelves(groups)
        if candidates_from == "catalogue"
        else Offers(purchases.day, purchases.customer, purchases.item, groups[purchases.item]),
        offer_groups=groups,
        query_texts=query_texts(articles),
        queries=queries,
        window_days=window_days,
        one_item_slates=same_type,
        seed=seed,
    )
    made_of: tuple[object, ...] = (
        by,
        min_purchase_days,
        candidates,
        train_candidates,
        same_type,
        queries,
        window_days,
        *([candidates_from] if candidates_from != "others" else []),
    )
    return HmDataset(
        catalog=catalog,
        purchases=purchases,
        composer=composer,
        merchants=merchants,
        by=by,
        min_purchase_days=min_purchase_days,
        lengths={"train": train_candidates, "validation": candidates, "test": candidates},
        parts=_parts(purchases, validation_days, test_days, last),
        version=_version(purchases, clients, *made_of, validation_days, test_days, seed),
        notes=articles.notes + purchases.notes,
        simulation_only=SIMULATION_ONLY if candidates_from == "others" else None,
        stand_in=STAND_IN if merchants else None,
    )


def _last_day(value: str | date | None, *, needed: bool) -> date | None:
    if value is None and not needed:
        return None
    try:
        return value if isinstance(value, date) else date.fromisoformat(str(value))
    except ValueError:
        raise ConfigError(
            f"Expected dataset.last_day={value} as YYYY-MM-DD, where candidates_from is catalogue: the public end of "
            "the data, so that nobody's parts depend on who bought last; set it, for H&M to 2020-09-22."
        ) from None


class HmDataset:
    """See client.datasets.Dataset. `notes`: what was dropped from the tables, one sentence each."""

    name = "hm"
    synthetic = False

    def __init__(
        self,
        *,
        catalog: Catalog,
        purchases: Purchases,
        composer: Composer,
        merchants: bool,
        by: str,
        min_purchase_days: int,
        lengths: dict[Split, int],
        parts: dict[Split, tuple[int, int]],
        version: str,
        notes: tuple[str, ...],
        simulation_only: str | None,
        stand_in: str | None,
    ) -> None:
        self.simulation_only, self.stand_in = simulation_only, stand_in
        self.catalog, self.version = catalog, version
        self.epoch_days: float | None = float((purchases.first_day - date(1970, 1, 1)).days)
        self._purchases, self._composer = purchases, composer
        self._lengths, self._parts, self._by = lengths, parts, by
        self._kind: Kind = "merchant" if merchants else "device"
        owner = catalog.merchants[purchases.item] if merchants else purchases.customer
        self._order = np.lexsort((purchases.day, purchases.customer, owner))  # by client, then person, then day
        names = catalog.merchant_names if merchants else purchases.customer_ids
        edges = np.searchsorted(owner[self._order], np.arange(len(names) + 1))
        if merchants:
            kept = np.flatnonzero(np.diff(edges) > 0)
        else:
            days = np.unique(purchases.customer * (purchases.day.max() + 1) + purchases.day)
            days_of = np.bincount(days // (purchases.day.max() + 1), minlength=len(names))
            kept = np.flatnonzero(days_of >= min_purchase_days)
        self._rows = {names[index]: (int(edges[index]), int(edges[index + 1])) for index in kept.tolist()}
        self.client_ids: Sequence[str] = tuple(self._rows)
        pictures = catalog.images
        self.notes = notes
        if isinstance(pictures, Pictures) and pictures.missing:
            self.notes += (f"images: {pictures.missing} of {len(catalog)} items have no picture",)
        self._composed = lru_cache(maxsize=4096)(self._compose)  # each round and each evaluation asks again

    def kind(self, client_id: str) -> Kind:
        """Public: device or merchant, the same for all."""
        self._range(client_id)
        return self._kind

    def data_identity(self, client_id: str) -> str:
        """The customer or the merchant, whatever the candidates and queries of this run are."""
        self._range(client_id)
        return f"hm/{self._kind}/{self._by}/{client_id}" if self._kind == "merchant" else f"hm/device/{client_id}"

    def slates(self, client_id: str, split: Split) -> list[Slate]:
        """Private: that client's slates in that part, by time."""
        return list(self._composed(client_id, split)[0])

    def left_out(self, client_id: str, split: Split) -> dict[str, int]:
        """How many slates of that part could not be made, by reason."""
        return {f"fewer than {FEWEST} candidates on offer": self._composed(client_id, split)[1]}

    def _range(self, client_id: str) -> tuple[int, int]:
        if client_id not in self._rows:
            close = nearest(client_id, self.client_ids[:10_000])
            raise DatasetError(f"No client {client_id!r} among the {len(self._rows)} of hm.{close}")
        return self._rows[client_id]

    def _compose(self, client_id: str, split: Split) -> tuple[list[Slate], int]:
        start, end = self._range(client_id)
        if split not in self._parts:
            raise ConfigError(f"Expected split={split!r} to be one of {', '.join(SPLITS)}.{nearest(split, SPLITS)}")
        shop = client_id if self._kind == "merchant" else ""
        made: list[Slate] = []
        left_out = 0
        for basket in self._baskets(start, end, *self._parts[split]):
            for slate in self._composer.slates(
                basket, candidates=self._lengths[split], last_day=self._parts[split][1] - 1, shop=shop
            ):
                if slate is None:
                    left_out += 1
                else:
                    made.append(slate)
        return sorted(made, key=lambda slate: slate.time_days), left_out

    def _baskets(self, start: int, end: int, first_day: int, end_day: int) -> Iterator[Basket]:
        """Baskets of the client's rows in [first_day, end_day), person by person."""
        rows = self._order[start:end]
        customers, days, items = (getattr(self._purchases, name)[rows] for name in ("customer", "day", "item"))
        people = np.flatnonzero(np.r_[True, customers[1:] != customers[:-1], True])
        for person, (low, high) in enumerate(zip(people[:-1].tolist(), people[1:].tolist(), strict=True)):
            own = days[low:high]
            edges = low + np.flatnonzero(np.r_[True, own[1:] != own[:-1], True])
            for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
                if first_day <= days[first] < end_day:
                    yield Basket(
                        customer=int(customers[low]),
                        names=self._names(int(customers[low]), int(days[first])),
                        person=person,
                        day=int(days[first]),
                        items=items[first:last],
                        history=items[low:first],
                        history_day=days[low:first],
                    )

    def _names(self, customer: int, day: int) -> tuple[int | str, ...]:
        """Of the person and the date where slates must not depend on others: a place among them, or a day since the
        first purchase, would. Where candidates are others' purchases they do anyway, and the draws are as they were.
        """
        if self.simulation_only is not None:
            return customer, day
        return self._purchases.customer_ids[customer], self._purchases.first_day.toordinal() + day


def _parts(
    purchases: Purchases, validation_days: int, test_days: int, last_day: date | None
) -> dict[Split, tuple[int, int]]:
    end = int(purchases.day.max()) + 1 if last_day is None else (last_day - purchases.first_day).days + 1
    test, validation = end - test_days, end - test_days - validation_days
    if validation < 1:
        raise ConfigError(
            f"Expected dataset.validation_days={validation_days} and dataset.test_days={test_days} to leave a day for "
            f"training: the table spans {end} days; set them lower."
        )
    return {"train": (0, validation), "validation": (validation, test), "test": (test, end)}


def _version(purchases: Purchases, *settings: object) -> str:
    """Changes with whatever changes a slate: the rows and the settings."""
    sha = hashlib.sha256(repr(settings).encode())
    sha.update("\x1f".join(purchases.customer_ids).encode())
    for column in (purchases.day, purchases.customer, purchases.item):
        sha.update(column.astype("<i8").tobytes())
    return f"{VERSION}-{sha.hexdigest()[:12]}"
