"""One model a client, trained on that client's slates alone: what a client reaches without a federation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from client.training import fit
from mmrank.randomness import numpy_generator
from mmrank.ranker import Ranker, build_ranker, load_parameters, parameters_of
from mmrank.slates import collate
from simulations.evaluation import Scorer
from simulations.rows import RowContext
from simulations.rows._ranker import scorer_by_client

RATES = (0.01, 0.001)
"""Learning rates of AdamW that are tried."""
STOPS = (0.1, 0.3, 1.0)
"""Where training may stop, as shares of evaluation.local_only_steps."""
CHOOSING_CLIENTS = 50
"""Validation clients that the choice sees: each option is a model a client."""

Parameters = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What was chosen on validation, one for all clients: the learning rate, and a share of the steps."""

    rate: float
    stop: float


def build(context: RowContext) -> Scorer:
    """Each client starts from the common untrained model; a client without training slates stays there.

    Learning rate and steps are chosen on validation with the first seed, then kept for the others.
    """
    if "local_only" not in context.choices:
        options = [
            Schedule(rate=rate, stop=stop) for rate in RATES for stop in reversed(STOPS)
        ]  # longest first: it passes the others
        models: dict[tuple[str, float], list[Parameters]] = {}
        context.choices["local_only"], _ = context.evaluator.choose(
            ((option, _scorer(context, option, models)) for option in options), clients=CHOOSING_CLIENTS
        )
    return _scorer(context, context.choices["local_only"], {})


def _scorer(context: RowContext, schedule: Schedule, models: dict[tuple[str, float], list[Parameters]]) -> Scorer:
    """models: parameters at each of STOPS, by (client, rate), filled as clients are met."""
    ranker = build_ranker(context.settings.model, seed=context.seed)
    start = parameters_of(ranker)
    stop = STOPS.index(schedule.stop)

    def own(client: str) -> Ranker:
        known = models.setdefault((client, schedule.rate), [])
        if len(known) <= stop:
            load_parameters(ranker, start)
            known[:] = _train(context, ranker, client, schedule.rate, stops=stop + 1)
            context.report("local_only", len(models), len(context.evaluator.client_ids("test")))
        load_parameters(ranker, known[stop])
        return ranker

    return scorer_by_client(own, context.features, device=context.device)


def _train(context: RowContext, ranker: Ranker, client: str, rate: float, *, stops: int) -> Iterator[Parameters]:
    """The parameters at the first `stops` of STOPS."""
    settings = context.settings
    slates = context.dataset.slates(client, "train")
    training = replace(settings.training, optimizer="adamw", learning_rate=rate)
    batch = collate(slates, history_length=settings.model.history_length, slate_length=training.slate_length)
    shuffle = numpy_generator(context.seed, "local-only-shuffle", client)
    done = 0
    for share in STOPS[:stops]:
        steps = max(1, round(share * settings.evaluation.local_only_steps)) - done
        fit(ranker, batch, context.features, training=training, steps=steps, shuffle=shuffle, device=context.device)
        done += steps
        yield parameters_of(ranker)
