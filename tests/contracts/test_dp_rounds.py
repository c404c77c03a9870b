"""At stake: the promise of DP-SGD holds for every ranker that can be put together, a new part from the day it arrives.

One private round is trained with each encoder, fusion, loss and optimiser. Without one of its slates, under the same
noise, the model of a step differs by no more than a clipped slate.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.training import local_update
from mmrank import components
from mmrank.features import FeatureTable, build_features
from mmrank.privacy.dp_sgd import DpSgd
from mmrank.privacy.noise import SeededNoise
from mmrank.ranker import build_ranker, parameters_of
from mmrank.settings import ModelSettings, TrainingSettings
from mmrank.slates import collate
from tests.contracts.test_encoders import EVERY, NEEDS, SMALL
from tests.toys import toy_catalog, toy_model, toy_slates

SLATES = collate(toy_slates(6), history_length=6, slate_length=8)
CLIP, DENOMINATOR = 0.5, 4.0
LOSSES = components.available("mmrank.losses")
OTHERS = [
    *(("behaviour", name) for name in components.available("mmrank.encoders.behaviour")),
    *(("fusion", name) for name in components.available("mmrank.fusion")),
]


def settings_with(side: str, name: str) -> ModelSettings:
    """A small ranker with that part; whoever must be trained is trained end to end, beside a small other side."""
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"{name} needs the extra `encoders`")
    spec = {"name": name, **SMALL.get(name, {})}
    spec.pop("feature_dim", None)
    if side not in ("text", "image"):
        return toy_model(**{side: spec})
    trained = components.build(f"mmrank.encoders.{side}", spec).trainable
    return toy_model(**{side: spec}, towers="end_to_end" if trained else "frozen")


def one_step(
    model: ModelSettings, features: FeatureTable, slates: int, *, training: TrainingSettings, noise_multiplier: float
) -> np.ndarray:
    """What one client's round of one step, over the first `slates` of SLATES, adds to the model."""
    privacy = DpSgd(
        sampling_rate=1.0,
        noise_multiplier=noise_multiplier,
        max_grad_norm=CLIP,
        expected_batch_size=DENOMINATOR,
        steps=1,
        grad_sample="opacus" if model.towers == "frozen" else "vmap",
        micro_batch_size=4,
    )
    ranker = build_ranker(model, seed=0)
    update = local_update(
        ranker,
        parameters_of(ranker),
        SLATES.select(range(slates)),
        features,
        training=training,
        privacy=privacy,
        noise=SeededNoise(0, "contract"),
        shuffle=np.random.default_rng(0),
        steps=1,
    )
    return np.concatenate([update[name].ravel().astype(np.float64) for name in sorted(update)])


def check(model: ModelSettings, folder: Any, **changes: Any) -> None:
    """One round with noise is finite and moves the numbers; the bound holds, and is not zero, for the last slate."""
    features = build_features(toy_catalog(), model, cache_dir=folder)
    training = TrainingSettings(
        **{"optimizer": "sgd", "learning_rate": 1.0, "local_steps": 1, "slate_length": 8, **changes}
    )
    all_of_them = one_step(model, features, len(SLATES), training=training, noise_multiplier=1.0)
    assert np.isfinite(all_of_them).all()
    assert (all_of_them != 0).mean() > 0.9  # on the grid of released sums a few are 0
    if training.optimizer == "sgd":
        # little noise: the grid that sums are rounded to is then far finer than a slate
        with_it, without = (
            one_step(model, features, len(SLATES) - fewer, training=training, noise_multiplier=1e-6) for fewer in (0, 1)
        )
        difference = np.linalg.norm(with_it - without)
        assert 0 < difference <= CLIP / DENOMINATOR * (1 + 1e-4)


@pytest.mark.parametrize(("side", "name"), EVERY)
def test_one_private_round_with_every_encoder(side: str, name: str, tmp_path: Any) -> None:
    check(settings_with(side, name), tmp_path)


@pytest.mark.parametrize(("part", "name"), OTHERS)
def test_one_private_round_with_every_behaviour_encoder_and_fusion(part: str, name: str, tmp_path: Any) -> None:
    check(settings_with(part, name), tmp_path)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_private_round_with_every_loss_and_optimiser(name: str, optimizer: str, tmp_path: Any) -> None:
    check(toy_model(), tmp_path, loss={"name": name}, optimizer=optimizer)
