"""One table of what each change to a configuration does: every variant is a simulated run, compared by client.

    python benchmarks/variants.py simulations/configs/hm.yaml benchmarks/hm-ablations.yaml \
        --set dataset.root=../shared/data/hm --out runs/hm-ablations

VARIANTS.yaml holds groups. Each has `base`, overrides for all of its runs, and `variants`, a name and the overrides
that are laid over the base; the first is what the others of its group are compared with.
Folders of finished runs are taken as they are, so a broken table goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from mmrank.settings import Settings
from simulations._intervals import difference
from simulations.config import load
from simulations.run import simulate

HEADER = "| variant | parameters | validation | test nDCG@10 | 95% | difference, paired | 95% | epsilon |"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that are compared with the first of them. runs: settings by variant."""

    title: str
    runs: Mapping[str, Settings]

    @property
    def base(self) -> str:
        return next(iter(self.runs))


def read_groups(config: Path, variants: Path, overrides: Sequence[str]) -> list[Group]:
    """The groups of a file of variants, each setting checked before anything is trained.

    Raises ConfigError for a setting that can't be.
    """
    groups = []
    for title, group in yaml.safe_load(variants.read_text(encoding="utf-8")).items():
        runs = {
            name: load(config, [*overrides, *group.get("base", []), *(changes or [])])
            for name, changes in group["variants"].items()
        }
        groups.append(Group(title=title, runs=runs))
    return groups


def run_all(groups: Sequence[Group], out: Path, jobs: int) -> None:
    """Simulate whatever is not finished, `jobs` processes at a time."""
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    with ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
        waiting = {
            place_of(out, group, name): pool.submit(run_one, settings, place_of(out, group, name))
            for group in groups
            for name, settings in group.runs.items()
        }
        for place, run in waiting.items():
            run.result()
            print(f"{place} is done", flush=True)


def run_one(settings: Settings, place: Path) -> None:
    """One run in its own process, quietly."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_suffix(".log"), "a", encoding="utf-8") as log:
        simulate(settings, out=place, resume=True, console=Console(file=log))


def place_of(out: Path, group: Group, name: str) -> Path:
    """The run's folder."""
    return out / "".join(letter if letter.isalnum() else "-" for letter in f"{group.title} {name}".lower())


def rows_of(groups: Sequence[Group], out: Path) -> Iterator[str]:
    """Lines of a Markdown table: each variant's reported row, beside that of its group's base."""
    for group in groups:
        yield f"\n**{group.title}**\n"
        yield HEADER
        yield "|" + "---|" * HEADER.count(" | ") + "---|"
        base = clients_of(place_of(out, group, group.base))
        for name in group.runs:
            place = place_of(out, group, name)
            result = json.loads((place / "result.json").read_text(encoding="utf-8"))
            measure = result["metrics"][result["reported"]]["ndcg@10"]
            other = "| | |"
            if name != group.base:
                gap = difference(clients_of(place), base, samples=1000, seed=0)
                other = f"| {gap['mean']:+.4f} | {interval(gap['ci95'], '+.4f')} |"
            yield (
                f"| {name} | {result['model']['trainable_parameters']} "
                f"| {result['validation'][result['reported']]:.4f} | {measure['mean']:.4f} "
                f"| {interval(measure['ci95'], '.4f')} {other} {result['privacy']['epsilon_max']} |"
            )


def clients_of(place: Path) -> np.ndarray:
    """float64 [clients]: the reported row's mean nDCG@10 on test of each measured client."""
    result = json.loads((place / "result.json").read_text(encoding="utf-8"))
    kept: dict[str, Any] = json.loads((place / "debug" / "clients.json").read_text(encoding="utf-8"))
    return np.array([np.nan if mean is None else mean for mean in kept["ndcg@10"][result["reported"]]])


def interval(bounds: Sequence[float], form: str) -> str:
    """`low, high`."""
    return ", ".join(format(bound, form) for bound in bounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="the configuration that all variants start from")
    parser.add_argument("variants", type=Path, help="YAML of groups and their variants")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="key=value for every run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    given = parser.parse_args()
    groups = read_groups(given.config, given.variants, given.overrides)
    run_all(groups, given.out, given.jobs)
    print("\n".join(rows_of(groups, given.out)))


if __name__ == "__main__":
    main()
