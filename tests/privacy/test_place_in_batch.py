"""At stake: a slate moves a step by at most the clip, whatever model the server sends and wherever the slate stands."""

import numpy as np
import pytest

from client.training import local_update
from client.vault import PARAMETER_LIMIT
from mmrank.features import build_features
from mmrank.privacy.dp_sgd import DpSgd
from mmrank.privacy.noise import SeededNoise
from mmrank.ranker import build_ranker, parameters_of
from mmrank.settings import TrainingSettings
from mmrank.slates import collate
from tests.toys import toy_catalog, toy_model, toy_slates

# Histories whose matrices this machine, or another, rounds by a slate's place in the batch; smaller batches are taken.
HISTORIES = (6, 8, 15)

CLIP = 1.0


def hostile(ranker):
    """Parameters within the vault's limit whose scores are rounding errors and nothing else."""
    draw = np.random.default_rng(0)
    sent = {name: np.zeros_like(value) for name, value in parameters_of(ranker).items()}
    sent["text_tower.linear.weight"] = draw.uniform(-900, 900, sent["text_tower.linear.weight"].shape)
    sent["fusion.mix.weight"][:] = draw.uniform(-3, 3, sent["fusion.mix.weight"].shape)
    # two numbers of the person's vector, of which one is three times the other up to rounding
    value = draw.uniform(-330, 330, sent["behaviour.value.weight"].shape[1]).astype(np.float32)
    sent["behaviour.value.weight"][0], sent["behaviour.value.weight"][1] = value, 3 * value
    # and a score that is their difference, times something of the item
    item = draw.uniform(-1, 1, sent["user_head.weight"].shape[1]).astype(np.float32)
    sent["user_head.weight"][0], sent["user_head.weight"][1] = 999 * item, -333 * item
    sent = {name: np.asarray(value, np.float32) for name, value in sent.items()}
    assert max(np.abs(value).max() for value in sent.values()) < PARAMETER_LIMIT
    return sent


def step(batch, features, model, kind):
    ranker = build_ranker(model, seed=0)
    start = hostile(ranker)
    update = local_update(
        ranker,
        start,
        batch,
        features,
        training=TrainingSettings(optimizer="sgd", learning_rate=1.0, local_steps=1, slate_length=8),
        privacy=DpSgd(
            sampling_rate=1.0,
            noise_multiplier=1e-6,  # so small that what is left is the sum of clipped gradients
            max_grad_norm=CLIP,
            expected_batch_size=1.0,
            steps=1,
            grad_sample=kind,
            micro_batch_size=64,
        ),
        noise=SeededNoise(0, "place"),
        shuffle=np.random.default_rng(0),
        steps=1,
    )
    return np.concatenate([update[name].ravel().astype(np.float64) for name in sorted(update)])


@pytest.mark.parametrize("kind", ["opacus", "vmap"])
@pytest.mark.parametrize("history", HISTORIES)
def test_one_slate_taken_away_moves_a_step_by_at_most_the_clip(kind, history, tmp_path):
    model = toy_model(feature_dim=128, style_dim=32, history_length=history)
    features = build_features(toy_catalog(), model, cache_dir=tmp_path)
    batch = collate(toy_slates(60), history_length=history, slate_length=8)
    whole = step(batch, features, model, kind)
    for kept in (range(1, 60), range(59), [row for row in range(60) if row != 30]):
        moved = np.linalg.norm(whole - step(batch.select(list(kept)), features, model, kind))
        assert moved <= CLIP * (1 + 1e-4)
