"""Candidates attend to the events: what the person did with things like this one."""

from __future__ import annotations

import math

from torch import Tensor, nn

from mmrank.encoders.behaviour import some_history
from mmrank.errors import ConfigError


class TargetAttention(nn.Module):
    """Multi-head attention, each candidate a query over the history (Zhou et al. 2018, DIN, with softmax weights)."""

    def __init__(self, *, dim: int, event_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(event_width, dim, bias=False)
        self.value = nn.Linear(event_width, dim, bias=False)

    def _split(self, vectors: Tensor) -> Tensor:
        return vectors.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [batch, head, sequence, dim / heads]

    def forward(self, events: Tensor, mask: Tensor, candidates: Tensor) -> Tensor:
        """[batch, slate, dim]; see the package."""
        query, key, value = (
            self._split(self.query(candidates)),
            self._split(self.key(events)),
            self._split(self.value(events)),
        )
        logits = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
        # A large negative number, not -inf: a wholly padded row stays finite and is zeroed below.
        weights = (logits + (mask[:, None, None] - 1.0) * 1e9).softmax(-1)
        return (weights @ value).transpose(1, 2).flatten(-2) * some_history(mask)


def build(*, dim: int, event_width: int, heads: int = 4) -> nn.Module:
    """heads: attention heads; must divide dim."""
    if heads < 1 or dim % heads:
        raise ConfigError(
            f"Expected model.behaviour.heads={heads} to divide model.dim={dim}; set model.behaviour.heads."
        )
    return TargetAttention(dim=dim, event_width=event_width, heads=heads)
