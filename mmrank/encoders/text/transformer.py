"""A small Transformer encoder over token ids, trained with the ranker (Vaswani et al. 2017, pre-norm).

Attention is written from Linear layers: nn.MultiheadAttention has no per-unit gradient under Opacus. No dropout:
a random mask for each unit would be one more thing to repeat exactly.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from mmrank.encoders.text._token_rows import TokenEmbedding, TokenRows, check_positive, masked_mean, sinusoids
from mmrank.errors import ConfigError


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)), on [batch, item, length, width]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # softmax cancels it: it would only collect noise
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = states + self.out(self._attend(self.attention_norm(states), mask))
        return states + self.down(nn.functional.gelu(self.up(self.mlp_norm(states))))

    def _attend(self, states: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (self._split(layer(states)) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5  # [..., head, length, length]
        # finite, so that a text without a word gives an even average and no NaN; its mean is masked afterwards
        scores = scores + (mask[..., None, None, :] - 1.0) * 1e4
        mixed = torch.softmax(scores, dim=-1) @ value
        return mixed.transpose(-2, -3).flatten(-2)

    def _split(self, states: Tensor) -> Tensor:
        """[..., length, width] -> [..., head, length, width / head]"""
        return states.unflatten(-1, (self.heads, -1)).transpose(-2, -3)


class Transformer(nn.Module):
    """[batch, item, length] token ids -> [batch, item, dim]: mean of the last states over the words."""

    codes: Tensor

    def __init__(self, *, buckets: int, length: int, width: int, heads: int, layers: int, dim: int) -> None:
        super().__init__()
        self.embedding = TokenEmbedding(buckets, width)
        self.register_buffer("codes", sinusoids(length, width), persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, dim)

    def forward(self, rows: Tensor) -> Tensor:
        embedded, mask = self.embedding(rows)
        states = embedded + self.codes
        for block in self.blocks:
            states = block(states, mask)
        return self.head(masked_mean(self.norm(states), mask))


def build(*, buckets: int = 2048, length: int = 16, width: int = 32, heads: int = 4, layers: int = 2) -> TokenRows:
    """buckets: rows of the embedding table, into which words are hashed. length: words of a text that are read.

    width: of every state, a multiple of heads. Raises ConfigError where one is out of bounds.
    """
    check_positive(length=length, width=width, heads=heads, layers=layers, buckets=buckets - 1)
    if width % heads:
        raise ConfigError(f"Expected model.text.width={width} to be a multiple of heads={heads}; set model.text.width.")

    tower = partial(Transformer, buckets=buckets, length=length, width=width, heads=heads, layers=layers)
    return TokenRows(buckets=buckets, length=length, tower=tower)
