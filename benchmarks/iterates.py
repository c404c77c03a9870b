"""Whether an average of a federation's last models ranks better than the last one: it is post-processing, and free.

    python benchmarks/iterates.py simulations/configs/marketplace-merchants.yaml --set privacy.epsilon=2

Validation nDCG@10 of the last model, of the mean of the last so many, and of exponential averages.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from _asked import settings_asked

from client.workspace import make_workspace
from mmrank.ranker import build_ranker
from server.rounds import RoundReport
from simulations._folder import RunFolder
from simulations._stage import set_up
from simulations.config import dump
from simulations.engines import inline
from simulations.progress import Display
from simulations.rows._ranker import ranker_scorer

Model = Mapping[str, np.ndarray]
LAST = (5, 10, 20)
DECAYS = (0.8, 0.9, 0.95)


def averages(models: Sequence[Model]) -> dict[str, Model]:
    """Averages of `models`, oldest first, by what they are called."""
    found: dict[str, Model] = {"last": models[-1]}
    for count in LAST:
        if count <= len(models):
            found[f"mean of the last {count}"] = _weighted(models[-count:], np.full(count, 1 / count))
    for decay in DECAYS:
        weights = (1 - decay) * decay ** np.arange(len(models))[::-1]
        found[f"exponential, {decay}"] = _weighted(models, weights / weights.sum())
    return found


def _weighted(models: Sequence[Model], weights: np.ndarray) -> Model:
    return {
        name: np.tensordot(weights, np.stack([model[name] for model in models]), 1).astype(np.float32)
        for name in models[0]
    }


def main() -> None:
    """One line an average."""
    settings = settings_asked(__doc__)
    models: list[Model] = []

    def keep(report: RoundReport) -> None:
        models.append({name: array.copy() for name, array in report.parameters.items()})

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        stage = set_up(settings, RunFolder(folder), Display(None))
        dump(settings, folder / "config.yaml")
        workspace = make_workspace(settings, dataset=stage.dataset, features=stage.features, state_dir=folder)
        inline.federate(
            settings, config_path=folder / "config.yaml", state_dir=folder, on_round=keep, workspace=workspace
        )
    ranker = build_ranker(settings.model, seed=settings.seed)
    for name, model in averages(models).items():
        value = stage.evaluator.measure(ranker_scorer(ranker, stage.features, model), "validation").mean()
        print(f"{name:24} {value:.4f}", flush=True)


if __name__ == "__main__":
    main()
