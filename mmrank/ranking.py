"""The real-time path: the item side computed once, the newest behaviour at every question.

Everything here runs beside the private data. The query and the history are seen by this process alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmrank.catalog import Catalog
from mmrank.errors import ConfigError
from mmrank.features import FeatureTable
from mmrank.ranker import Ranker, gather
from mmrank.slates import EVENT_TYPES, Slate, collate

ITEM_CHUNK = 512


@dataclass(frozen=True, kw_only=True)
class Event:
    """One thing that a person did: item index, type (an index of EVENT_TYPES), and when, in days."""

    item: int
    event_type: int
    time_days: float


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """One line of an answer: the item's index and its score."""

    item: int
    score: float


def parse_event(text: str, catalog: Catalog, *, time_days: float) -> Event:
    """An event from `type:item_id`, as a person types it. Raises ConfigError for an unknown type or item."""
    kind, _, item_id = text.partition(":")
    if kind not in EVENT_TYPES:
        raise ConfigError(f"Expected event {text!r} as type:item_id with a type of {', '.join(EVENT_TYPES)}.")
    if item_id not in catalog.index_of:
        raise ConfigError(
            f"No item {item_id!r} in catalogue {catalog.name}; its ids look like {catalog.item_ids[0]!r}."
        )
    return Event(item=catalog.index_of[item_id], event_type=EVENT_TYPES.index(kind), time_days=time_days)


class ItemIndex:
    """The catalogue's item vectors under one model, computed once and shared by every request."""

    def __init__(self, ranker: Ranker, features: FeatureTable) -> None:
        self.ranker, self.features = ranker.eval(), features
        chunks = [
            self._encode(np.arange(start, min(start + ITEM_CHUNK, len(features.text))))
            for start in range(0, len(features.text), ITEM_CHUNK)
        ]
        self.vectors = torch.cat(chunks)  # [N, dim]

    @torch.inference_mode()
    def _encode(self, items: np.ndarray) -> torch.Tensor:
        inputs = gather(self._batch("", items, []), self.features, self.ranker.model)
        ranker = self.ranker
        text = ranker.text_tower(inputs["text"])[:, 1:] if ranker.text_tower is not None else None
        image = ranker.image_tower(inputs["image"]) if ranker.image_tower is not None else None
        length = len(items)
        return ranker.item_vectors(
            text=text[:, :length] if text is not None else None,
            image=image[:, :length] if image is not None else None,
            meta=inputs["meta"][:, :length],
        )[0]

    def _batch(self, query: str, items: np.ndarray, history: Sequence[Event], now_days: float = 0.0):
        slate = Slate(
            query=query,
            candidates=items.astype(np.int64),
            relevance=np.zeros(len(items), np.float32),
            position=np.full(len(items), -1),
            history=np.array([event.item for event in history], np.int64),
            event_type=np.array([event.event_type for event in history], np.int64),
            age_days=np.array([max(now_days - event.time_days, 0.0) for event in history], np.float32),
            time_days=now_days,
            user=0,
        )
        return collate([slate], history_length=self.ranker.model.history_length)

    def retrieve(self, query: str, *, limit: int) -> np.ndarray:
        """Item indices int64 [<= limit] whose titles are nearest to the query; all items for an empty query.

        With text towers that are trained there is no zero-shot similarity, so every item is a candidate.
        """
        everything = np.arange(len(self.features.text))
        if not query or self.features.text.dim() != 2 or not self.features.text.is_floating_point():
            return everything
        similarity = self.features.text @ self.features.query_rows([query])[0]
        return torch.topk(similarity, min(limit, len(similarity))).indices.numpy()

    @torch.inference_mode()
    def rank(
        self,
        query: str,
        history: Sequence[Event],
        *,
        now_days: float,
        top: int,
        candidates: np.ndarray | None = None,
        retrieve: int = 1000,
    ) -> list[Ranked]:
        """The `top` best of `candidates` (those retrieved for the query by default), best first.

        history: the person's events, oldest first, newest included. Ties fall to the lower item index.
        """
        items = np.sort(candidates if candidates is not None else self.retrieve(query, limit=retrieve))
        batch = self._batch(query, items, sorted(history, key=lambda event: event.time_days), now_days)
        inputs = gather(batch, self.features, self.ranker.model)
        words = None
        if self.ranker.text_tower is not None:
            words = self.ranker.text_tower(inputs["text"][:, :1])[:, 0] * inputs["has_query"]
        scores = self.ranker.score(
            self.vectors[torch.from_numpy(items)].unsqueeze(0), self.vectors[batch.history.clamp(min=0)], words, inputs
        )[0]
        order = torch.sort(scores, descending=True, stable=True).indices[:top]
        return [Ranked(item=int(items[index]), score=float(scores[index])) for index in order.tolist()]


def history_of(slates: Sequence[Slate], *, relevance_types: tuple[int, int] = (1, 3)) -> tuple[list[Event], float]:
    """All events that a person's slates tell of, oldest first, and the time of the last slate in days.

    The newest slate's history, and what was relevant in each slate as a click or purchase at its time.
    relevance_types: event types of relevance 1 and of 2 or more.
    """
    if not slates:
        return [], 0.0
    last = max(slates, key=lambda slate: slate.time_days)
    events = [
        Event(item=int(item), event_type=int(kind), time_days=last.time_days - float(age))
        for item, kind, age in zip(last.history, last.event_type, last.age_days, strict=True)
    ]
    events += [
        Event(item=int(item), event_type=relevance_types[int(grade >= 2)], time_days=last.time_days)
        for item, grade in zip(last.candidates, last.relevance, strict=True)
        if grade > 0
    ]
    return sorted(events, key=lambda event: event.time_days), last.time_days
