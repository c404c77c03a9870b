r"""ApproxNDCG: NDCG with a smooth rank."""

from __future__ import annotations

import torch
from torch import Tensor

from mmrank.errors import ConfigError
from mmrank.losses import Loss, gains, ideal_dcg


def build(*, temperature: float = 0.1) -> Loss:
    """temperature: of the sigmoid that stands for "ranked above", in score units, above 0."""
    if not temperature > 0:
        raise ConfigError(
            f"Expected training.loss.temperature={temperature} to be above 0; set training.loss.temperature."
        )

    def approxndcg(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
        r"""1 - sum_i G_i / log2(1 + pi_i), pi_i = 1 + sum_{j != i} sigmoid((s_j - s_i) / temperature) [batch].

        Qin, Liu and Li 2010, Eq. 11 and 14 (alpha = 1 / temperature); 0 where nothing is relevant.
        """
        gain = gains(relevance, mask)
        ideal = ideal_dcg(gain)
        above = torch.sigmoid((scores.unsqueeze(-2) - scores.unsqueeze(-1)) / temperature)
        above = above * mask.unsqueeze(-2) * (1.0 - torch.eye(scores.shape[-1], device=scores.device))
        rank = 1.0 + above.sum(-1)
        ndcg = (gain / torch.log2(1.0 + rank)).sum(-1) / ideal.clamp(min=1e-12)
        return (1.0 - ndcg) * (ideal > 0)

    return approxndcg
