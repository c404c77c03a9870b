"""Zero-shot similarity of frozen encoders: what the ranker knows before anybody's behaviour trained it."""

from __future__ import annotations

import numpy as np
import torch

from mmrank.ranker import gather
from simulations.evaluation import Chunk, Scorer
from simulations.rows import RowContext, RowSkippedError


def build(context: RowContext) -> Scorer:
    """The ranker's prior features with equal weights: cosine of query and title, of history and title, of history and
    picture. They are the ranker's own, so an untrained ranker orders exactly so.

    Raises RowSkippedError for towers that are trained end to end, which have no zero-shot similarity.
    """
    model = context.settings.model
    if model.towers != "frozen":
        raise RowSkippedError("end-to-end towers have no zero-shot similarity; set model.towers: frozen")

    @torch.inference_mode()
    def score(chunk: Chunk) -> np.ndarray:
        return gather(chunk.batch, context.features, model)["prior"].sum(dim=-1).numpy()

    return score
