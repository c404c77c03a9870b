"""Components are found by the name of their module: a new one is one new file, and no registry."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from mmrank.errors import ConfigError, UnknownComponentError, nearest


def available(family: str) -> list[str]:
    """Names of the public modules in the package `family`, sorted.

    >>> "softmax" in available("mmrank.losses")
    True
    """
    package = importlib.import_module(family)
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def load(family: str, name: str) -> ModuleType:
    """The module `family.name`.

    Raises UnknownComponentError with the list and the nearest match where there is none.
    """
    known = available(family)
    if name not in known:
        raise UnknownComponentError(
            f"No '{name}' in {family}; available: {', '.join(known)}.{nearest(str(name), known)}"
        )
    return importlib.import_module(f"{family}.{name}")


def build(family: str, spec: Mapping[str, Any], *, entry: str = "build", **extra: Any) -> Any:
    """Call `entry` of the module that `spec["name"]` names, with the rest of `spec` as keywords.

    `extra` holds what the program supplies; it is passed only where the entry asks for it.
    Raises UnknownComponentError or, for a keyword that the entry does not take, ConfigError.
    """
    settings = dict(spec)
    name = settings.pop("name")
    function = getattr(load(family, name), entry)
    return function(**checked_keywords(f"{family}.{name}", function, settings), **accepted(function, extra))


def checked_keywords(where: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` if `function` takes each of them by keyword; ConfigError otherwise."""
    known = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    for key in settings:
        if key not in known:
            raise ConfigError(
                f"Unknown setting '{key}' for {where}; it takes: {', '.join(known) or 'none'}.{nearest(key, known)}"
            )
    return dict(settings)


def accepted(function: Callable[..., Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `values` that `function` takes by name."""
    parameters = inspect.signature(function).parameters
    return {key: value for key, value in values.items() if key in parameters}
