"""A trained model's private score: the clipped, noised sum of its measures over validation slates."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from client.datasets import Dataset
from client.measures import slate_values
from mmrank.errors import ConfigError
from mmrank.privacy.metrics_release import MetricRelease
from mmrank.privacy.noise import Noise
from mmrank.privacy.tuning import View
from mmrank.randomness import numpy_generator
from mmrank.ranker import build_ranker, load_parameters
from mmrank.settings import Settings
from simulations._stage import Shared


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
