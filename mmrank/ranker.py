"""The ranker: encoders -> item, query and user vectors -> one score a candidate.

    score(c) = w . prior(c)                      zero-shot similarities, where the towers are frozen
             + v . (style(history) * style(c))   the same, each direction of style with a weight of its own
             + u . (looks(query) * style(c))     whether it looks as the catalogue does beside those words (both frozen)
             + <M looks(query), style(c)>        the same with directions mixed, text's among text's and pictures' so
             + <query, A c> / sqrt(d)            how the words asked for fit the item
             + <Q words, style(c)>               what the words look like, where the towers are frozen
             + <user(c), B c> / sqrt(d)          how the person's history fits it; 0 without a history
             + b . c + m . match(c)              item quality; price and category against the history
             + k log(1 + position)               while training: what stood higher was seen more (not when ranking)

All but w start at zero: an untrained ranker orders as the prior does, and training begins from there.
Every layer's first axis is the slate, the privacy unit: items are never folded into it. There is no
table of user or item ids: a new person, item or merchant works from the first request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from mmrank import components
from mmrank.errors import ConfigError
from mmrank.features import FeatureTable, image_encoder, text_encoder
from mmrank.randomness import stream_key
from mmrank.settings import ModelSettings
from mmrank.slates import EVENT_TYPES, SlateBatch

PRIOR_WEIGHTS = {"query_text": 1.0, "history_text": 0.5, "history_image": 0.5, "style_text": 1.0, "style_image": 1.0}
"""The zero-shot similarities and what each weighs in the `content` row: public constants."""
PRIOR_START = 5.0
"""Inverse temperature of the prior's softmax before training: cosines differ by a few tenths within a slate."""
EVENT_WEIGHTS = (0.1, 1.0, 1.5, 2.0)
"""Public: what each of EVENT_TYPES says of a liking; a look says little."""
CONFIDENCE = 2.0
"""Public: a history of n purchases' weight counts n / (n + 2 x 2) of a long one."""
GAP_SCALE = math.log1p(365.0)
"""Public: an event one year old has time gap 1."""
FLAGS = 4  # price, and whether price, text and image are there


class Ranker(nn.Module):
    """See the module's docstring; build it with `build_ranker`."""

    def __init__(self, model: ModelSettings) -> None:
        super().__init__()
        dim = model.dim
        self.model = model
        self.text_tower = text_encoder(model).tower(dim) if model.use_text else None
        self.image_tower = image_encoder(model).tower(dim) if model.use_image else None
        self.text_missing = nn.Linear(1, dim, bias=False) if model.use_text else None
        self.image_missing = nn.Linear(1, dim, bias=False) if model.use_image else None
        self.fusion = components.build("mmrank.fusion", model.fusion, dim=dim, meta_width=FLAGS + 2 * model.style_dim)
        self.behaviour: nn.Module | None = None
        if model.use_behaviour:
            event_width = dim + len(EVENT_TYPES) + 1
            self.behaviour = components.build(
                "mmrank.encoders.behaviour", model.behaviour, dim=dim, event_width=event_width
            )
            self.user_head = _zero_linear(dim, dim)
            self.match = _zero_linear(2, 1)
            self.style = _zero_linear(2 * model.style_dim, 1)
        self.position = _zero_linear(1, 1)
        if model.use_text:
            self.query_head = _zero_linear(dim, dim)
            if model.towers == "frozen":
                self.query_style = _zero_linear(model.feature_dim, 2 * model.style_dim)
        self.prior: nn.Linear | None = None
        if model.content_prior and model.towers == "frozen":
            self.prior = nn.Linear(len(PRIOR_WEIGHTS), 1, bias=False)
            with torch.no_grad():
                self.prior.weight.copy_(PRIOR_START * torch.tensor([list(PRIOR_WEIGHTS.values())]))
        self.quality = _zero_linear(dim, 1)
        self.looks: nn.Linear | None = None
        if model.with_looks:
            self.looks = _zero_linear(2 * model.style_dim, 1)
            self.mixed_looks = nn.ModuleDict(
                {half: _zero_linear(model.style_dim, model.style_dim) for half in ("text", "image")}
            )

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Scores [batch, slate] of the tensors that `gather` makes; a padded candidate's score means nothing."""
        length = inputs["prior"].shape[1]
        text = self.text_tower(inputs["text"]) if self.text_tower is not None else None
        items = self.item_vectors(
            text=text[:, 1:] if text is not None else None,
            image=self.image_tower(inputs["image"]) if self.image_tower is not None else None,
            meta=inputs["meta"],
        )
        query = text[:, 0] * inputs["has_query"] if text is not None else None
        return self.score(items[:, :length], items[:, length:], query, inputs)

    def item_vectors(self, *, text: Tensor | None, image: Tensor | None, meta: Tensor) -> Tensor:
        """Fused vectors [batch, item, dim] of tower outputs [batch, item, dim] and `gather`'s meta."""
        has_text, has_image = meta[..., 2:3], meta[..., 3:4]
        if text is not None and self.text_missing is not None:
            text = text * has_text + self.text_missing(1.0 - has_text)
        if image is not None and self.image_missing is not None:
            image = image * has_image + self.image_missing(1.0 - has_image)
        return self.fusion(text, image, meta)

    def score(self, items: Tensor, events: Tensor, query: Tensor | None, inputs: Mapping[str, Tensor]) -> Tensor:
        """Scores [batch, slate] of candidate vectors [batch, slate, dim].

        events: item vectors [batch, history, dim] of the history. query: [batch, dim].
        `inputs` needs text, meta, prior, match, style, looks, event_type, gap and history_mask as `gather` makes them.
        """
        scale = 1.0 / math.sqrt(items.shape[-1])
        style = inputs["meta"][:, : items.shape[1], FLAGS:]
        scores = self.quality(items).squeeze(-1)
        if self.prior is not None:
            scores = scores + self.prior(inputs["prior"]).squeeze(-1)
        if query is not None:
            scores = scores + scale * (self.query_head(items) * query.unsqueeze(1)).sum(-1)
            if self.model.towers == "frozen":
                wanted = self.query_style(inputs["text"][:, :1])  # [batch, 1, 2 style_dim]; no words, no style
                scores = scores + (wanted * style).sum(-1)
        if self.looks is not None:
            looks = inputs["looks"]
            scores = scores + self.looks(looks * style).squeeze(-1)
            of_text, of_image = looks.chunk(2, dim=-1)
            mixed = torch.cat([self.mixed_looks["text"](of_text), self.mixed_looks["image"](of_image)], dim=-1)
            scores = scores + (mixed * style).sum(-1)
        if self.behaviour is not None:
            mask = inputs["history_mask"]
            events = torch.cat([events, inputs["event_type"], inputs["gap"]], dim=-1)
            user = self.behaviour(events, mask, items)
            scores = scores + scale * (self.user_head(items) * user).sum(-1)
            scores = scores + self.match(inputs["match"]).squeeze(-1)
            scores = scores + self.style(inputs["style"]).squeeze(-1)
        if self.training and self.model.use_position:
            scores = scores + self.position(inputs["position"]).squeeze(-1)
        return scores


