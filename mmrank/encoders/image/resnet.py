"""torchvision's ResNet-18, trained with the ranker, made fit for per-unit gradients.

GroupNorm stands where BatchNorm was, nothing works in place, and the classifier is a projection.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from mmrank.encoders.image._pixel_rows import PixelRows
from mmrank.errors import ConfigError

_LAYERS = (2, 2, 2, 2)
_GROUPS = 32


class Block(BasicBlock):
    """BasicBlock (He et al. 2016, figure 2) without an in-place sum, which per-unit gradients can't follow."""

    def forward(self, x: Tensor) -> Tensor:
        maps = nn.functional.relu(self.bn1(self.conv1(x)))
        maps = self.bn2(self.conv2(maps))
        kept = x if self.downsample is None else self.downsample(x)
        return nn.functional.relu(maps + kept)


def _group_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(_GROUPS, channels)


def _network(*, dim: int, weights: Path | None) -> nn.Module:
    network = ResNet(Block, list(_LAYERS), norm_layer=_group_norm)
    network.fc = nn.Linear(network.fc.in_features, dim)
    for module in [module for module in network.modules() if hasattr(module, "relu")]:
        module.relu = nn.ReLU(inplace=False)
    if weights is not None:
        _load(network, weights)
    return network


def _load(network: nn.Module, path: Path) -> None:
    """Convolutions and norms' scales of a ResNet-18's state; the classifier and BatchNorm's statistics are left."""
    stored = torch.load(path, map_location="cpu", weights_only=True)
    wanted = {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    for name, value in wanted.items():
        if name not in stored or stored[name].shape != value.shape:
            raise ConfigError(
                f"Expected {path} to hold {name} of shape {list(value.shape)}, as torchvision's resnet18 does; "
                "set model.image.weights to such a state dictionary, or leave it out."
            )
    network.load_state_dict({name: stored[name] for name in wanted}, strict=False)


def build(*, size: int = 32, weights: str | None = None) -> PixelRows:
    """size: side in pixels. weights: path of a state dictionary of torchvision's resnet18 to start from; read as
    tensors only, never unpickled. Public weights alone: they are the same on every client.

    Raises ConfigError where the size is out of bounds or the weights are absent or of another network.
    """
    path = None if weights is None else Path(weights).expanduser()
    if path is not None and not path.is_file():
        raise ConfigError(f"Expected a file at model.image.weights={weights}; set it to a state dictionary's path.")

    network = partial(_network, weights=path)
    return PixelRows(size=size, network=network)
