"""`load` of a reader, from its `read`: every reader takes the same keys for clients, parts, queries and candidates."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from client.datasets._reading.files import data_root
from client.datasets._reading.findings import Findings
from client.datasets._shaping.dataset import ShapedDataset, shaped
from client.datasets._shaping.settings import Shape, shape_of
from client.datasets._source import Source

GIVEN = ("shape", "findings", "progress", "now_days")
"""What `read` is given by whoever calls it, and no configuration names."""
SHAPE = tuple(item.name for item in dataclasses.fields(Shape))


def loader(read: Callable[..., Source], *, holds: str) -> Callable[..., ShapedDataset]:
    """The `load` of a data set whose module has `read(root, *, shape, findings, progress, now_days, **own) -> Source`.

    holds: what the folder `root` should hold, for the error of one that does not. The settings of the result are root,
    the reader's own, and those of Shape.
    """
    own = [
        parameter
        for name, parameter in inspect.signature(read).parameters.items()
        if name not in GIVEN and parameter.kind is parameter.KEYWORD_ONLY
    ]

    def load(*, root: str | Path | None = None, **settings: Any) -> ShapedDataset:
        shape, rest = parted(settings)
        folder = data_root(root, holds=holds)
        return shaped(read(folder, shape=shape, findings=Findings(), **rest), shape, root=folder)

    keyword = inspect.Parameter.KEYWORD_ONLY
    place = inspect.Parameter("root", keyword, default=None)
    common = [inspect.Parameter(item.name, keyword, default=_default(item)) for item in dataclasses.fields(Shape)]
    load.__signature__ = inspect.Signature([place, *own, *common])  # type: ignore[attr-defined]
    load.__doc__ = read.__doc__
    return load


def parted(settings: Mapping[str, Any]) -> tuple[Shape, dict[str, Any]]:
    """(the shape, the reader's own settings) of a data set's settings without name and root. Raises ConfigError."""
    shared = {name: value for name, value in settings.items() if name in SHAPE and value is not None}
    return shape_of(shared), {name: value for name, value in settings.items() if name not in SHAPE}


def _default(item: dataclasses.Field[Any]) -> Any:
    """A plain value; what is a table of settings has None, and each key of it a default of its own."""
    return None if item.default is dataclasses.MISSING else item.default
