r"""LambdaLoss: a pairwise bound on NDCG."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from mmrank.errors import ConfigError
from mmrank.losses import Loss, discounts, gains, ideal_dcg


def build(*, sigma: float = 1.0) -> Loss:
    """sigma: slope of the pairwise logistic, above 0."""
    if not sigma > 0:
        raise ConfigError(f"Expected training.loss.sigma={sigma} to be above 0; set training.loss.sigma.")

    def lambdaloss(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
        r"""NDCG-Loss2 (Wang et al. 2018, Eq. 18): sum over y_i > y_j of

            delta_ij |G_i - G_j| log2(1 + exp(-sigma (s_i - s_j))),
            delta_ij = |1/D(|i - j|) - 1/D(|i - j| + 1)|,  D(r) = log2(1 + r)

        with G = (2^y - 1) / ideal DCG and i, j the ranks by the present scores [batch].
        """
        gain = gains(relevance, mask)
        gain = gain / ideal_dcg(gain).clamp(min=1e-12).unsqueeze(-1)
        order = scores.detach().masked_fill(~mask, -torch.inf).argsort(dim=-1, descending=True, stable=True)
        ordered_scores, ordered_gain = scores.gather(-1, order), gain.gather(-1, order)
        ordered_mask = mask.gather(-1, order)
        length = scores.shape[-1]
        rank = torch.arange(length, device=scores.device)
        apart = (rank[:, None] - rank[None, :]).abs()
        table = discounts(length + 1, like=scores)
        delta = (table[(apart - 1).clamp(min=0)] - table[apart]).abs()
        difference = ordered_gain.unsqueeze(-1) - ordered_gain.unsqueeze(-2)
        pair = (difference > 0) & ordered_mask.unsqueeze(-1) & ordered_mask.unsqueeze(-2)
        logistic = functional.softplus(-sigma * (ordered_scores.unsqueeze(-1) - ordered_scores.unsqueeze(-2)))
        weighted = delta * difference * logistic / torch.log(torch.tensor(2.0, device=scores.device))
        return torch.where(pair, weighted, torch.zeros_like(weighted)).sum((-1, -2))

    return lambdaloss
