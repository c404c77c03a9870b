"""Exact measurement of a ranking on private slates: for simulations alone, since it sees what no server may.

The same slates for every row. Values are per slate, then averaged within a client, then over clients, so a
client with many slates weighs no more than one with few; intervals are bootstrapped by client. Choices
(an epoch, a learning rate, a variant) are made on `validation` with `Evaluator.choose`; `test` is for reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from client.datasets import Dataset, Split
from mmrank.errors import ConfigError
from mmrank.metrics import METRICS, slate_metrics
from mmrank.randomness import numpy_generator
from mmrank.settings import EvaluationSettings
from mmrank.slates import Slate, SlateBatch, collate
from simulations._intervals import ci95, difference, gain_ratio, ratio
from simulations.off_policy import VALUE, WEIGHT, weighted, weighted_clicks

CHUNK = 128
"""Slates scored at a time: bounds memory whatever the number of clients."""
WARM_HISTORY = 5
"""A person with fewer earlier events than this is a cold user."""
HEADLINE = "ndcg@10"

Choice = TypeVar("Choice", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """B slates to score. clients: whose each is. batch: the same, padded; its width L is that of the scores."""

    slates: tuple[Slate, ...]
    clients: tuple[str, ...]
    batch: SlateBatch

    def first(self, count: int) -> Chunk:
        """The first `count` slates."""
        if count >= len(self.slates):
            return self
        return Chunk(slates=self.slates[:count], clients=self.clients[:count], batch=self.batch.select(range(count)))


Scorer = Callable[[Chunk], np.ndarray]
"""Scores float [B, L] of a chunk's candidates, higher is better; what stands in padded places does not matter."""


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """One row on one split. values: float64 [S] by measure, NaN where a slate has no relevant item.

    owner: int64 [S], index of the slate's client in [0, clients).
    """

    values: Mapping[str, np.ndarray]
    owner: np.ndarray
    clients: int

    def client_means(self, measure: str, where: np.ndarray | None = None) -> np.ndarray:
        """float64 [clients]: the mean over each client's slates (those of `where`, bool [S]); NaN where none counts."""
        value = self.values[measure]
        counted = ~np.isnan(value) if where is None else where & ~np.isnan(value)
        count = np.bincount(self.owner[counted], minlength=self.clients)
        total = np.bincount(self.owner[counted], weights=value[counted], minlength=self.clients)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def mean(self, measure: str = HEADLINE) -> float:
        """The mean over clients; NaN where no slate counts."""
        means = self.client_means(measure)
        return float(means[~np.isnan(means)].mean()) if (~np.isnan(means)).any() else float("nan")


def pooled(results: Sequence[RowResult]) -> RowResult:
    """The mean over seeds, slate by slate (so also client by client): the seeds measured the same slates."""
    values = {name: np.mean([result.values[name] for result in results], axis=0) for name in results[0].values}
    return RowResult(values=values, owner=results[0].owner, clients=results[0].clients)


