"""Pointwise binary cross-entropy: each item relevant or not."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from mmrank.losses import Loss


def binary_cross_entropy(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """Mean over the slate's items of the logistic loss of (relevance > 0), in nats [batch]; 0 where nothing is."""
    label = (relevance > 0).to(scores.dtype)
    loss = functional.binary_cross_entropy_with_logits(scores, label, reduction="none") * mask
    return loss.sum(-1) / mask.sum(-1).clamp(min=1) * ((label * mask).sum(-1) > 0)


def build() -> Loss:
    """No settings."""
    return binary_cross_entropy
