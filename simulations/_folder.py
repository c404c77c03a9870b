"""Where everything of a run lies, and how it is written: whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmrank.errors import CheckpointError, ConfigError
from mmrank.settings import Settings, parse
from simulations.config import dump

ROUND_FIELDS = (
    "round",
    "seconds",
    "cohort",
    "replies",
    "exhausted",
    "dropped",
    "epsilon_max",
    "epsilon_median",
    "bytes_down",
    "bytes_up",
)
"""rounds.csv: what a server knows of its own rounds."""

PRIVATE_FIELDS = ("private_releases", "private_count", "private_count_std")
"""More columns where clients release measures with noise: how many did, of how many units, to within which noise."""

CURVE_FIELDS = ("row", "seed", "round", "ndcg@10", "mrr", "recall@10", "hit@3")
"""debug/curves.csv: exact validation metrics, which only a simulation can have."""


def round_fields(settings: Settings) -> tuple[str, ...]:
    """The columns of rounds.csv; those of released measures are empty in rounds that did not ask for them."""
    metrics = settings.privacy.metrics
    if metrics is None:
        return ROUND_FIELDS
    return ROUND_FIELDS + PRIVATE_FIELDS + tuple(field for name in metrics.measures for field in private_fields(name))


def private_fields(measure: str) -> tuple[str, str, str]:
    """The columns of a released measure: its mean and the interval's ends."""
    return f"private_{measure}", f"private_{measure}_low", f"private_{measure}_high"


@dataclass(frozen=True)
class RunFolder:
    """`runs/NAME/`. Federations other than the reported one, and all exact figures, lie under `debug/`."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def rounds(self) -> Path:
        return self.path / "rounds.csv"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def debug(self) -> Path:
        return self.path / "debug"

    @property
    def curves(self) -> Path:
        return self.debug / "curves.csv"

    @property
    def examples(self) -> Path:
        return self.debug / "examples.json"

    @property
    def clients(self) -> Path:
        """Each measured client's mean by row."""
        return self.debug / "clients.json"

    def row(self, name: str, seed: int) -> Path:
        """What a row's repetition measured, slate by slate, so debug only."""
        return self.debug / "rows" / f"{name}-seed{seed}.npz"

    def trained(self, name: str, seed: int) -> Path:
        """The model of a row's repetition."""
        return self.debug / "models" / f"{name}-seed{seed}.safetensors"

    def federation(self, name: str, seed: int) -> Path:
        """Where a federation that is not the reported one keeps its checkpoint, ledger and outbox."""
        return self.debug / "federations" / f"{name}-seed{seed}"

    def check(self, settings: Settings, *, resume: bool) -> None:
        """Whether `settings` may run here: in a new folder, or as the run that it holds. Nothing is written.

        Raises ConfigError for a folder in use without `resume`, CheckpointError for one of another configuration.
        """
        in_use = self.path.exists() and any(self.path.iterdir())
        if in_use and not resume:
            raise ConfigError(
                f"{self.path} already holds files; add --resume to go on with the run in it, or choose another --out. "
                "Nothing was changed."
            )
        if in_use and self.config.exists():
            _same_settings(self, settings)

    def begin(self, settings: Settings) -> None:
        """Make the folder that of a run of `settings`: what it could not even load does not get this far."""
        for folder in (self.path, self.debug, self.debug / "rows", self.debug / "models"):
            folder.mkdir(parents=True, exist_ok=True)
        if not self.config.exists():
            dump(settings, self.config)

    def settings(self) -> Settings:
        """The run's own configuration; ConfigError where the folder holds none."""
        return stored_settings(self.config)


def stored_settings(path: Path) -> Settings:
    """The settings that a run wrote. Raises ConfigError where there is no run."""
    if not path.exists():
        raise ConfigError(
            f"{path.parent} holds no run (no {path.name}); give the folder of a run, such as runs/quickstart."
        )
    return parse(yaml.safe_load(path.read_text(encoding="utf-8")))


def _same_settings(folder: RunFolder, settings: Settings) -> None:
    stored = folder.settings()
    if stored.sha256 == settings.sha256:
        return
    here, there = flat(settings.to_dict()), flat(stored.to_dict())
    changed = [
        f"{key} {there.get(key)!r} -> {here.get(key)!r}"
        for key in sorted(here.keys() | there.keys())
        if here.get(key) != there.get(key)
    ]
    raise CheckpointError(
        f"{folder.path} holds a run of another configuration ({'; '.join(changed)}); resume it with its own "
        f"({folder.config}), or choose another --out. Nothing was changed."
    )


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as one, by dotted key.

    >>> flat({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    result: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result


def write_text(path: Path, text: str) -> None:
    """Write the file whole: a killed process leaves the old one or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    os.replace(beside, path)


def write_json(path: Path, value: Any) -> None:
    """`value` as JSON, two spaces; a float that is not finite becomes a string ("inf"), since JSON has none."""
    write_text(path, to_json(value) + "\n")


def to_json(value: Any) -> str:
    """Strict JSON of plain values."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


class Table:
    """A CSV that grows a line at a time and survives a kill: a line for a key already there is left out."""

    def __init__(self, path: Path, fields: tuple[str, ...], key: tuple[str, ...]) -> None:
        self.path, self.fields, self.key = path, fields, key
        lines = read_table(path)
        self._seen = {tuple(line[name] for name in key) for line in lines}
        if not path.exists() or not path.read_bytes().endswith(b"\n"):  # new, or the last line was cut
            self._rewrite(lines)

    def has(self, *key: Any) -> bool:
        """Whether a line of that key is there."""
        return tuple(_word(value) for value in key) in self._seen

    def add(self, line: Mapping[str, Any]) -> None:
        """Append `line`, unless its key was there."""
        words = {name: _word(line.get(name)) for name in self.fields}
        key = tuple(words[name] for name in self.key)
        if key in self._seen:
            return
        self._seen.add(key)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.DictWriter(file, self.fields, lineterminator="\n").writerow(words)

    def _rewrite(self, lines: Iterable[Mapping[str, str]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.fields, lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)


def read_table(path: Path) -> list[dict[str, str]]:
    """The whole lines of a CSV; none where the file is absent. A last line cut by a kill is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return list(csv.DictReader(text[: text.rfind("\n") + 1].splitlines()))


def _word(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
