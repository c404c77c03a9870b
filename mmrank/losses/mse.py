"""Pointwise squared error: scores as estimates of relevance."""

from __future__ import annotations

from torch import Tensor

from mmrank.losses import Loss


def squared_error(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """Mean over the slate's items of (score - relevance)^2 [batch]; 0 where nothing is relevant."""
    error = (scores - relevance).square() * mask
    return error.sum(-1) / mask.sum(-1).clamp(min=1) * ((relevance * mask).sum(-1) > 0)


def build() -> Loss:
    """No settings."""
    return squared_error
