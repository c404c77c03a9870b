"""Personal parts: fitted at home over the finished shared part, without noise, and never sent.

A head that is trained without privacy while the shared part is in training would show in the shared part's next update,
and void its epsilon. Here the shared part is frozen first: no federation trains `model.personal`, a request or a
reply holds none of it, and what is fitted lives in a copy that no round sees.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping

import numpy as np
import torch

from client.training import fit
from mmrank.errors import ConfigError
from mmrank.features import FeatureTable
from mmrank.ranker import Ranker, load_parameters
from mmrank.settings import TrainingSettings
from mmrank.slates import SlateBatch


def personalised(
    ranker: Ranker,
    parameters: Mapping[str, np.ndarray],
    batch: SlateBatch,
    features: FeatureTable,
    *,
    training: TrainingSettings,
    steps: int,
    shuffle: np.random.Generator,
    device: torch.device | str = "cpu",
) -> Ranker:
    """A copy of `ranker` at the shared `parameters`, its personal parts fitted on the client's slates. LOCAL.

    A client without slates keeps them as they began. Raises ConfigError where model.personal names nothing.
    """
    own = ranker.model.personal
    if not own:
        raise ConfigError("Expected model.personal to name what a client fits for itself, such as [user_head].")
    mine = copy.deepcopy(ranker).to(device)
    load_parameters(mine, parameters)
    for name, parameter in mine.named_parameters():
        parameter.requires_grad_(name.startswith(own))
    fit(mine, batch, features, training=training, steps=steps, shuffle=shuffle, device=device)
    return mine.eval()
