"""Measures of one client's slates, each by itself: what a release sums and noises."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from mmrank.features import FeatureTable
from mmrank.metrics import METRICS, slate_metrics
from mmrank.ranker import Ranker, gather
from mmrank.slates import Slate, collate


@torch.inference_mode()
def slate_values(
    ranker: Ranker, features: FeatureTable, slates: Sequence[Slate], *, device: str | torch.device = "cpu"
) -> dict[str, np.ndarray]:
    """Each of METRICS, float64 [slates], with the parameters that the ranker has; PRIVATE.

    One slate at a time: in a batch its scores are rounded in another way beside other slates, and where two of them
    nearly tie, a neighbour would move its measures by more than itself.
    """
    was_training = ranker.training
    ranker.to(device).eval()
    rows = []
    for slate in slates:
        batch = collate([slate], history_length=ranker.model.history_length)
        inputs = gather(batch, features, ranker.model)
        scores = ranker({name: tensor.to(device) for name, tensor in inputs.items()}).cpu().numpy()
        found = slate_metrics(scores, batch.relevance.numpy(), batch.candidate_mask.numpy())
        rows.append([found[name][0] for name in METRICS])
    ranker.train(was_training)
    table = np.array(rows, np.float64).reshape(-1, len(METRICS))
    return {name: table[:, column] for column, name in enumerate(METRICS)}
