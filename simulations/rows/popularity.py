"""How often anybody chose the item in the training part, recent choices counting more."""

from __future__ import annotations

import math

import numpy as np

from simulations.evaluation import Chunk, Scorer
from simulations.rows import RowContext, RowSkippedError

HALF_LIVES_DAYS = (math.inf, 90.0, 30.0, 7.0)


def build(context: RowContext) -> Scorer:
    """The half-life is chosen on validation. Counts of other people's behaviour: for simulation only."""
    events = context.train_events
    if not len(events.item):
        raise RowSkippedError("nobody chose anything in the training part")
    age = events.time_days.max() - events.time_days

    def scorer(half_life: float) -> Scorer:
        count = np.bincount(events.item, weights=0.5 ** (age / half_life), minlength=len(context.dataset.catalog))

        def score(chunk: Chunk) -> np.ndarray:
            return count[chunk.batch.candidates.numpy()]  # padded places read some item; nobody looks there

        return score

    if "popularity" not in context.choices:
        context.choices["popularity"], _ = context.evaluator.choose((life, scorer(life)) for life in HALF_LIVES_DAYS)
    return scorer(context.choices["popularity"])