def _zero_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    nn.init.zeros_(layer.weight)
    return layer


def build_ranker(model: ModelSettings, *, seed: int) -> Ranker:
    """A new ranker whose weights depend on `seed` alone; it needs no catalogue.

    Only the shared parameters require gradients: those of model.trainable (all where it is empty) without
    model.personal. Raises ConfigError where an encoder that must be trained stands behind frozen towers, or where
    one of these names no parameter.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_key(seed, "ranker") % 2**63)
        ranker = Ranker(model)
    names = [name for name, _ in ranker.named_parameters()]
    for setting, beginnings in (("trainable", model.trainable), ("personal", model.personal)):
        for beginning in beginnings:
            if not any(name.startswith(beginning) for name in names):
                raise ConfigError(
                    f"Expected model.{setting}={beginning!r} to begin the name of a parameter, such as "
                    f"{', '.join(dict.fromkeys(name.partition('.')[0] for name in names))}."
                )
    for name, parameter in ranker.named_parameters():
        if name.startswith(model.personal) or not name.startswith(model.trainable or ("",)):
            parameter.requires_grad_(False)
    return ranker


def parameters_of(ranker: nn.Module) -> dict[str, np.ndarray]:
    """Copies of every trainable parameter, float32, by name."""
    return {
        name: parameter.detach().cpu().numpy().astype(np.float32, copy=True)
        for name, parameter in ranker.named_parameters()
        if parameter.requires_grad
    }


@torch.no_grad()
def load_parameters(ranker: nn.Module, parameters: Mapping[str, np.ndarray]) -> None:
    """Copy `parameters` into the ranker, in place. Raises KeyError or RuntimeError where names or shapes differ."""
    for name, parameter in ranker.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(torch.from_numpy(np.asarray(parameters[name], dtype=np.float32)))


def gather(batch: SlateBatch, features: FeatureTable, model: ModelSettings | None = None) -> dict[str, Tensor]:
    """What the ranker sees of `batch`: each tensor's first axis is the slate, also for no slates at all.

    text [B, 1+L+H, *row] (the query first), image [B, L+H, *row], has_query [B, 1], meta [B, L+H, 4 + 2 style_dim],
    prior [B, L, 5] in the order of PRIOR_WEIGHTS, style [B, L, 2 style_dim], the query's looks [B, 1, 2 style_dim]
    where the ranker has them, match [B, L, 2], position [B, L, 1], event_type [B, H, 4] one-hot, gap [B, H, 1] and
    history_mask float [B, H].
    `model` switches single features off; None leaves all on.
    """
    model = model or ModelSettings()
    length = batch.candidates.shape[1]
    index = torch.cat([batch.candidates, batch.history], dim=1)
    there = index >= 0
    index = index.clamp(min=0)
    # one row too many, which the query then takes: text is by far the widest, and is copied once
    text = _rows(features.text, nn.functional.pad(index, (1, 0)))
    text[:, 0] = features.query_rows(batch.query)
    image = _rows(features.image, index)
    has_text, has_image, has_price = (
        (table[index] & there).float() for table in (features.has_text, features.has_image, features.has_price)
    )
    price = features.price[index] * has_price
    meta = torch.zeros(*index.shape, FLAGS + features.style.shape[1])
    for column, flag in enumerate((price, has_price, has_text, has_image)):
        if model.use_price or column > 1:
            meta[..., column] = flag
    style = torch.mul(_rows(features.style, index), there.unsqueeze(-1), out=meta[..., FLAGS:])
    mask = batch.history_mask.float()
    event_type = nn.functional.one_hot(batch.event_type, len(EVENT_TYPES)).float() * mask.unsqueeze(-1)
    weight = event_type @ torch.tensor(EVENT_WEIGHTS) if model.use_event_type else mask
    gap = (torch.log1p(batch.age_days.clamp(min=0.0)) / GAP_SCALE * mask).unsqueeze(-1)
    has_query = torch.tensor([[float(bool(words))] for words in batch.query]).reshape(len(batch), 1)
    liked = style[:, :length] * _liked(style[:, length:], weight).unsqueeze(1)
    liked = liked * float(model.use_behaviour)
    prior = torch.zeros(len(batch), length, len(PRIOR_WEIGHTS))
    if model.towers == "frozen":  # an absent text or picture is a row of zeros: similar to nothing
        prior[..., 0] = _products(text[:, 1 : 1 + length], text[:, 0])
        if model.use_behaviour:
            prior[..., 1] = _products(text[:, 1 : 1 + length], _liked(text[:, 1 + length :], weight))
            prior[..., 2] = _products(image[:, :length], _liked(image[:, length:], weight))
    prior[..., 3:] = liked.unflatten(-1, (2, -1)).sum(-1)
    looks = {}
    if model.with_looks:  # slate by slate, as `_products`: one matrix product would round by how many slates there are
        looks["looks"] = torch.bmm(text[:, :1], features.looks.expand(len(batch), -1, -1))
    return looks | {
        "text": text,
        "image": image,
        "has_query": has_query,
        "meta": meta,
        "prior": prior,
        "style": liked,
        "match": _match(features.category[index], price, has_price, mask, length, model),
        "position": torch.log1p(batch.position.clamp(min=0).float()).unsqueeze(-1),
        "event_type": event_type if model.use_event_type else torch.zeros_like(event_type),
        "gap": gap if model.use_time_gap else torch.zeros_like(gap),
        "history_mask": mask,
    }


def row_bytes(features: FeatureTable, *, length: int, history: int) -> int:
    """Memory, about, of what `gather` makes of one slate of `length` candidates and `history` events."""
    item = sum(table[0].numel() * table.element_size() for table in (features.text, features.image, features.style))
    return (1 + length + history) * item


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """[*index, *row]: a copy of the table's rows."""
    return table.index_select(0, index.flatten()).view(*index.shape, *table.shape[1:])


