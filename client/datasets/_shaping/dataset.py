"""A source as a data set: the public registry, and a door to one client's slates."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from client.datasets import Kind, Split
from client.datasets._shaping.acts import Acts, acts_of
from client.datasets._shaping.brought import brought
from client.datasets._shaping.catalogue import catalogue_alone
from client.datasets._shaping.clients import Owners, owners_of
from client.datasets._shaping.fill import BORROWED, Filler, filler_of
from client.datasets._shaping.harmonise import harmonised
from client.datasets._shaping.lists import PRODUCTION, Brought, Listed, listed_of
from client.datasets._shaping.moments import Moments
from client.datasets._shaping.parts import SPLITS, Parts, parts_of, parts_of_lists
from client.datasets._shaping.queries import templates_of
from client.datasets._shaping.settings import Shape
from client.datasets._source import Source, arrays_of
from mmrank.errors import ConfigError, DatasetError, nearest
from mmrank.slates import Slate

VERSION = "1"
KEPT_CLIENTS = 4096
UNNAMED = (
    "Its data are named by the folder that they lie in: moved, they would begin a ledger anew. Set dataset.identity to "
    "a name that is kept for good."
)


class ShapedDataset:
    """See client.datasets.Dataset. Also: `findings` of the files, `notes` in plain words, `split_by`, and the rows that
    its slates bring scores for (`brought_rows`).
    """

    synthetic = False

    def __init__(self, source: Source, shape: Shape, *, root: Path) -> None:
        self.name, self.findings = source.name, source.findings
        self.root = root
        source = harmonised(source, shape.harmonise, root=root)
        if source.events is None and not source.lists:
            source = catalogue_alone(source, seed=shape.seed)
        self.source, self.shape = source, shape
        self.catalog = source.catalog
        self._owners: Owners = owners_of(source, shape.clients)
        self._acts: Acts = acts_of(source, self._owners)
        self._parts: Parts = parts_of(source, shape.split, self._slate_times())
        self._filler: Filler = filler_of(source, shape.candidates, self._acts, self._owners)
        self._moments = self._make_moments() if source.events is not None and self._from_events else None
        rows = brought(root, shape.rows, self.catalog, source.findings)
        self._lists = self._make_lists(rows)
        self.split_by = self._parts.by
        self.epoch_days: float | None = 0.0 if source.timed else None
        self.client_ids: Sequence[str] = self._registered()
        self._numbers = {name: number for number, name in enumerate(self._owners.names)}
        self.version = self._version(rows)
        unnamed = UNNAMED if shape.identity is None else None
        self.stand_in = self._owners.stand_in or unnamed or next(iter(source.findings.told), None)
        self.bad_rows = shape.bad_rows
        self.simulation_only = self._simulation_only()
        self.notes = tuple(str(found) for found in source.findings)
        own = any(np.isfinite(lists.score).any() for lists in source.lists)
        self.brought_rows = ((PRODUCTION,) if own else ()) + tuple(shape.rows)
        self._composed = lru_cache(maxsize=KEPT_CLIENTS)(self._compose)

    def kind(self, client_id: str) -> Kind:
        """Public: device or merchant, the same for all."""
        self._number(client_id)
        return self._owners.kind

    def data_identity(self, client_id: str) -> str:
        """The table and the client, whatever candidates and queries this run has."""
        self._number(client_id)
        return f"{self.name}/{self.shape.identity or self.root}/{self._owners.by}/{client_id}"

    def slates(self, client_id: str, split: Split) -> list[Slate]:
        """Private: that client's slates in that part, by time."""
        return list(self._composed(client_id, split)[0])

    def left_out(self, client_id: str, split: Split) -> Mapping[str, int]:
        """How many slates of that part could not be made, by reason."""
        return dict(self._composed(client_id, split)[1])

    def slate_counts(self) -> np.ndarray:
        """int64 [clients, 3]: about how many slates each of client_ids has in each part, without making them: moments
        in which something was chosen (one with several queries is several slates), and lists.
        """
        return self._counts()[[self._numbers[name] for name in self.client_ids]]

    def _slate_times(self) -> np.ndarray:
        """float64 [n]: when slates are: of lists that were shown where there are any, else of what people chose."""
        if self._from_events:
            return self._acts.time[self._acts.relevance > 0]
        return np.concatenate([lists.time for lists in self.source.lists if not lists.judged])

    @property
    def _from_events(self) -> bool:
        """Lists that were shown are the slates where there are any; the events beside them are history."""
        return all(lists.judged for lists in self.source.lists)

    def _make_moments(self) -> Moments:
        return Moments(
            source=self.source,
            clients=self._owners.names,
            acts=self._acts,
            parts=self._parts,
            filler=self._filler,
            templates=templates_of(self.source, self.shape.queries.fields),
            derive=self.shape.queries.derive,
            moment=self.shape.moment,
            seed=self.shape.seed,
        )

    def _make_lists(self, given: Mapping[str, Any]) -> list[Listed]:
        if given and not any(len(lists.query_id) for lists in self.source.lists):
            raise ConfigError(
                "Expected dataset.rows with judgments or impressions, whose queries a TREC run names; leave it out."
            )
        before = np.cumsum([0, *(len(lists) for lists in self.source.lists)])
        return [
            listed_of(
                self.source,
                lists,
                self._owners,
                part=part,
                acts=self._acts,
                filler=self._filler,
                fill=self.shape.candidates.fill,
                brought=given,
                seed=self.shape.seed,
                first_nobody=len(self.source.users) + int(first),
                ends=self._parts.edges[1:] if self._parts.by == "time" else (np.inf,) * 3,
            )
            for lists, part, first in zip(
                self.source.lists, parts_of_lists(self._parts, self.source), before[:-1], strict=True
            )
        ]

    def _counts(self) -> np.ndarray:
        """int64 [owners, parts]."""
        places = np.zeros(len(self._owners.names) * len(SPLITS), np.int64)
        found = [self._moments.begun()] if self._moments is not None and len(self._acts) else []
        found += [listed.pieces() for listed in self._lists]
        for client, part in found:
            known = part >= 0
            keys = client[known].astype(np.int64) * len(SPLITS) + part[known]
            places += np.bincount(keys, minlength=len(places))
        return places.reshape(-1, len(SPLITS))

    def _registered(self) -> tuple[str, ...]:
        names = self._owners.names
        if self._owners.by == "all":
            return names  # a real client is registered whatever it holds
        kept = np.flatnonzero(self._counts().sum(axis=1) >= self.shape.clients.min_slates)
        if not len(kept):
            raise DatasetError(
                f"None of the {len(names)} clients of {self.name} has {self.shape.clients.min_slates} slates; "
                "lower dataset.clients.min_slates, make other clients (dataset.clients.by), or look with mmrank data "
                f"check.{self.findings.most_lost()}"
            )
        return tuple(names[index] for index in kept.tolist())

    def _simulation_only(self) -> str | None:
        if self._filler.origin in BORROWED and (self._moments is not None or self.shape.candidates.fill):
            return (
                f"Its candidates ({self._filler.origin}) are other people's choices, which no client can know; "
                "set dataset.candidates.from: catalogue, or bring the lists that were shown (impressions)."
            )
        if not self._parts.public:
            return (
                "Its parts are cut at fractions of everybody's times, which move with one person's; set "
                "dataset.split.validation_from and test_from to public days."
            )
        return None

    def _number(self, client_id: str) -> int:
        number = self._numbers.get(client_id)
        if number is None:
            close = nearest(client_id, self.client_ids[:10_000])
            raise DatasetError(f"No client {client_id!r} among the {len(self.client_ids)} of {self.name}.{close}")
        return number

    def _compose(self, client_id: str, split: Split) -> tuple[tuple[Slate, ...], Mapping[str, int]]:
        number = self._number(client_id)
        if split not in SPLITS:
            raise ConfigError(f"Expected split={split!r} to be one of {', '.join(SPLITS)}.{nearest(split, SPLITS)}")
        made: list[Slate] = []
        left_out: Counter[str] = Counter()
        for one in self._made(number, SPLITS.index(split)):
            if isinstance(one, str):
                left_out[one] += 1
            else:
                made.append(one)
        return tuple(sorted(made, key=lambda slate: slate.time_days)), left_out

    def _made(self, number: int, part: int) -> Iterator[Slate | str]:
        if self._moments is not None:
            yield from self._moments.slates(number, part)
        for listed in self._lists:
            yield from listed.slates(number, part)

    def _version(self, rows: Brought) -> str:
        """Changes with whatever changes a slate."""
        shape = dataclasses.replace(self.shape, identity=None, bad_rows=0.0, rows=dict.fromkeys(self.shape.rows, ""))
        sha = hashlib.sha256(repr((VERSION, shape, self._owners.names[:1000])).encode())
        sha.update(self.catalog.digest.encode())
        for columns in (self.source.events, *self.source.lists):
            if columns is not None:
                for name, array in sorted(arrays_of(columns).items()):
                    sha.update(f"{name} {len(array)}".encode())
                    same = array.strides == (0,)  # one value for all
                    sha.update(np.ascontiguousarray(array[:1] if same else array).data)
        for names in (self.source.queries, self.source.users, self.source.groups, *self.source.fields.values()):
            sha.update("\x1f".join(names).encode())
            sha.update(b"\x1e")
        for name, queries in rows.items():
            for query, scores in sorted(queries.items()):
                sha.update(repr((name, query, sorted(scores.items()))).encode())
        return f"{VERSION}-{sha.hexdigest()[:12]}"


def shaped(source: Source, shape: Shape, *, root: Path) -> ShapedDataset:
    """The data set of a source. Raises DatasetError for what can't be used, ConfigError for settings that don't fit."""
    source.findings.check(shape.bad_rows)
    return ShapedDataset(source, shape, root=root)
