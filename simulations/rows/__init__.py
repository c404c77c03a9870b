"""Rows of a report, one a file: what the trained ranker is compared with.

`build(context)` of simulations.rows.NAME returns a Scorer (see simulations.evaluation). What a row chooses (a variant,
a learning rate, an epoch) it chooses on validation. A row that can't be computed raises RowSkippedError and says why.
Rows see every client's data, as only a simulation can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from scipy import sparse

from client.datasets import Dataset
from mmrank import components
from mmrank.features import FeatureTable
from mmrank.settings import Settings
from mmrank.slates import Slate
from simulations.evaluation import Evaluator, RowResult, Scorer

POOLED_CLIENTS = 10_000
"""Rows that pool every client's training slates are skipped above this: they would have to hold them all."""


class RowSkippedError(Exception):
    """A row can't be computed here; the text is the reason that the report shows."""


@dataclass(kw_only=True)
class RowContext:
    """What rows are built from. seed: of this repetition; the trained rows start from build_ranker(model, seed=seed).

    choices: what rows chose on validation, by row: kept for the next seed, so that each choice is made once.
    on_progress: called with (row, steps done, steps in all) by rows that take long.
    """

    settings: Settings
    dataset: Dataset
    features: FeatureTable
    evaluator: Evaluator
    seed: int = 0
    device: str = "cpu"
    choices: dict[str, Any] = field(default_factory=dict)
    on_progress: Callable[[str, int, int], None] | None = None

    def report(self, row: str, done: int, total: int) -> None:
        """Tell who listens how far a row is."""
        if self.on_progress is not None:
            self.on_progress(row, done, total)

    @cached_property
    def train_slates(self) -> list[tuple[str, Slate]]:
        """(client, slate) of the training part of every client. Raises RowSkippedError for too many clients."""
        clients = self.dataset.client_ids
        if len(clients) > POOLED_CLIENTS:
            raise RowSkippedError(f"pools the training slates of {len(clients)} clients; at most {POOLED_CLIENTS}")
        return [(client, slate) for client in clients for slate in self.dataset.slates(client, "train")]

    @cached_property
    def train_events(self) -> Events:
        """What people chose in the training part."""
        return _events(self.train_slates)

    @cached_property
    def seen_items(self) -> np.ndarray:
        """int64: items that anybody chose in the training part, sorted."""
        return np.unique(self.train_events.item)

    def for_seed(self, seed: int) -> RowContext:
        """The same context for another repetition; slates, events and choices are shared."""
        other = RowContext(
            settings=self.settings,
            dataset=self.dataset,
            features=self.features,
            evaluator=self.evaluator,
            seed=seed,
            device=self.device,
            choices=self.choices,
            on_progress=self.on_progress,
        )
        for name in ("train_slates", "train_events"):
            if name in self.__dict__:
                other.__dict__[name] = self.__dict__[name]
        return other


@dataclass(frozen=True, kw_only=True)
class Events:
    """E chosen items. item: int64 [E]. person: int64 [E], one number for each (client, user). time_days: float [E]."""

    item: np.ndarray
    person: np.ndarray
    time_days: np.ndarray

    def matrix(self, items: int) -> sparse.csr_matrix:
        """float32 [people, items]: 1 where the person chose the item, however often."""
        people = int(self.person.max()) + 1 if len(self.person) else 0
        pairs = np.unique(np.stack([self.person, self.item]), axis=1)
        return sparse.csr_matrix((np.ones(pairs.shape[1], np.float32), tuple(pairs)), shape=(people, items))


def measure_rows(
    names: Sequence[str], context: RowContext, *, split: Any = "test"
) -> tuple[dict[str, RowResult], dict[str, str]]:
    """(results by row, reasons by skipped row) of rows that need nothing but the context.

    `collaborative` stands for the better of collaborative_knn and collaborative_ials on validation.
    """
    results: dict[str, RowResult] = {}
    skipped: dict[str, str] = {}
    for name in names:
        try:
            scorer = build_row(name, context)
            results[name] = context.evaluator.measure(scorer, split)
        except RowSkippedError as reason:
            skipped[name] = str(reason)
    return results, skipped


def build_row(name: str, context: RowContext) -> Scorer:
    """The scorer of simulations.rows.NAME. Raises UnknownComponentError, or RowSkippedError with the reason."""
    return components.load("simulations.rows", name).build(context)


def _events(slates: Sequence[tuple[str, Slate]]) -> Events:
    """The relevant items of the slates and the histories before them, each event once for a person and a time."""
    people: dict[tuple[str, int], int] = {}
    rows = list(_event_rows(slates, people))
    if not rows:
        return Events(item=np.zeros(0, np.int64), person=np.zeros(0, np.int64), time_days=np.zeros(0))
    item, person, time = (np.concatenate(column) for column in zip(*rows, strict=True))
    item, person, time = np.unique(np.stack([item, person, time]), axis=1)
    return Events(item=item.astype(np.int64), person=person.astype(np.int64), time_days=time)


def _event_rows(
    slates: Sequence[tuple[str, Slate]], people: dict[tuple[str, int], int]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    last: dict[int, Slate] = {}
    for client, slate in slates:
        person = people.setdefault((client, slate.user), len(people))
        chosen = slate.candidates[slate.relevance > 0]
        yield chosen, np.full(len(chosen), person), np.full(len(chosen), slate.time_days)
        if person not in last or slate.time_days >= last[person].time_days:
            last[person] = slate
    for person, slate in last.items():  # the newest slate's history holds the older ones'
        yield slate.history, np.full(len(slate.history), person), np.round(slate.time_days - slate.age_days, 3)
