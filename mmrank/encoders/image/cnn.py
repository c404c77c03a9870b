"""A small convolutional network trained with the ranker, with GroupNorm: BatchNorm would mix people's data."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from mmrank.encoders.image._pixel_rows import PixelRows
from mmrank.errors import ConfigError

_GROUPS = 4


class Block(nn.Module):
    """Convolution with stride 2, GroupNorm, ReLU: [n, c, s, s] -> [n, out, s / 2, s / 2]."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False)
        self.norm = nn.GroupNorm(_GROUPS, out)

    def forward(self, maps: Tensor) -> Tensor:
        return nn.functional.relu(self.norm(self.convolution(maps)))


class Cnn(nn.Module):
    """[n, 3, size, size] -> [n, dim]; the last maps are averaged over the picture."""

    def __init__(self, *, channels: int, blocks: int, dim: int) -> None:
        super().__init__()
        widths = [3] + [channels * 2**block for block in range(blocks)]
        self.blocks = nn.ModuleList(Block(*pair) for pair in zip(widths, widths[1:], strict=False))
        self.head = nn.Linear(widths[-1], dim)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = pixels
        for block in self.blocks:
            maps = block(maps)
        return self.head(maps.mean(dim=(2, 3)))


def build(*, size: int = 32, channels: int = 16, blocks: int = 3) -> PixelRows:
    """size: side in pixels. channels: of the first block, a multiple of 4; each block doubles them.

    Raises ConfigError where one is out of bounds.
    """
    if channels < _GROUPS or channels % _GROUPS:
        raise ConfigError(f"Expected model.image.channels={channels} to be a multiple of 4; set model.image.channels.")
    if not 1 <= blocks <= 6:
        raise ConfigError(f"Expected model.image.blocks={blocks} in [1, 6]; set model.image.blocks.")

    network = partial(Cnn, channels=channels, blocks=blocks)
    return PixelRows(size=size, network=network)
