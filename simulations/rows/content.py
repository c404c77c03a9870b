"""Zero-shot similarity of frozen encoders: what the ranker knows before anybody's behaviour trained it."""

from __future__ import annotations

import numpy as np
import torch

from mmrank.ranker import PRIOR_WEIGHTS, gather
from simulations.evaluation import Chunk, Scorer
from simulations.rows import RowContext, RowSkippedError


def build(context: RowContext) -> Scorer:
    """The ranker's prior features with their public weights: the similarity of query and title, of history and title,
    of history and picture, and of style. They are the ranker's own, so an untrained ranker orders exactly so.

    Raises RowSkippedError for towers that are trained end to end, which have no zero-shot similarity.
    """
    model = context.settings.model
    if model.towers != "frozen":
        raise RowSkippedError("end-to-end towers have no zero-shot similarity; set model.towers: frozen")

    weights = torch.tensor(list(PRIOR_WEIGHTS.values()))

    @torch.inference_mode()
    def score(chunk: Chunk) -> np.ndarray:
        return (gather(chunk.batch, context.features, model)["prior"] @ weights).numpy()

    return score
