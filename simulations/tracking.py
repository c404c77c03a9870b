"""Curves for people who keep them elsewhere: TensorBoard, or Weights & Biases offline. Chosen by `tracking`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mmrank.errors import ConfigError
from mmrank.settings import Settings


class Tracker(Protocol):
    """Takes numbers by name and step."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Keep `values`, which belong to `step` (the round)."""
        ...

    def close(self) -> None:
        """Write what is still in memory."""
        ...


class Nothing:
    """`tracking: none`."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        return None

    def close(self) -> None:
        return None


class TensorBoard:
    """Event files in `folder`; a resumed run adds a file, and TensorBoard shows them as one curve."""

    def __init__(self, folder: Path) -> None:
        module = _needed("torch.utils.tensorboard", package="tensorboard", extra="sim", tracking="tensorboard")
        self._writer = module.SummaryWriter(str(folder))

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbOffline:
    """A Weights & Biases run on disk, never sent; `wandb sync` is left to the person."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        module = _needed("wandb", package="wandb", extra="wandb", tracking="wandb_offline")
        folder.mkdir(parents=True, exist_ok=True)
        self._run = module.init(mode="offline", dir=str(folder), project="mmrank", name=name, config=dict(config))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def check_tracking(settings: Settings) -> None:
    """Raise ConfigError now, not after the first round, where the tracker's package is missing."""
    if settings.tracking == "wandb_offline":
        _needed("wandb", package="wandb", extra="wandb", tracking="wandb_offline")
    elif settings.tracking == "tensorboard":
        _needed("tensorboard", package="tensorboard", extra="sim", tracking="tensorboard")


def open_tracker(settings: Settings, folder: Path) -> Tracker:
    """The tracker that `settings.tracking` names, writing under the run's `folder`."""
    if settings.tracking == "tensorboard":
        return TensorBoard(folder / "tensorboard")
    if settings.tracking == "wandb_offline":
        return WandbOffline(folder / "wandb", settings.name, settings.to_dict())
    return Nothing()


def _needed(module: str, *, package: str, extra: str, tracking: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"tracking: {tracking} needs {package}, which is not installed; pip install 'mmrank[{extra}]', "
            "or set tracking: none."
        ) from error
