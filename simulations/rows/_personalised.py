"""The federation's model with each client's own parts fitted over it: what privacy does not forbid at home."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from client.personal import personalised
from mmrank.randomness import numpy_generator
from mmrank.ranker import Ranker, build_ranker
from mmrank.slates import collate
from simulations.evaluation import Scorer
from simulations.rows import RowContext
from simulations.rows._ranker import scorer_by_client


def scorer(context: RowContext, parameters: Mapping[str, np.ndarray]) -> Scorer:
    """Ranks each client's slates with its own parts, fitted once for evaluation.local_only_steps steps."""
    settings, ranker = context.settings, build_ranker(context.settings.model, seed=context.seed)
    own: dict[str, Ranker] = {}

    def of(client: str) -> Ranker:
        if client not in own:
            slates = context.dataset.slates(client, "train")
            own[client] = personalised(
                ranker,
                parameters,
                collate(
                    slates,
                    history_length=settings.model.history_length,
                    slate_length=settings.training.slate_length,
                ),
                context.features,
                training=settings.training,
                steps=settings.evaluation.local_only_steps,
                shuffle=numpy_generator(context.seed, "personal", client),
                device=context.device,
            )
            context.report("personalised", len(own), len(context.evaluator.client_ids("test")))
        return own[client]

    return scorer_by_client(of, context.features, device=context.device)
