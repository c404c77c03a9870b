"""Whose a row is: clients by person, merchant, any column, or dealt out as a partition."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from client.datasets import Kind
from client.datasets._reading.items import coded
from client.datasets._shaping.partitions import deal
from client.datasets._shaping.settings import ClientSettings
from client.datasets._source import NONE, Lists, Source
from mmrank.errors import ConfigError, DatasetError, nearest

ACTED = (
    "A person is registered where the table has something of theirs, which a registry must not tell. A real device "
    "reads its own folder (dataset.clients: {by: all, id: NAME, kind: device})."
)
_SAFE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Owners:
    """Which client each row belongs to. names: by client number. by: what made them, part of their identity.

    of_item, of_user, of_query, of_group: int64 arrays from an item, person, query or group to a client; the one that
    is not None says whose a row is; all None where there is one client. stand_in: why these are no real clients.
    """

    names: tuple[str, ...]
    kind: Kind
    by: str
    of_item: np.ndarray | None = None
    of_user: np.ndarray | None = None
    of_query: np.ndarray | None = None
    of_group: np.ndarray | None = None
    stand_in: str | None = None

    def of_rows(self, *, item: np.ndarray, user: np.ndarray, query: np.ndarray, group: np.ndarray) -> np.ndarray:
        """int64 [n]: the client of each row, NONE where it has none."""
        for table, column in (
            (self.of_item, item),
            (self.of_user, user),
            (self.of_query, query),
            (self.of_group, group),
        ):
            if table is not None:
                return np.where(column >= 0, table[np.maximum(column, 0)], NONE) if len(table) else column * 0 + NONE
        return np.zeros(len(item), np.int64)

    def of_lists(self, lists: Lists) -> np.ndarray:
        """int64 [R]: of each row of the lists; all rows of a list have one client, unless items make the clients."""
        length = np.diff(lists.start)
        columns = {name: np.repeat(getattr(lists, name), length) for name in ("user", "query", "group")}
        return self.of_rows(item=lists.item, **columns)


def owners_of(source: Source, settings: ClientSettings) -> Owners:
    """The clients of a source. Raises ConfigError for a column that it does not have."""
    if settings.partition != "none":
        return _dealt(source, settings)
    by = settings.by if settings.by != "auto" else _default(source)
    if by == "all":
        return Owners(names=(slug(settings.id),), kind=_kind(settings, "merchant"), by="all")
    if by == "queries":
        clients = max(min(settings.clients, len(source.queries)), 1)
        return _dealt(source, replace(settings, partition="iid", clients=clients))
    if by in ("user", source.user_column) and source.users:
        codes, names = np.arange(len(source.users)), slugs(source.users)
        return Owners(names=names, kind=_kind(settings, "device"), by="user", of_user=codes, stand_in=ACTED)
    if by == source.group_column and source.groups:
        codes, names = np.arange(len(source.groups)), slugs(source.groups)
        return Owners(names=names, kind=_kind(settings, "merchant"), by=by, of_group=codes, stand_in=_shared(by))
    if by == "merchant":
        codes, names = source.catalog.merchants, slugs(source.catalog.merchant_names)
        return Owners(names=names, kind=_kind(settings, "merchant"), by=by, of_item=codes, stand_in=_shared(by))
    if by in source.fields or by == "category":
        codes, values = item_codes(source, by)
        return Owners(names=slugs(values), kind=_kind(settings, "merchant"), by=by, of_item=codes, stand_in=_shared(by))
    there = ["user"] if source.users else []
    there += [source.group_column] if source.group_column and source.groups else []
    known = sorted({"merchant", "category", "all", *source.fields, *there})
    raise ConfigError(
        f"Expected dataset.clients.by={by!r} to be a column that was read; available: {', '.join(known)}."
        f"{nearest(by, known)}"
    )


def item_codes(source: Source, column: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """(int64 [N], names) of a public column of the items: merchant, category, or a further field."""
    if column == "merchant":
        return source.catalog.merchants, tuple(source.catalog.merchant_names)
    if column == "category":
        return source.catalog.categories, tuple(source.catalog.category_names)
    if column not in source.fields:
        known = ["merchant", "category", *source.fields]
        raise ConfigError(f"No column {column!r} of the items; available: {', '.join(known)}.{nearest(column, known)}")
    codes, names = coded(source.fields[column])
    return codes, tuple(name or ("none" if "none" not in names else "") for name in names)


def slugs(names: Sequence[str]) -> tuple[str, ...]:
    """Client ids that are safe in a path; each depends on its own name alone, so that nobody renames another.

    Raises DatasetError where two names have one id.

    >>> slugs(["shop-1", "Ladieswear", "女装"])
    ('shop-1', 'ladieswear-be075cca01bf', 'c-94409e1f00b4')
    """
    made = tuple(slug(name) for name in names)
    if len(set(made)) < len(made):
        twice = next(name for name, count in Counter(made).items() if count > 1)
        those = ", ".join(repr(name) for name, own in zip(names, made, strict=True) if own == twice)
        raise DatasetError(f"Clients {those} would have one id, {twice}; rename one.")
    return made


def slug(name: str) -> str:
    """One of them: the name itself where it is safe, else what is safe of it and twelve digits of its hash."""
    if _SAFE.fullmatch(name):
        return name
    bare = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "c"
    return f"{bare}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def _default(source: Source) -> str:
    if source.users:
        return "user"
    return "merchant" if len(source.catalog.merchant_names) > 1 else "queries"


def _kind(settings: ClientSettings, usual: Kind) -> Kind:
    return usual if settings.kind == "auto" else settings.kind


def _shared(by: str) -> str:
    return (
        f"Clients by {by} are cut out of one table: grouped by another column the same behaviour lies under another "
        "identity, with a ledger of its own. A real client reads its own folder (dataset.clients.by: all)."
    )


def _dealt(source: Source, settings: ClientSettings) -> Owners:
    """People, or queries where there are none, dealt to artificial clients."""
    people = bool(source.users)
    labels, rows = _tastes(source, settings.over, people)
    dealt = deal(source, settings, people=people, labels=labels, rows=rows)
    count = max(int(dealt.max(initial=0)) + 1, 1)
    return Owners(
        names=tuple(f"client-{index:0{len(str(count - 1))}d}" for index in range(count)),
        kind=_kind(settings, "merchant"),
        by=f"partition-{settings.partition}",
        of_user=dealt if people else None,
        of_query=None if people else dealt,
        stand_in="Its clients are dealt from one table by a seed, for simulations.",
    )


def _tastes(source: Source, over: str, people: bool) -> tuple[np.ndarray, np.ndarray]:
    """(int64 [P], the value of the item column `over` that each person, or query, has most; int64 [P], their rows)."""
    codes, values = item_codes(source, over)
    count, kinds = len(source.users if people else source.queries), max(len(values), 1)
    keys = [np.zeros(0, np.int64)]
    if source.events is not None:
        events = source.events
        keys.append(_keys(events.user if people else events.query, codes[events.item], events.relevance, kinds))
    for lists in source.lists:
        owner = np.repeat(lists.user if people else lists.query, np.diff(lists.start))
        keys.append(_keys(owner, codes[lists.item], lists.relevance, kinds))
    found, times = np.unique(np.concatenate(keys), return_counts=True)
    order = np.lexsort((times, found // kinds))  # the last of each owner is what they have most
    labels = np.zeros(count, np.int64)
    labels[(found // kinds)[order]] = (found % kinds)[order]
    return labels, np.bincount(found // kinds, weights=times, minlength=count).astype(np.int64)


def _keys(owner: np.ndarray, label: np.ndarray, relevance: np.ndarray, kinds: int) -> np.ndarray:
    chosen = (owner >= 0) & (relevance > 0)
    return owner[chosen].astype(np.int64) * kinds + label[chosen]
