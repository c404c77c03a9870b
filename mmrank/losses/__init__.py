"""Ranking losses, one a file: `build(**settings)` gives loss(scores, relevance, mask).

scores, relevance: float [batch, slate], relevance >= 0; mask: bool [batch, slate], False where padded.
Each returns float [batch]: one number a slate, never averaged, since DP-SGD clips one gradient a slate.
A slate with no relevant item has loss 0 and no gradient; padded items change nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def gains(relevance: Tensor, mask: Tensor) -> Tensor:
    """2^relevance - 1 [batch, slate], 0 where padded (Burges et al. 2005)."""
    return (torch.exp2(relevance) - 1.0) * mask


def ideal_dcg(gain: Tensor) -> Tensor:
    """DCG [batch] of the best order, over the whole slate."""
    best = gain.sort(dim=-1, descending=True).values
    return (best * discounts(gain.shape[-1], like=gain)).sum(-1)


def discounts(length: int, *, like: Tensor) -> Tensor:
    """1 / log2(1 + rank) [length], rank from 1."""
    return 1.0 / torch.log2(torch.arange(2, length + 2, dtype=like.dtype, device=like.device))
