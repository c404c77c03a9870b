"""YAML -> mmrank.settings: one file, overrides by dotted path, and errors that name the file.

A component (`dataset`, `model.text`, `training.loss`, ...) is checked against the keywords of the module
that it names, so that a typing error is found in a second and not after the catalogue is encoded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmrank import components
from mmrank.errors import ConfigError, MmrankError, nearest
from mmrank.settings import Settings, parse

FAMILIES: dict[str, tuple[str, str]] = {
    "dataset": ("client.datasets", "load"),
    "model.text": ("mmrank.encoders.text", "build"),
    "model.image": ("mmrank.encoders.image", "build"),
    "model.behaviour": ("mmrank.encoders.behaviour", "build"),
    "model.fusion": ("mmrank.fusion", "build"),
    "training.loss": ("mmrank.losses", "build"),
    "federation.aggregation": ("server.aggregation", "build"),
}
"""Where each component's modules live, and the function of theirs that takes its settings."""

ENGINES = "simulations.engines"
ROWS = "simulations.rows"
PRODUCTION = "production"
"""The row of the ranker that the shop had, where its tables have a column of scores."""
FEDERATED_ROWS = ("federated", "federated_dp", "unpersonalised")
"""Rows that the run itself trains; the others are modules of ROWS."""

SUPPLIED = frozenset({"dim", "meta_width", "event_width", "feature_dim"})
"""Arguments that the program passes to a component's entry; a configuration need not name them."""

PATHS = ("dataset.root", "privacy.ledger", "features_cache")
"""Settings that name a place on this machine; a relative one is made absolute."""

CONFIGS = Path(__file__).parent / "configs"


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, and reads 1e-3 as a number (YAML 1.2)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' is given twice; remove one", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load(path: str | Path, overrides: Iterable[str] = (), *, only: Collection[str] = ()) -> Settings:
    """The settings in the file `path`, with `overrides` ("privacy.epsilon=2") laid over them in order.

    only: the components that are checked, all where empty: what is not built need not be loaded.
    A relative place in the file is taken from the file's folder, one in an override from the working folder.
    Raises ConfigError with the file's name for anything that is unknown, misspelt, or out of bounds.
    """
    path = Path(path)
    raw = read_yaml(path)
    try:
        _make_absolute(raw, path.parent)
        raw = with_overrides(raw, overrides)
        settings = parse(raw)
        check_components(settings, only)
    except MmrankError as error:
        raise type(error)(f"{path}: {error}") from error
    return settings


def read_yaml(path: Path) -> dict[str, Any]:
    """The table in a YAML file; ConfigError where it can't be read or is no table."""
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)
    except FileNotFoundError:
        shipped = ", ".join(sorted(str(config) for config in CONFIGS.glob("*.yaml")))
        raise ConfigError(
            f"{path}: no such file; give the path of a YAML file, for example one of {shipped}."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read ({error}); give the path of a YAML file.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {_one_line(error)}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a table of settings, found {type(raw).__name__}.")
    return raw


def yaml_value(text: str, where: str) -> Any:
    """One value, read as YAML 1.2 reads numbers; ConfigError, saying `where`, for what is none."""
    try:
        return yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {_one_line(error)}") from error


def with_overrides(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with each "a.b=value" laid over it; values are read as YAML.

    Raises ConfigError for an override without '=' or whose value is no YAML.
    """
    result = _copied(raw)
    for override in overrides:
        dotted, separator, text = override.partition("=")
        if not separator or not all(dotted.strip().split(".")):
            raise ConfigError(f"Expected --set {override!r} as key=value, for example --set federation.rounds=5.")
        value = yaml_value(text, f"--set {override!r}")
        if dotted.strip() in PATHS:
            value = _absolute(value, Path.cwd())
        _put(result, dotted.strip().split("."), value)
    return result


def check_components(settings: Settings, only: Collection[str] = ()) -> None:
    """Every component (`only` these, if any) exists, takes the keywords that it is given, and has those that it needs.

    Raises UnknownComponentError or ConfigError; builds nothing.
    """
    plain = settings.to_dict()
    if not only:
        components.load(ENGINES, settings.engine)
        check_rows(settings.evaluation.rows, (PRODUCTION, *(settings.dataset.get("rows") or {})))
    for dotted, (family, entry) in FAMILIES.items():
        if only and dotted not in only:
            continue
        spec = plain
        for key in dotted.split("."):
            spec = spec[key]
        function = getattr(components.load(family, spec["name"]), entry)
        given = {key: value for key, value in spec.items() if key != "name"}
        components.checked_keywords(f"{dotted} ({family}.{spec['name']})", function, given)
        for parameter in inspect.signature(function).parameters.values():
            needed = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            )
            if needed and parameter.name not in given and parameter.name not in SUPPLIED:
                raise ConfigError(
                    f"Expected {dotted}.{parameter.name} for {dotted} '{spec['name']}', which has no default for it; "
                    f"write it in the file, or --set {dotted}.{parameter.name}=VALUE."
                )


def check_rows(rows: Iterable[str], brought: Iterable[str] = ()) -> None:
    """Raise ConfigError for a row that nothing computes. brought: what the data set may bring scores for."""
    rows = list(rows)
    known = sorted({*components.available(ROWS), *FEDERATED_ROWS, *brought}) if rows else []
    for row in rows:
        if row not in known:
            near = nearest(row, known)
            raise ConfigError(f"No row '{row}' for evaluation.rows; available: {', '.join(known)}.{near}")


def dump(settings: Settings, path: str | Path) -> None:
    """Write every setting, defaults too, as YAML that `load` reads back to equal settings."""
    text = yaml.safe_dump(settings.to_dict(), sort_keys=False, allow_unicode=True)
    Path(path).write_text(text, encoding="utf-8")


def _put(table: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set table[a][b] = value; a component named by a bare word, or left to its default, becomes a table."""
    defaults: Any = Settings().to_dict()
    for depth, key in enumerate(keys[:-1]):
        defaults = defaults.get(key) if isinstance(defaults, dict) else None
        inner = table.get(key)
        if isinstance(inner, str) and ".".join(keys[: depth + 1]) in FAMILIES:
            inner = {"name": inner}
        elif inner is None:
            named = ".".join(keys[: depth + 1]) in FAMILIES and keys[depth + 1] != "name"
            inner = dict(defaults) if named and isinstance(defaults, dict) else {}
        elif not isinstance(inner, dict):
            raise ConfigError(f"--set {'.'.join(keys)}: '{'.'.join(keys[: depth + 1])}' is {inner!r}, not a table.")
        table[key] = inner
        table = inner
    table[keys[-1]] = value


def _make_absolute(raw: dict[str, Any], base: Path) -> None:
    for dotted in PATHS:
        *outer, last = dotted.split(".")
        table: Any = raw
        for key in outer:
            table = table.get(key) if isinstance(table, dict) else None
        if isinstance(table, dict) and last in table:
            table[last] = _absolute(table[last], base)


def _absolute(value: Any, base: Path) -> Any:
    if not isinstance(value, str) or value in ("", "throwaway") or value.startswith("~"):
        return value  # a home is somebody's: who opens the file looks it up
    return str((base / value).resolve())


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list) else value


def _one_line(error: yaml.YAMLError) -> str:
    return " ".join(str(error).split())
