"""A trained model's private score: the clipped, noised sum of its measures over validation slates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from client.datasets import Dataset
from mmrank.errors import ConfigError
from mmrank.features import FeatureTable
from mmrank.metrics import METRICS, slate_metrics
from mmrank.privacy.metrics_release import MetricRelease
from mmrank.privacy.noise import Noise
from mmrank.privacy.tuning import View
from mmrank.randomness import numpy_generator
from mmrank.ranker import Ranker, build_ranker, load_parameters
from mmrank.settings import Settings
from mmrank.slates import Slate, collate
from simulations._stage import Shared
from simulations.rows._ranker import ranker_scores


def measured_clients(settings: Settings, dataset: Dataset) -> list[str]:
    """evaluation.clients of the public registry, by the seed: whether a client has slates does not move the choice."""
    ids = dataset.client_ids
    order = numpy_generator(settings.seed, "private-search", "clients").permutation(len(ids))
    return [ids[row] for row in order[: settings.evaluation.clients].tolist()]


def private_score(
    settings: Settings,
    parameters: Mapping[str, np.ndarray],
    *,
    shared: Shared,
    base: Settings,
    release: MetricRelease,
    view: View,
    noise: Noise,
) -> tuple[np.ndarray, int]:
    """(noised sum, float [release.length]; of how many releases): one noise on the sum over all clients, or, where the
    server looks on, one of each client's own.

    shared: what the trial of `settings` ran on. All validation slates of the clients are in it, the same clients for
    every trial: a sample of a client's slates would move with their number.
    """
    if shared.dataset is None or shared.features is None:
        raise ConfigError("Expected the data set and features that the trial ran on; run it with these Shared.")
    dataset, features = shared.dataset[1], shared.features[1]
    ranker = build_ranker(settings.model, seed=settings.seed).eval()
    load_parameters(ranker, parameters)

    def total(client: str) -> np.ndarray:
        slates = dataset.slates(client, "validation")
        owner = np.array([slate.user for slate in slates], np.int64)
        return release.total(slate_values(ranker, features, slates), owner)

    totals = [total(client) for client in measured_clients(base, dataset)]
    if view == "server":
        return np.stack([release.noised(part, noise) for part in totals]).sum(axis=0, dtype=np.float64), len(totals)
    return release.noised(np.stack(totals).sum(axis=0), noise), 1


@torch.inference_mode()
def slate_values(ranker: Ranker, features: FeatureTable, slates: Sequence[Slate]) -> dict[str, np.ndarray]:
    """Each of METRICS, float64 [slates]; PRIVATE. One slate at a time: in a batch its scores are rounded in another way
    beside other slates, and where two of them nearly tie, a neighbour would move its measures by more than itself.
    """
    rows = []
    for slate in slates:
        batch = collate([slate], history_length=ranker.model.history_length)
        scores = ranker_scores(ranker, features, batch)
        found = slate_metrics(scores, batch.relevance.numpy(), batch.candidate_mask.numpy())
        rows.append([found[name][0] for name in METRICS])
    table = np.array(rows, np.float64).reshape(-1, len(METRICS))
    return {name: table[:, column] for column, name in enumerate(METRICS)}
