"""A ranker with given parameters as a row: content, unpersonalised, centralised, federated, federated_dp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch

from mmrank.features import FeatureTable
from mmrank.ranker import Ranker, gather, load_parameters
from mmrank.slates import SlateBatch
from simulations.evaluation import Chunk, Scorer


def ranker_scorer(
    ranker: Ranker,
    features: FeatureTable,
    parameters: Mapping[str, np.ndarray],
    *,
    empty_history: bool = False,
    device: str | torch.device = "cpu",
) -> Scorer:
    """Scores by `ranker` with `parameters`, which are loaded at every call, so one ranker serves many rows.

    empty_history: every person is a stranger, which gives the unpersonalised row.
    """

    def score(chunk: Chunk) -> np.ndarray:
        load_parameters(ranker, parameters)
        return ranker_scores(ranker, features, chunk.batch, empty_history=empty_history, device=device)

    return score


def scorer_by_client(
    own: Callable[[str], Ranker], features: FeatureTable, *, device: str | torch.device = "cpu"
) -> Scorer:
    """Scores each client's slates by `own(client)`, which may be one ranker given other parameters each time."""

    def score(chunk: Chunk) -> np.ndarray:
        scores = np.zeros(chunk.batch.candidates.shape, np.float32)
        owners = np.array(chunk.clients)
        for client in dict.fromkeys(chunk.clients):
            rows = np.flatnonzero(owners == client)
            scores[rows] = ranker_scores(own(client), features, chunk.batch.select(rows), device=device)
        return scores

    return score


@torch.inference_mode()
def ranker_scores(
    ranker: Ranker,
    features: FeatureTable,
    batch: SlateBatch,
    *,
    empty_history: bool = False,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """float32 [B, L] with the parameters that the ranker has."""
    inputs = gather(without_history(batch) if empty_history else batch, features, ranker.model)
    was_training = ranker.training
    ranker.to(device).eval()
    scores = ranker({name: tensor.to(device) for name, tensor in inputs.items()})
    ranker.train(was_training)
    return scores.cpu().numpy()


def without_history(batch: SlateBatch) -> SlateBatch:
    """The same slates as strangers would see them; one place of padding stays, so no layer meets an empty axis."""
    size = len(batch)
    return replace(
        batch,
        history=torch.full((size, 1), -1),
        history_mask=torch.zeros((size, 1), dtype=torch.bool),
        event_type=torch.zeros((size, 1), dtype=torch.int64),
        age_days=torch.zeros((size, 1)),
    )
