"""Whether models of one's own, held near their mean, rank better than one model for all, at the same epsilon.

    python benchmarks/mean_regularised.py simulations/configs/marketplace-merchants.yaml --set privacy.epsilon=2

Mean-regularised personalisation (MR-MTL; Liu et al. 2022, "On Privacy and Personalization in Cross-Silo Federated
Learning"): each merchant's model is the mean and an offset of its own, which its private steps move and which shrinks
by `pull` each round, the regulariser's step. Pull 1 is federated averaging, and 0 is training alone. Offsets are made
of released steps: every model is as private as the mean. Validation nDCG@10, each merchant's slates by its own model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from _asked import settings_asked

from client.training import local_update
from client.workspace import Workspace, make_workspace
from mmrank.privacy.noise import SeededNoise
from mmrank.randomness import numpy_generator
from mmrank.ranker import Ranker, build_ranker, load_parameters, parameters_of
from simulations._folder import RunFolder
from simulations._stage import set_up
from simulations.progress import Display
from simulations.rows._ranker import scorer_by_client

Model = dict[str, np.ndarray]
PULLS = (1.0, 0.7, 0.4, 0.2, 0.1, 0.0)


def train(workspace: Workspace, pull: float) -> dict[str, Model]:
    """Each merchant's model after the configuration's rounds, in all of which every merchant takes part."""
    settings = workspace.settings
    aggregation = settings.federation.aggregation
    rate, momentum = aggregation["server_learning_rate"], aggregation["server_momentum"]
    mean = parameters_of(workspace.ranker)
    zero = {name: np.zeros(array.shape) for name, array in mean.items()}
    clients = list(workspace.dataset.client_ids)
    offsets = dict.fromkeys(clients, zero)
    velocity = dict.fromkeys(clients, zero)
    for number in range(settings.federation.rounds):
        for client in clients:
            start = _sum(mean, offsets[client])
            update = local_update(
                workspace.ranker,
                start,
                workspace.batch(client, "train"),
                workspace.features,
                training=settings.training,
                privacy=workspace.mechanism,
                noise=SeededNoise(settings.seed, "mean-regularised", str(pull), client, number),
                shuffle=numpy_generator(settings.seed, "mean-regularised", client, number),
                steps=settings.training.local_steps,
                device=workspace.device,
            )
            velocity[client] = {name: momentum * velocity[client][name] + update[name] for name in update}
        step = {name: np.mean([velocity[client][name] for client in clients], 0) for name in mean}
        mean = _sum(mean, {name: rate * step[name] for name in step})
        offsets = {
            client: {
                name: (1 - pull) * (offsets[client][name] + rate * (velocity[client][name] - step[name]))
                for name in mean
            }
            for client in clients
        }
    return {client: _sum(mean, offsets[client]) for client in clients}


def _sum(model: Mapping[str, np.ndarray], step: Mapping[str, np.ndarray]) -> Model:
    return {name: (model[name] + step[name]).astype(np.float32) for name in model}


def main() -> None:
    """One line a pull."""
    settings = settings_asked(__doc__)
    with tempfile.TemporaryDirectory() as place:
        stage = set_up(settings, RunFolder(Path(place)), Display(None))
        workspace = make_workspace(settings, dataset=stage.dataset, features=stage.features, state_dir=Path(place))
        ranker = build_ranker(settings.model, seed=settings.seed)
        for pull in PULLS:
            models = train(workspace, pull)

            def own(client: str, models: Mapping[str, Model] = models) -> Ranker:
                load_parameters(ranker, models[client])
                return ranker

            found = stage.evaluator.measure(scorer_by_client(own, stage.features), "validation")
            print(f"pull {pull:3} {found.mean():.4f}", flush=True)


if __name__ == "__main__":
    main()
