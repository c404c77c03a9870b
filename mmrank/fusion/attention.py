"""Multi-head attention among an item's sides: text, picture and meta attend to one another."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mmrank.errors import ConfigError


class AttentionFusion(nn.Module):
    """Self-attention over the three sides as tokens, residual, layer norm, mean (Vaswani et al. 2017, 3.2).

    Made of plain Linears on [batch, item, side, dim]: torch's own attention module hides its
    weights from per-unit gradients.
    """

    def __init__(self, *, dim: int, meta_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.meta = nn.Linear(meta_width, dim)
        self.query = nn.Linear(dim, dim, bias=False)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(-1, (self.heads, -1)).transpose(-2, -3)  # [batch, item, head, side, dim / heads]

    def forward(self, text: Tensor | None, image: Tensor | None, meta: Tensor) -> Tensor:
        """[batch, item, dim]; see the package."""
        sides = [side for side in (text, image) if side is not None]
        tokens = torch.stack([*sides, self.meta(meta)], dim=-2)
        query, key, value = (self._split(layer(tokens)) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1)
        mixed = (weights @ value).transpose(-2, -3).flatten(-2)
        return self.norm(tokens + self.out(mixed)).mean(dim=-2)


def build(*, dim: int, meta_width: int, heads: int = 4) -> nn.Module:
    """heads: attention heads; must divide dim."""
    if heads < 1 or dim % heads:
        raise ConfigError(f"Expected model.fusion.heads={heads} to divide model.dim={dim}; set model.fusion.heads.")
    return AttentionFusion(dim=dim, meta_width=meta_width, heads=heads)
