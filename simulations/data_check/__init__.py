"""`mmrank data check`: everything read once, and what a person should know before training on it, in plain words.

Nothing is trained, and nothing leaves the machine. What is said of people is for their data's owner alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from client.datasets import Dataset
from client.datasets._reading.behaviour import give_back
from client.datasets._reading.files import data_root
from client.datasets._reading.findings import Findings
from client.datasets._shaping.dataset import ShapedDataset
from client.datasets._shaping.loader import SHAPE
from client.datasets._shaping.settings import shape_of
from client.datasets._source import Source
from mmrank import components
from mmrank.errors import MmrankError
from mmrank.settings import Settings
from simulations.data_check.columns import check_columns
from simulations.data_check.facts import facts_of, source_facts
from simulations.data_check.labels import check_labels
from simulations.data_check.pictures import check_pictures
from simulations.data_check.units import check_units
from simulations.progress import Display

FAMILY = "client.datasets"


@dataclass(kw_only=True)
class Checked:
    """What was found. facts: for result and page. dataset: None where it can't be used."""

    settings: Settings
    findings: Findings
    facts: dict[str, Any] = field(default_factory=dict)
    dataset: Dataset | None = None

    @property
    def usable(self) -> bool:
        """Whether a run could train on it."""
        return self.dataset is not None and not self.findings.of("error")

    def to_dict(self) -> dict[str, Any]:
        """For --json: items, people, clients and slates (None where they can't be counted), errors, warnings, notes."""
        counts: dict[str, Any] = dict.fromkeys(("items", "people", "clients", "slates"))
        levels = {"errors": "error", "warnings": "warning", "notes": "note"}
        return {
            "usable": self.usable,
            **counts,
            **self.facts,
            **{name: [found.to_dict() for found in self.findings.of(level)] for name, level in levels.items()},  # type: ignore[arg-type]
        }


def check(settings: Settings, *, console: Console | None = None, pictures: bool = True) -> Checked:
    """Read the data set of `settings` and look at it. pictures: whether each picture is decoded as well.

    What makes the data unusable is an error among the findings, not raised.
    """
    display, checked = Display(console), Checked(settings=settings, findings=Findings())
    module = components.load(FAMILY, str(settings.dataset["name"]))
    try:
        if hasattr(module, "read"):
            source, root = _read(module, settings, checked, display)
            checked.facts |= source_facts(source)
            check_columns(source, root, settings.dataset, checked.findings)
            give_back()
            with display.phase("Clients and parts", kind="check"):
                shape = shape_of(_shape(settings.dataset))
                checked.findings.check(shape.bad_rows)
                checked.dataset = ShapedDataset(source, shape, root=root)
        else:
            with display.phase(f"Data set {settings.dataset['name']}", kind="check"):
                checked.dataset = components.build(FAMILY, settings.dataset, entry="load")
    except MmrankError as error:
        checked.findings.add("error", "unusable", str(settings.dataset["name"]), str(error))
        return checked
    dataset = checked.dataset
    with display.phase("Slates", kind="check"):
        checked.facts |= facts_of(dataset)
        check_units(dataset, settings, checked.findings, checked.facts)
    with display.phase("Labels", kind="check"):
        checked.facts["labels"] = check_labels(dataset, checked.findings, seed=settings.seed)
    if pictures:
        with display.phase("Pictures", kind="check", total=len(dataset.catalog)) as update:
            checked.facts["pictures"] = check_pictures(dataset.catalog, checked.findings, update)
    return checked


def _read(module: Any, settings: Settings, checked: Checked, display: Display) -> tuple[Source, Path]:
    own = {key: value for key, value in settings.dataset.items() if key not in (*SHAPE, "name", "root")}
    root = data_root(settings.dataset.get("root"), holds=module.HOLDS)
    with display.phase(f"Reading {settings.dataset['name']}", kind="check") as update:
        source = module.read(
            root,
            shape=shape_of(_shape(settings.dataset)),
            findings=checked.findings,
            progress=_counting(update),
            **own,
        )
    return source, root


def _shape(dataset: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in dataset.items() if key in SHAPE and value is not None}


def _counting(update: Callable[..., None]) -> Callable[[int], None]:
    rows = 0

    def count(more: int) -> None:
        nonlocal rows
        rows += more
        update(rows, detail=f"{rows:,} rows")

    return count
