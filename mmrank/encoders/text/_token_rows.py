"""The public half of the trainable text encoders: texts as hashed token ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from mmrank.encoders.text import _tokens
from mmrank.errors import ConfigError

PADDED = 0


class TokenRows:
    """A trainable text encoder; rows are int32 [length] token ids, 0 where padded. Nothing is fitted.

    The version names the rows alone, so that encoders with the same table and length share a cache.
    """

    trainable = True
    row_dtype = "int32"

    def __init__(self, *, buckets: int, length: int, tower: Callable[..., nn.Module]) -> None:
        self.version = f"ids-1/{_tokens.VERSION}/{buckets}/{length}"
        self.row_shape = (length,)
        self._buckets = buckets
        self._tower = tower

    def fit(self, texts: Sequence[str]) -> Self:
        return self

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        return _tokens.hashed_ids(texts, buckets=self._buckets, length=self.row_shape[0])

    def tower(self, dim: int) -> nn.Module:
        return self._tower(dim=dim)


class TokenEmbedding(nn.Module):
    """[batch, item, length] ids -> ([batch, item, length, width], mask of the same shape less width).

    Padding is masked here, since DP noise moves every row of the table, the padding's too: `padding_idx` alone
    would let it leak into the vectors.
    """

    def __init__(self, buckets: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(buckets, width)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        ids = ids.long()
        mask = (ids != PADDED).to(self.table.weight.dtype)
        return self.table(ids) * mask.unsqueeze(-1), mask


def masked_mean(states: Tensor, mask: Tensor) -> Tensor:
    """Mean of [..., length, width] over the positions where mask [..., length] is 1; zeros where none is."""
    weights = mask.unsqueeze(-1)
    return (states * weights).sum(dim=-2) / weights.sum(dim=-2).clamp(min=1.0)


def check_positive(**settings: int) -> None:
    """Raises ConfigError for a setting of model.text below 1."""
    for name, value in settings.items():
        if value < 1:
            raise ConfigError(f"Expected model.text.{name}={value} of at least 1; set model.text.{name}.")


def sinusoids(length: int, width: int) -> Tensor:
    """[length, width] position codes (Vaswani et al. 2017, section 3.5): no parameter, so nothing to protect."""
    position = torch.arange(length).unsqueeze(1)
    frequency = torch.exp(-torch.arange(0, width, 2) / width * torch.log(torch.tensor(10_000.0)))
    codes = torch.zeros(length, width)
    codes[:, 0::2] = torch.sin(position * frequency)
    codes[:, 1::2] = torch.cos(position * frequency)[:, : width // 2]
    return codes
