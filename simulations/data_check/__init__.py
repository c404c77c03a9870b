"""`mmrank data check`: everything read once, and what a person should know before training on it, in plain words.

Nothing is trained, and nothing leaves the machine. What is said of people is for their data's owner alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rich.console import Console

from client.datasets import Dataset
from client.datasets._reading.behaviour import give_back
from client.datasets._reading.files import data_root
from client.datasets._reading.findings import Findings
from client.datasets._shaping.dataset import shaped
from client.datasets._shaping.loader import parted
from mmrank import components
from mmrank.errors import MmrankError
from mmrank.settings import Settings
from simulations.data_check.columns import check_columns
from simulations.data_check.facts import facts_of, slate_counts, source_facts
from simulations.data_check.labels import check_labels
from simulations.data_check.pictures import check_pictures
from simulations.data_check.units import check_units
from simulations.progress import Display

FAMILY = "client.datasets"


@dataclass(kw_only=True)
class Checked:
    """What was found. facts: for result and page. dataset: None where it can't be used. counts: int64 [clients, 3], its
    slates by part.
    """

    settings: Settings
    findings: Findings
    facts: dict[str, Any] = field(default_factory=dict)
    dataset: Dataset | None = None
    counts: np.ndarray | None = None

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
            checked.dataset = _read(module, checked, display)
        else:
            with display.phase(f"Data set {settings.dataset['name']}", kind="check"):
                checked.dataset = components.build(FAMILY, settings.dataset, entry="load")
    except MmrankError as error:
        checked.findings.add("error", "unusable", str(settings.dataset["name"]), str(error))
        return checked
    dataset = checked.dataset
    with display.phase("Slates", kind="check"):
        checked.counts = slate_counts(dataset)
        checked.facts |= facts_of(dataset, checked.counts)
        check_units(dataset, settings, checked.findings, checked.facts, checked.counts)
    with display.phase("Labels", kind="check"):
        checked.facts["labels"] = check_labels(dataset, checked.findings, seed=settings.seed)
    if pictures:
        with display.phase("Pictures", kind="check", total=len(dataset.catalog)) as update:
            checked.facts["pictures"] = check_pictures(dataset.catalog, checked.findings, update)
    return checked


def _read(module: Any, checked: Checked, display: Display) -> Dataset:
    """The data set of a reader, each row read once. Raises what makes it unusable."""
    settings = {key: value for key, value in checked.settings.dataset.items() if key != "name"}
    root = data_root(settings.pop("root", None), holds=module.HOLDS)
    shape, own = parted(settings)
    with display.phase(f"Reading {module.__name__.rpartition('.')[2]}", kind="check") as update:
        source = module.read(root, shape=shape, findings=checked.findings, progress=_counting(update), **own)
    checked.facts |= source_facts(source)
    check_columns(source, root, checked.settings.dataset, checked.findings)
    give_back()
    with display.phase("Clients and parts", kind="check"):
        return shaped(source, shape, root=root)


def _counting(update: Callable[..., None]) -> Callable[[int], None]:
    rows = 0

    def count(more: int) -> None:
        nonlocal rows
        rows += more
        update(rows, detail=f"{rows:,} rows")

    return count
