r"""Listwise softmax cross-entropy: the default."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrank.losses import Loss, gains


def softmax_cross_entropy(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    r"""-sum_i p_i log softmax(scores)_i in nats, with p proportional to 2^relevance - 1 [batch].

    The top-one cross-entropy of ListNet (Cao et al. 2007, Eq. 3-4) with the labels' shares for p
    (Bruch et al. 2019, "An analysis of the softmax cross entropy loss", Eq. 4).
    """
    target = gains(relevance, mask)
    total = target.sum(-1)
    target = target / total.clamp(min=1e-12).unsqueeze(-1)
    log_probability = torch.log_softmax(scores.masked_fill(~mask, -1e9), dim=-1)
    return -(target * log_probability).sum(-1)


def build() -> Loss:
    """No settings."""
    return softmax_cross_entropy
