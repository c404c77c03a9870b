"""How long slates' and people's gradients are at the start, and how much of a clip the mean of clipped ones fills.

    python benchmarks/gradients.py simulations/configs/marketplace-merchants.yaml --set dataset.people_per_merchant=60

Of the first merchant's train slates. What a step learns is the mean over everybody, and its noise is as long as the
clip is: the share of the clip that the mean of clipped gradients has in the direction of the mean is signal over noise.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from _asked import settings_asked
from torch import Tensor

from client.training import _inputs, prepare
from client.workspace import Workspace, make_workspace
from mmrank.privacy.per_unit import padded

CLIPS = (0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
BUNDLES = (8, 16, 32)


def slate_gradients(workspace: Workspace, client: str) -> tuple[dict[str, Tensor], np.ndarray]:
    """(each train slate's gradient at the untrained model, [slates, numbers] by parameter; whose it is, [slates])."""
    settings, batch = workspace.settings, workspace.batch(client, "train")
    gradients = prepare(workspace.ranker, workspace.features, training=settings.training, privacy=workspace.mechanism)
    if gradients is None:
        raise SystemExit("Expected privacy.mechanism: dp_sgd, which takes a gradient of each slate.")
    inputs = _inputs(batch, workspace.features, settings.model, "cpu", passes=0.0, size=gradients.size)
    parts = []
    for start in range(0, len(batch), gradients.size):
        rows = np.arange(start, min(start + gradients.size, len(batch)))
        found = gradients(padded(inputs(rows), gradients.size))
        parts.append({name: value.flatten(1)[: len(rows)] for name, value in found.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, batch.user.numpy()


def filled(units: Tensor, mean: Tensor) -> str:
    """By clip: the share of it that the mean of clipped units has along `mean`, and the cosine of the two."""
    told = []
    for clip in CLIPS:
        clipped = (units * (clip / units.norm(dim=1, keepdim=True)).clamp(max=1.0)).mean(0)
        along = float(clipped @ mean / mean.norm())
        told.append(f"{clip:g}: {along / clip:.3f} (cosine {along / float(clipped.norm()):.2f})")
    return ", ".join(told)


def main() -> None:
    """Norms by parameter, and what each clip leaves."""
    settings = settings_asked(__doc__)
    with tempfile.TemporaryDirectory() as place:
        workspace = make_workspace(settings, state_dir=Path(place))
        parameters, people = slate_gradients(workspace, workspace.dataset.client_ids[0])
    slates = torch.cat(list(parameters.values()), dim=1)
    mean = slates.mean(0)
    print(f"{len(slates)} slates of {len(np.unique(people))} people; median norm {slates.norm(dim=1).median():.3f}")
    print(f"mean over all slates: norm {mean.norm():.3f}")
    for name, values in parameters.items():
        print(f"  {name}: median {values.norm(dim=1).median():.3f}, of the mean {values.mean(0).norm():.4f}")
    print(f"slates by clip: {filled(slates, mean)}")
    for most in BUNDLES:
        units = torch.stack([slates[people == person][:most].mean(0) for person in np.unique(people)])
        print(f"people of at most {most} slates: median norm {units.norm(dim=1).median():.3f}; {filled(units, mean)}")


if __name__ == "__main__":
    main()
