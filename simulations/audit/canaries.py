"""Canaries: units made so that whether one was trained on shows as well as the clip lets anything show.

The matrix from the words of a query to looks gets, from one slate, the outer product of the query's row and the
difference in style of what was liked and what was not. A canary has a query of one reserved direction of the text rows,
and two items that differ in one direction of the style rows alone: its gradient is one entry of that matrix, which no
other canary has, and what little the shared layers get. Queries, and items of the public catalogue, may be anything in
the threat model, so the canaries are within the claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor, nn

from client.datasets import Dataset, Kind, Split
from mmrank.encoders import TextEncoder
from mmrank.errors import ConfigError
from mmrank.features import FeatureTable
from mmrank.ranker import gather
from mmrank.settings import Settings
from mmrank.slates import Slate, collate

PARAMETER = "query_style.weight"
"""The ranker's matrix [2 style_dim, feature_dim] whose entries the canaries own."""
STRENGTH = 3.0
"""A canary's first gradient over the clip: its entry may be learned a little before it falls below the clip."""
LOUDNESS = 10.0
"""Of the reserved queries' rows: the items' styles are that much fainter, and so is what they do to other layers."""


@dataclass(frozen=True, kw_only=True)
class CanarySlates:
    """m slates, each a unit of its own (slate, or the only slate of a user that nobody else is).

    features: the catalogue's, with the reserved items after them. entries: int64 [m, 2], each canary's entry of
    PARAMETER. slates: what a coin puts into the client's training part, or leaves out.
    """

    features: FeatureTable
    entries: np.ndarray
    slates: Sequence[Slate]

    def __len__(self) -> int:
        return len(self.slates)

    def chosen(self, included: np.ndarray) -> list[Slate]:
        """Those of the coins bool [m]."""
        return [slate for slate, inside in zip(self.slates, included, strict=True) if inside]

    def inputs(self, rows: slice, settings: Settings, device: torch.device | str) -> dict[str, Tensor]:
        """The tensors that the ranker and its loss take, of some canaries."""
        batch = collate(
            self.slates[rows],
            history_length=settings.model.history_length,
            slate_length=settings.training.slate_length,
        )
        inputs = dict(gather(batch, self.features, settings.model))
        inputs |= {"relevance": batch.relevance, "candidate_mask": batch.candidate_mask}
        return {name: tensor.to(device) for name, tensor in inputs.items()}

    def signals(self, values: Mapping[str, Tensor]) -> np.ndarray:
        """float64 [m]: minus each canary's entry of a gradient by name: above 0 where the canary was in it."""
        return -values[PARAMETER].detach().cpu().double().numpy()[self.entries[:, 0], self.entries[:, 1]]


def canary_slates(
    count: int, features: FeatureTable, ranker: nn.Module, settings: Settings, draw: np.random.Generator
) -> CanarySlates:
    """`count` canaries over `features`, for the ranker of `settings`.

    Raises ConfigError where the ranker has no such matrix, or fewer entries than canaries.
    """
    parameter = dict(ranker.named_parameters()).get(PARAMETER)
    if parameter is None:
        raise ConfigError(
            f"Expected a ranker with {PARAMETER}, an entry of which each canary owns; audit a run with model.towers: "
            "frozen and model.use_text: true."
        )
    looks, words = parameter.shape
    if not 2 <= count <= looks * words:
        raise ConfigError(
            f"Expected --canaries={count} in [2, {looks * words}], the entries of {PARAMETER}; change --canaries."
        )
    entries = np.stack(np.unravel_index(draw.permutation(looks * words)[:count], (looks, words)), axis=1)
    first = len(features)
    slates = [_slate(first + 2 * int(look), int(word), user=2**40 + row) for row, (look, word) in enumerate(entries)]
    return CanarySlates(
        features=_reserve(features, looks, words, STRENGTH * settings.privacy.max_grad_norm),
        entries=entries,
        slates=slates,
    )


def _slate(item: int, word: int, *, user: int) -> Slate:
    """The item is liked, and the one after it, its opposite, is not."""
    return Slate(
        query=_query(word),
        candidates=np.array([item, item + 1]),
        relevance=np.array([1.0, 0.0], np.float32),
        position=np.zeros(2, np.int64),
        history=np.empty(0, np.int64),
        event_type=np.empty(0, np.int64),
        age_days=np.empty(0, np.float32),
        time_days=0.0,
        user=user,
    )


def _query(word: int) -> str:
    return f"\x1ereserved {word}"


def _reserve(features: FeatureTable, looks: int, words: int, strength: float) -> FeatureTable:
    """Two items for each direction of style, alike but for its sign, and a query for each direction of text.

    With even scores a slate's gradient is minus half the difference of its items times the query: minus `strength`.
    """
    style = torch.zeros(2 * looks, looks)
    style[0::2] = strength / LOUDNESS * torch.eye(looks)
    style[1::2] = -style[0::2]
    added = {"style": style}
    values = {item.name: getattr(features, item.name) for item in fields(features) if item.name != "_queries"}
    for name, value in values.items():
        if isinstance(value, Tensor):
            value = torch.cat([value, added.get(name, value.new_zeros(2 * looks, *value.shape[1:]))])
            values[name] = value
    values["text_encoder"] = _Reserved(features.text_encoder, words)
    values["digest"] = f"{features.digest}+reserved"
    return FeatureTable(**values)


class _Reserved:
    """A text encoder with one direction for each reserved query; everything else is the encoder's own."""

    def __init__(self, encoder: TextEncoder, words: int) -> None:
        self._encoder = encoder
        self._words = {_query(word): word for word in range(words)}
        self.trainable, self.version = encoder.trainable, encoder.version
        self.row_shape, self.row_dtype = encoder.row_shape, encoder.row_dtype

    def fit(self, texts: Sequence[str]) -> _Reserved:
        self._encoder.fit(texts)
        return self

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.array(self._encoder.rows(["" if text in self._words else text for text in texts]))
        for place, text in enumerate(texts):
            if text in self._words:
                rows[place] = 0
                rows[place, self._words[text]] = LOUDNESS
        return rows

    def tower(self, dim: int) -> nn.Module:
        return self._encoder.tower(dim)


class WithCanaries:
    """A data set with slates more in one client's training part: another data set by name, with ledgers of its own."""

    synthetic = True

    def __init__(self, dataset: Dataset, client: str, slates: Sequence[Slate]) -> None:
        self._dataset, self._client, self._slates = dataset, client, list(slates)
        self.name, self.version = f"{dataset.name}+canaries", dataset.version
        self.simulation_only: str | None = "It holds canaries."
        self.catalog, self.client_ids = dataset.catalog, dataset.client_ids

    def kind(self, client_id: str) -> Kind:
        return self._dataset.kind(client_id)

    def data_identity(self, client_id: str) -> str:
        return f"canaries/{self._dataset.data_identity(client_id)}"

    def slates(self, client_id: str, split: Split) -> list[Slate]:
        own = self._dataset.slates(client_id, split)
        return own + self._slates if (client_id, split) == (self._client, "train") else own