class Evaluator:
    """Measures scorers on the validation or test slates of a fixed, seeded set of clients."""

    def __init__(self, dataset: Dataset, settings: EvaluationSettings, *, history_length: int, seed: int) -> None:
        """settings.clients and max_slates_per_client bound the set; history_length: events kept in a batch."""
        self.dataset, self.settings, self.seed = dataset, settings, seed
        self._history_length = history_length
        self._parts: dict[Split, _Part] = {}

    def measure(
        self, scorer: Scorer, split: Split, *, clients: int | None = None, off_policy: bool = False
    ) -> RowResult:
        """Values of every slate of the part; `clients`: of the first so many alone, for choices that cost much.

        off_policy: with the sums that IPS and SNIPS are made of.
        """
        part = self._part(split)
        count = len(part.clients) if clients is None else min(clients, len(part.clients))
        owner = part.owner[: np.searchsorted(part.owner, count)]
        names = (*METRICS, VALUE, WEIGHT) if off_policy else METRICS
        found: dict[str, list[np.ndarray]] = {name: [] for name in names}
        for start, chunk in zip(range(0, len(owner), CHUNK), part.chunks, strict=False):
            chunk = chunk.first(len(owner) - start)
            batch = chunk.batch
            scores = scorer(chunk)
            values = slate_metrics(scores, batch.relevance.numpy(), batch.candidate_mask.numpy())
            if off_policy:
                values |= weighted_clicks(scores, chunk.slates)
            for name, value in values.items():
                found[name].append(value)
        joined = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in found.items()}
        return RowResult(values=joined, owner=owner, clients=count)

    def choose(self, options: Iterable[tuple[Choice, Scorer]], *, clients: int | None = None) -> tuple[Choice, float]:
        """The option with the best nDCG@10 on validation, and that value; the first of equals."""
        best: tuple[Choice, float] | None = None
        for label, scorer in options:
            value = self.measure(scorer, "validation", clients=clients).mean()
            if best is None or value > best[1]:
                best = (label, value)
        if best is None:
            raise ConfigError("Expected at least one option to choose from.")
        return best

    def client_ids(self, split: Split) -> tuple[str, ...]:
        """The clients measured: the first of a seeded order that have a slate with something relevant in the part."""
        return self._part(split).clients

    def slates(self, split: Split) -> int:
        """How many slates count."""
        return len(self._part(split).owner)

    def left_out(self, split: Split) -> dict[str, int]:
        """Slates of the measured clients that don't count, by reason."""
        return dict(self._part(split).left_out)

    def summary(self, result: RowResult, where: np.ndarray | None = None) -> dict[str, Any]:
        """Each of METRICS as {"mean", "ci95"}, and the number of slates and clients behind them; `where`: bool [S]."""
        counted = ~np.isnan(result.values[HEADLINE])
        if where is not None:
            counted &= where
        measures: dict[str, Any] = {
            name: ci95(result.client_means(name, where), samples=self.settings.bootstrap, seed=self.seed)
            for name in METRICS
        }
        return measures | {"slates": int(counted.sum()), "clients": len(np.unique(result.owner[counted]))}

    def off_policy(self, result: RowResult) -> dict[str, Any] | None:
        """IPS and SNIPS (see simulations.off_policy) as {"mean", "ci95"}; None where no slate has propensities."""
        if not weighted(result.values):
            return None
        value, weight = (result.client_means(name) for name in (VALUE, WEIGHT))
        options = {"samples": self.settings.bootstrap, "seed": self.seed}
        return {"ips": ci95(value, **options), "snips": ratio(value, weight, **options)}

    def gain_ratio(self, row: RowResult, content: RowResult, centralised: RowResult) -> dict[str, Any] | str:
        """See simulations._intervals.gain_ratio, on nDCG@10."""
        means = [result.client_means(HEADLINE) for result in (row, content, centralised)]
        return gain_ratio(*means, samples=self.settings.bootstrap, seed=self.seed)

    def difference(self, row: RowResult, base: RowResult) -> dict[str, Any]:
        """nDCG@10 of `row` minus that of `base`, paired by client."""
        means = [result.client_means(HEADLINE) for result in (row, base)]
        return difference(*means, samples=self.settings.bootstrap, seed=self.seed)

    def groups(self, split: Split, seen_items: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Which slates, bool [S], are of which kind.

        warm_users, cold_users: by WARM_HISTORY. with_query, without_query. With `seen_items` (what anybody
        chose in training, which only a simulation knows): warm_items, cold_items, by whether any relevant one was.
        """
        slates = [slate for chunk in self._part(split).chunks for slate in chunk.slates]
        warm = np.array([len(slate.history) >= WARM_HISTORY for slate in slates], bool)
        asked = np.array([bool(slate.query) for slate in slates], bool)
        found = {"warm_users": warm, "cold_users": ~warm, "with_query": asked, "without_query": ~asked}
        if seen_items is not None:
            seen = np.array(
                [np.isin(slate.candidates[slate.relevance > 0], seen_items).any() for slate in slates], bool
            )
            found |= {"warm_items": seen, "cold_items": ~seen}
        return found

    def _part(self, split: Split) -> _Part:
        if split not in self._parts:
            self._parts[split] = self._collect(split)
        return self._parts[split]

    def _collect(self, split: Split) -> _Part:
        """The same slates whatever is measured: drawn once, by the seed of the evaluation."""
        generator = numpy_generator(self.seed, "evaluation-clients")
        left_out: Counter[str] = Counter()
        clients: list[str] = []
        kept: list[tuple[int, Slate]] = []
        for index in generator.permutation(len(self.dataset.client_ids)).tolist():
            if len(clients) == self.settings.clients:
                break
            client_id = self.dataset.client_ids[index]
            slates = self.dataset.slates(client_id, split)
            left_out.update(_reasons_of(self.dataset, client_id, split))
            answerable = [slate for slate in slates if (slate.relevance > 0).any()]
            left_out["nothing relevant"] += len(slates) - len(answerable)
            chosen = _at_most(answerable, self.settings.max_slates_per_client, (self.seed, client_id))
            left_out["beyond evaluation.max_slates_per_client"] += len(answerable) - len(chosen)
            if chosen:
                kept += [(len(clients), slate) for slate in chosen]
                clients.append(client_id)
        return _Part(
            clients=tuple(clients),
            owner=np.array([owner for owner, _ in kept], np.int64),
            chunks=tuple(self._chunks(kept, clients)),
            left_out={reason: count for reason, count in left_out.items() if count},
        )

    def _chunks(self, kept: Sequence[tuple[int, Slate]], clients: Sequence[str]) -> Iterator[Chunk]:
        for start in range(0, len(kept), CHUNK):
            slates = tuple(slate for _, slate in kept[start : start + CHUNK])
            yield Chunk(
                slates=slates,
                clients=tuple(clients[owner] for owner, _ in kept[start : start + CHUNK]),
                batch=collate(slates, history_length=self._history_length),
            )


@dataclass(frozen=True, kw_only=True)
class _Part:
    clients: tuple[str, ...]
    owner: np.ndarray
    chunks: tuple[Chunk, ...]
    left_out: Mapping[str, int]


def _at_most(slates: list[Slate], count: int, names: tuple[int, str]) -> list[Slate]:
    """A seeded sample of at most `count`, in their order."""
    if len(slates) <= count:
        return slates
    seed, client_id = names
    drawn = numpy_generator(seed, "evaluation-slates", client_id).choice(len(slates), count, replace=False)
    return [slates[index] for index in np.sort(drawn)]


def _reasons_of(dataset: Dataset, client_id: str, split: Split) -> Mapping[str, int]:
    """What the data set itself left out; only some keep count."""
    left_out = getattr(dataset, "left_out", None)
    return left_out(client_id, split) if left_out is not None else {}
