"""Concatenate the sides and mix them by one layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Concatenation(nn.Module):
    """One linear layer over [text | image | meta]; an absent side stands as zeros."""

    def __init__(self, *, dim: int, meta_width: int) -> None:
        super().__init__()
        self.dim = dim
        self.mix = nn.Linear(2 * dim + meta_width, dim)

    def forward(self, text: Tensor | None, image: Tensor | None, meta: Tensor) -> Tensor:
        """[batch, item, dim]; see the package."""
        absent = meta.new_zeros(*meta.shape[:-1], self.dim)
        sides = [text if text is not None else absent, image if image is not None else absent, meta]
        return self.mix(torch.cat(sides, dim=-1))


def build(*, dim: int, meta_width: int) -> nn.Module:
    """The layer; dim: width of every vector."""
    return Concatenation(dim=dim, meta_width=meta_width)