def _liked(rows: Tensor, weight: Tensor) -> Tensor:
    """[B, D]: the mean of history rows [B, H, D] by the events' weights [B, H], nearer to 0 for a short history."""
    total = torch.bmm(weight.unsqueeze(1), rows).squeeze(1)
    return total / (weight.sum(1, keepdim=True) + 2 * CONFIDENCE)


def _products(rows: Tensor, vector: Tensor) -> Tensor:
    """[B, L]: inner products of rows [B, L, D] with one vector [B, D] each."""
    return torch.bmm(rows, vector.unsqueeze(2)).squeeze(2)


def _match(
    category: Tensor, price: Tensor, has_price: Tensor, mask: Tensor, length: int, model: ModelSettings
) -> Tensor:
    """[B, L, 2]: share of the history in the candidate's category; how far its price is from the history's mean."""
    count = mask.sum(1, keepdim=True)
    same = (category[:, :length, None] == category[:, None, length:]).float() * mask[:, None]
    share = same.sum(-1) / count.clamp(min=1.0)
    priced = mask * has_price[:, length:]
    mean = (price[:, length:] * priced).sum(1, keepdim=True) / priced.sum(1, keepdim=True).clamp(min=1.0)
    known = has_price[:, :length] * (priced.sum(1, keepdim=True) > 0)
    distance = (price[:, :length] - mean).abs() * known
    return torch.stack([share * float(model.use_category), distance * float(model.use_price)], dim=-1)
