"""One model trained on every client's slates together: what a federation could reach if nobody had to be protected."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from client.training import fit
from mmrank.randomness import numpy_generator
from mmrank.ranker import build_ranker, parameters_of
from mmrank.slates import collate
from simulations.evaluation import Scorer
from simulations.rows import RowContext, RowSkippedError
from simulations.rows._ranker import ranker_scorer

RATES = (0.01, 0.003)
"""Learning rates of AdamW that are tried: the row is tuned apart from what suits a client's few steps."""
PATIENCE = 3
"""Epochs without a better validation before a learning rate is given up."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What was chosen on validation. rate: learning rate; epochs: 0 leaves the model as it began."""

    rate: float
    epochs: int


def build(context: RowContext) -> Scorer:
    """Learning rate and epoch are chosen on validation with the first seed, then kept for the others."""
    ranker = build_ranker(context.settings.model, seed=context.seed)
    return ranker_scorer(ranker, context.features, train(context), device=context.device)


def train(context: RowContext) -> dict[str, np.ndarray]:
    """Parameters after the chosen schedule, from the same start as every trained row of this seed."""
    if "centralised" not in context.choices:
        schedule, parameters = _choose(context)
        context.choices["centralised"] = schedule
        return parameters
    schedule = context.choices["centralised"]
    parameters = _start(context)
    for epoch, after in zip(range(schedule.epochs), _epochs(context, schedule.rate), strict=False):
        parameters = after
        context.report("centralised", epoch + 1, schedule.epochs)
    return parameters


def _choose(context: RowContext) -> tuple[Schedule, dict[str, np.ndarray]]:
    ranker = build_ranker(context.settings.model, seed=context.seed)

    def quality(parameters: dict[str, np.ndarray]) -> float:
        scorer = ranker_scorer(ranker, context.features, parameters, device=context.device)
        return context.evaluator.measure(scorer, "validation").mean()

    most = context.settings.evaluation.centralised_epochs
    parameters = _start(context)
    best = (quality(parameters), Schedule(rate=RATES[0], epochs=0), parameters)
    for trial, rate in enumerate(RATES):
        since = 0
        reached = -math.inf
        for epoch, parameters in zip(range(1, most + 1), _epochs(context, rate), strict=False):
            value = quality(parameters)
            since = 0 if value > reached else since + 1
            reached = max(reached, value)
            if value > best[0]:
                best = (value, Schedule(rate=rate, epochs=epoch), parameters)
            context.report("centralised", trial * most + epoch, len(RATES) * most)
            if since == PATIENCE:
                break
    return best[1], best[2]


def _start(context: RowContext) -> dict[str, np.ndarray]:
    return parameters_of(build_ranker(context.settings.model, seed=context.seed))


def _epochs(context: RowContext, rate: float) -> Iterator[dict[str, np.ndarray]]:
    """The parameters after each epoch, without end; the optimiser starts anew at each."""
    model, training = context.settings.model, context.settings.training
    slates = [slate for _, slate in context.train_slates]
    if not slates:
        raise RowSkippedError("no client has a slate in the training part")
    batch = collate(slates, history_length=model.history_length, slate_length=training.slate_length)
    training = replace(training, optimizer="adamw", learning_rate=rate)
    ranker = build_ranker(model, seed=context.seed)
    shuffle = numpy_generator(context.seed, "centralised-shuffle")
    while True:
        steps = math.ceil(len(batch) / training.batch_size)
        fit(ranker, batch, context.features, training=training, steps=steps, shuffle=shuffle, device=context.device)
        yield parameters_of(ranker)
