"""Canaries: units made so that whether one was trained on shows as well as the clip lets anything show.

The matrix from the words of a query to looks gets, from one slate, the outer product of the query's row and the
difference in style of what was liked and what was not. A canary has a query of one reserved direction of the text rows,
and two items that differ in one direction of the style rows alone: its gradient is one entry of that matrix, which no
other canary has, and what little the shared layers get. Queries, and items of the public catalogue, may be anything in
the threat model, so the canaries are within the claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

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
USER = 2**40
"""The first canary's person: a number that nobody has."""
LOUDNESS = 10.0
"""Of the reserved queries' rows: the items' styles are that much fainter, and so is what they do to other layers."""


@dataclass(frozen=True, kw_only=True)
class CanarySlates:
    """m canaries, each a unit of its own: a slate, a person with some slates, or a device with some and no others.

    features: the catalogue's, with the reserved items after them. entries: int64 [m, 2], each canary's entry of
    PARAMETER. slates: each canary's [m]. copies: int64 [m], how many of it the unit holds. What a coin puts in or
    leaves out is a canary with all of its copies.
    """

    features: FeatureTable
    entries: np.ndarray
    slates: Sequence[Slate]
    copies: np.ndarray

    def __len__(self) -> int:
        return len(self.slates)

    def unit(self, row: int) -> list[Slate]:
        """All slates of one canary."""
        return [self.slates[row]] * int(self.copies[row])

    def opposite(self, row: int) -> list[Slate]:
        """The canary's slates with what was liked and what was not exchanged: its entry moves the other way."""
        slate = self.slates[row]
        return [replace(slate, relevance=slate.relevance[::-1].copy())] * int(self.copies[row])

    def chosen(self, included: np.ndarray) -> list[Slate]:
        """The slates of those of the coins bool [m]."""
        return [slate for row in np.flatnonzero(included) for slate in self.unit(int(row))]

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

    def moved(self, update: Mapping[str, np.ndarray]) -> np.ndarray:
        """float64 [m]: each canary's entry of an update by name: above 0 where the canary was in it."""
        return update[PARAMETER].astype(np.float64)[self.entries[:, 0], self.entries[:, 1]]


def canary_slates(
    count: int,
    features: FeatureTable,
    ranker: nn.Module,
    settings: Settings,
    draw: np.random.Generator,
    *,
    strength: float | None = None,
    copies: int = 1,
) -> CanarySlates:
    """`count` canaries over `features`, for the ranker of `settings`.

    strength: of a slate's first gradient; STRENGTH clips where None. A canary has `copies` slates, or where the unit is
    the user 1 to privacy.slates_per_user by turns: one that is clipped by the slate then weighs as many clips.
    Raises ConfigError where the ranker has no such matrix that is trained, or fewer entries than canaries.
    """
    parameter = dict(ranker.named_parameters()).get(PARAMETER)
    if parameter is None or not parameter.requires_grad:
        raise ConfigError(
            f"Expected a ranker that trains {PARAMETER}, an entry of which each canary owns; audit a run with "
            "model.towers: frozen, model.use_text: true, and model.trainable empty or with query_style."
        )
    looks, words = parameter.shape
    if not 2 <= count <= looks * words:
        raise ConfigError(
            f"Expected --canaries={count} in [2, {looks * words}], the entries of {PARAMETER}; change --canaries."
        )
    entries = np.stack(np.unravel_index(draw.permutation(looks * words)[:count], (looks, words)), axis=1)
    first = len(features)
    slates = [_slate(first + 2 * int(look), int(word), user=USER + row) for row, (look, word) in enumerate(entries)]
    strength = STRENGTH * settings.privacy.max_grad_norm if strength is None else strength
    bundle = settings.privacy.slates_per_user if settings.privacy.unit == "user" else 1
    return CanarySlates(
        features=_reserve(features, looks, words, strength),
        entries=entries,
        slates=slates,
        copies=copies * (1 + np.arange(count) % bundle),
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
        if name == "looks":  # what all canaries would have in common
            values[name] = torch.zeros_like(value)
        elif isinstance(value, Tensor):
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
    """A data set with slates more in one client's training part: another data set by name, with ledgers of its own.

    No canary stands in another's slates, so what holds for the people of `dataset` holds for these.
    """

    synthetic = True

    def __init__(self, dataset: Dataset, client: str, slates: Sequence[Slate]) -> None:
        self._dataset, self._client, self._slates = dataset, client, list(slates)
        self.name, self.version = f"{dataset.name}+canaries", dataset.version
        self.simulation_only, self.epoch_days = dataset.simulation_only, dataset.epoch_days
        self.catalog, self.client_ids = dataset.catalog, dataset.client_ids

    def kind(self, client_id: str) -> Kind:
        return self._dataset.kind(client_id)

    def data_identity(self, client_id: str) -> str:
        return f"canaries/{self._dataset.data_identity(client_id)}"

    def slates(self, client_id: str, split: Split) -> list[Slate]:
        own = self._dataset.slates(client_id, split)
        return own + self._slates if (client_id, split) == (self._client, "train") else own


class CanaryDevices:
    """A registry of canary devices over the catalogue of `dataset`, and nobody else: others would only hide them.

    included: coins bool [m]. A device whose coin says "out" is registered all the same; it holds nothing, or where
    `opposite` the opposite of its canary.
    """

    synthetic = True

    def __init__(self, dataset: Dataset, canaries: CanarySlates, included: np.ndarray, *, opposite: bool) -> None:
        self.name, self.version = f"{dataset.name}+canary-devices", dataset.version
        self.simulation_only, self.epoch_days = dataset.simulation_only, dataset.epoch_days
        self.catalog = dataset.catalog
        self.client_ids: Sequence[str] = [f"canary-{row}" for row in range(len(canaries))]
        self._canaries, self._included, self._opposite = canaries, included, opposite

    def kind(self, client_id: str) -> Kind:
        return "device"

    def data_identity(self, client_id: str) -> str:
        return f"{self.name}/{client_id}"

    def slates(self, client_id: str, split: Split) -> list[Slate]:
        row = self.row(client_id)
        if split != "train":
            return []
        if self._included[row]:
            return self._canaries.unit(row)
        return self._canaries.opposite(row) if self._opposite else []

    def row(self, client_id: str) -> int:
        """The canary of a device."""
        return int(client_id.removeprefix("canary-"))
