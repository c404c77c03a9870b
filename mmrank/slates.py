"""The private side: what one person was shown, in which words they asked, and what they did.

A Slate is one ranking problem and the smallest privacy unit. A SlateBatch is B of them, padded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # half a gigabyte, which who only reads tables does without
    import torch

EVENT_TYPES = ("view", "click", "cart", "purchase")
"""Event types of a history; the index is the code stored in `Slate.event_type`."""

LARGEST = 1e6
"""Of a relevance or an age; what is beyond it is a mistake."""

PADDING = -1
"""The item index that stands where a slate has no item."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Slate:
    """One query, the L items that were shown for it, and the person's H earlier events.

    query: '' where the person browsed without one.
    candidates: int64 [L] item indices. relevance: float32 [L] >= 0 (0 nothing, 1 click, 2 purchase).
    position: int64 [L], 0 the top, -1 unknown. propensity: float32 [L] in (0, 1], NaN unknown.
    history: int64 [H] item indices, oldest first. event_type: int64 [H], see EVENT_TYPES.
    age_days: float32 [H] >= 0, how long before the slate the event was.
    time_days: when the slate was shown, in days from the data set's first day.
    user: the person, counted within the client. scores: float32 [L] by the name of another ranker, such as the one that
    the shop had. oracle: what only a simulation can know.
    """

    query: str
    candidates: np.ndarray
    relevance: np.ndarray
    position: np.ndarray
    history: np.ndarray
    event_type: np.ndarray
    age_days: np.ndarray
    time_days: float
    user: int
    propensity: np.ndarray | None = None
    oracle: np.ndarray | None = None
    scores: Mapping[str, np.ndarray] | None = None

    def without_history(self) -> Slate:
        """The same slate as a stranger would see it."""
        return replace(self, history=self.history[:0], event_type=self.event_type[:0], age_days=self.age_days[:0])


def fault_of(slate: Slate, items: int) -> str | None:
    """Why nothing can be learned from `slate` over a catalogue of `items`, or None. Each slate is judged by itself.

    One bad slate must neither stop the others nor show: an error in its place would tell that it is there.
    """
    if not isinstance(slate.query, str):
        return "a query that is no text"
    if not isinstance(slate.user, int | np.integer) or not 0 <= slate.user < 2**62:
        return "a person who is no number"
    if not isinstance(slate.time_days, int | float | np.integer | np.floating) or not abs(slate.time_days) <= LARGEST:
        return "a time that is no number, or a huge one"
    columns = (slate.candidates, slate.relevance, slate.position, slate.history, slate.event_type, slate.age_days)
    if any(not isinstance(c, np.ndarray) or c.ndim != 1 or (len(c) and c.dtype.kind not in "iuf") for c in columns):
        return "a column that is no list of numbers"
    shown, earlier = len(slate.candidates), len(slate.history)
    if any(len(column) != shown for column in (slate.relevance, slate.position)) or any(
        len(column) != earlier for column in (slate.event_type, slate.age_days)
    ):
        return "columns of unlike lengths"
    for rows in (slate.candidates, slate.history):
        if len(rows) and not (rows.min() >= 0 and rows.max() < items):
            return "an item that is not in the catalogue"
    if earlier and not (slate.event_type.min() >= 0 and slate.event_type.max() < len(EVENT_TYPES)):
        return "an unknown type of event"
    for rows in (slate.relevance, slate.age_days):
        if not (np.abs(rows) <= LARGEST).all():  # also where one is no number
            return "a relevance or an age that is no number, or a huge one"
    if (slate.relevance < 0).any():
        return "a relevance below 0"
    return None


@dataclass(frozen=True, kw_only=True)
class SlateBatch:
    """B slates, padded to L candidates and H events; every tensor's first axis is B.

    query: B strings. candidates, history: int64, PADDING where padded.
    candidate_mask, history_mask: bool, False where padded. position: int64 [B, L].
    user: int64 [B], the person, counted within the client.
    """

    query: tuple[str, ...]
    candidates: torch.Tensor
    candidate_mask: torch.Tensor
    relevance: torch.Tensor
    position: torch.Tensor
    history: torch.Tensor
    history_mask: torch.Tensor
    event_type: torch.Tensor
    age_days: torch.Tensor
    user: torch.Tensor

    def __len__(self) -> int:
        return len(self.query)

    def select(self, rows: Sequence[int] | np.ndarray | torch.Tensor) -> SlateBatch:
        """The slates at `rows` [b], in that order; b may be 0."""
        import torch

        index = torch.as_tensor(rows, dtype=torch.int64)
        tensors = {name: getattr(self, name)[index] for name in self.__dataclass_fields__ if name != "query"}
        return SlateBatch(query=tuple(self.query[i] for i in index.tolist()), **tensors)


def collate(slates: Sequence[Slate], *, history_length: int, slate_length: int | None = None) -> SlateBatch:
    """Pad `slates` into one batch; the newest `history_length` events of each are kept.

    slate_length: width L of the result; the longest slate by default. A public constant
    makes the width tell nothing. Slates longer than L keep their first L candidates.
    """
    import torch

    longest = max((len(slate.candidates) for slate in slates), default=0)
    width = slate_length if slate_length is not None else longest
    size = len(slates)
    candidates = np.full((size, width), PADDING, np.int64)
    relevance = np.zeros((size, width), np.float32)
    position = np.full((size, width), -1, np.int64)
    history = np.full((size, history_length), PADDING, np.int64)
    event_type = np.zeros((size, history_length), np.int64)
    age_days = np.zeros((size, history_length), np.float32)
    for row, slate in enumerate(slates):
        shown = min(len(slate.candidates), width)
        candidates[row, :shown] = slate.candidates[:shown]
        relevance[row, :shown] = slate.relevance[:shown]
        position[row, :shown] = slate.position[:shown]
        kept = min(len(slate.history), history_length)
        if kept:
            history[row, :kept] = slate.history[-kept:]
            event_type[row, :kept] = slate.event_type[-kept:]
            age_days[row, :kept] = slate.age_days[-kept:]
    return SlateBatch(
        query=tuple(slate.query for slate in slates),
        candidates=torch.from_numpy(candidates),
        candidate_mask=torch.from_numpy(candidates != PADDING),
        relevance=torch.from_numpy(relevance),
        position=torch.from_numpy(position),
        history=torch.from_numpy(history),
        history_mask=torch.from_numpy(history != PADDING),
        event_type=torch.from_numpy(event_type),
        age_days=torch.from_numpy(age_days),
        user=torch.tensor([slate.user for slate in slates], dtype=torch.int64),
    )
