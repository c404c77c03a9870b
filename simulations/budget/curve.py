"""`mmrank budget curve`: ranking quality against epsilon, by the real simulation at each point of a grid.

Each point is a run in a folder and a process of its own; what is finished is taken as it is. The point at infinity is
the same federation without a mechanism, in a run that holds `content`, `unpersonalised` and `centralised` as well:
these are computed once.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mmrank import components
from mmrank.errors import CheckpointError, ConfigError
from mmrank.settings import Settings
from simulations._folder import RunFolder, write_json, write_text
from simulations._stage import Shared, encoded, resolve_device
from simulations.budget._curve_page import page
from simulations.budget._measured import measured, recommend
from simulations.budget._plots import draw_curve, save
from simulations.progress import Display
from simulations.report import read_result
from simulations.run import simulate

BASE = "non-private"
BASE_ROWS = ("content", "unpersonalised", "centralised", "federated")
NOTES = (
    "Intervals are 95%, by bootstrap over clients, paired, of the mean over the seeds. Gain ratio: (x - content) / "
    "(centralised - content). Of the non-private: (x - content) / (federated - content). Over unpersonalised: "
    "(x - unpersonalised) / (federated - unpersonalised), with the federation's own model, histories emptied.",
    "A simulation sees everything: these figures are exact, of the test part, and were not paid for. To choose epsilon "
    "by such a curve on real people's data is itself a release; choose it on public or synthetic data.",
)


def parse_epsilons(text: str) -> list[float]:
    """
    >>> parse_epsilons("2, 0.5, inf")
    [0.5, 2.0, inf]
    """
    values = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        try:
            value = float(word)
        except ValueError:
            raise ConfigError(
                f"Expected --epsilons {word!r} to be a number or inf; for example 0.5,1,2,4,8,inf."
            ) from None
        if not value > 0:
            raise ConfigError(f"Expected --epsilons {word} to be above 0; inf stands for the federation without noise.")
        values.append(value)
    if not values or not any(map(math.isfinite, values)):
        raise ConfigError(f"Expected --epsilons {text!r} to hold a finite epsilon; for example 0.5,1,2,4,8,inf.")
    return sorted(set(values))


def curve(
    settings: Settings,
    *,
    epsilons: Sequence[float],
    seeds: int,
    out: Path,
    jobs: int | None = None,
    resume: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run the grid, write curve.json, curve.png and curve.html into `out`, and return curve.json's content.

    Raises ConfigError for a configuration without a mechanism or with a ledger that lasts, a folder in use without
    `resume`, or another curve's folder; CheckpointError for a point that another configuration left there.
    """
    points = runs_of(settings, epsilons, seeds)
    _begin(out, settings, seeds, resume)
    _run_all(settings, points, out, jobs or os.cpu_count() or 1, Display(console))
    found = result_of(settings, points, out, seeds)
    write_json(out / "curve.json", found)
    recommended = found["recommended"]["epsilon"]
    draw = draw_curve(found["points"], found["levels"], recommended)
    save(draw, out / "curve.png", height=4.6)
    write_text(out / "curve.html", page(found, draw))
    return found


def runs_of(settings: Settings, epsilons: Sequence[float], seeds: int) -> dict[str, Settings]:
    """Settings by folder: the federation without noise first, for it is measured against and takes longest."""
    privacy = settings.privacy
    if privacy.mechanism == "no_privacy":
        raise ConfigError(
            "Expected privacy.mechanism=no_privacy to be one that promises something; add --set "
            "privacy.mechanism=dp_sgd --set privacy.epsilon=1 with its clip and sampling rate."
        )
    if privacy.ledger != "throwaway":
        raise ConfigError(
            f"Expected privacy.ledger={privacy.ledger!r} to be throwaway in a curve, where every point would be "
            "charged to it; add --set privacy.ledger=throwaway."
        )

    def run(name: str, rows: Sequence[str], **changes: Any) -> Settings:
        return replace(
            settings,
            name=f"{settings.name} {name}",
            privacy=replace(privacy, **changes),
            evaluation=replace(settings.evaluation, seeds=seeds, rows=tuple(rows)),
        )

    runs = {BASE: run(BASE, BASE_ROWS, mechanism="no_privacy", metrics=None)}
    for epsilon in sorted(set(epsilons)):
        if math.isfinite(epsilon):
            name = f"epsilon-{epsilon:g}"
            runs[name] = run(name, ("federated_dp",), epsilon=epsilon, noise_multiplier=None, budget_epsilon=None)
    return runs


def result_of(settings: Settings, runs: Mapping[str, Settings], out: Path, seeds: int) -> dict[str, Any]:
    """curve.json, from the folders of finished runs alone."""
    base, base_clients = read_result(out / BASE), clients_of(out / BASE)
    missing = [row for row in BASE_ROWS if row not in base_clients]
    if missing:
        reasons = "; ".join(f"{row}: {base['skipped'].get(row, 'not measured')}" for row in missing)
        raise ConfigError(f"The run in {out / BASE} lacks what a curve is measured against ({reasons}).")
    points, notes = [], list(NOTES)
    private: Mapping[str, Any] | None = None
    for name in [name for name in runs if name != BASE] + [BASE]:
        result, clients = read_result(out / name), clients_of(out / name)
        point, told = measured(
            clients[result["reported"]], base_clients, samples=settings.evaluation.bootstrap, seed=settings.seed
        )
        facts = result["privacy"]
        private = private or (facts if name != BASE else None)
        points.append(
            {
                "epsilon": runs[name].privacy.epsilon if name != BASE else math.inf,
                "epsilon_spent": float(facts["epsilon_max"]),
                "noise_multiplier": float(facts["noise_multiplier"]) if name != BASE else 0.0,
                "run": name,
                **point,
            }
        )
        notes += [line for line in told if line not in notes]
    return {
        "schema": 1,
        "name": settings.name,
        "config_sha256": settings.sha256,
        "seeds": seeds,
        "dataset": base["dataset"],
        "privacy": private,
        "promise": _promise(private or {}),
        "levels": {row: float(np.nanmean(base_clients[row])) for row in ("content", "unpersonalised", "centralised")},
        "points": points,
        "recommended": recommend(points),
        "notes": notes,
    }


def clients_of(place: Path) -> dict[str, np.ndarray]:
    """float64 [clients] by row: each measured client's mean nDCG@10 on test; NaN where it has none."""
    stored = json.loads(RunFolder(place).clients.read_text(encoding="utf-8"))["ndcg@10"]
    return {row: np.array([np.nan if mean is None else mean for mean in means]) for row, means in stored.items()}


def _promise(privacy: Mapping[str, Any]) -> str:
    if not privacy:
        return "No point of this curve is private."
    return (
        f"Each epsilon is for one {privacy['unit']} at delta {privacy['delta']:g}: {privacy['adjacency']} adjacency, "
        f"{privacy['sampler']} sampling, mechanism {privacy['mechanism']}, accountant {privacy['accountant']}"
        + (", noise from a seed so that the curve repeats." if privacy["noise"] == "seeded" else ".")
        + _cohort(privacy.get("noise_cohort_size"))
    )


def _cohort(size: int | None) -> str:
    if size is None:
        return ""
    return (
        f" The noise is that of cohorts of {size:,} clients, scaled to those simulated: the claim holds at that size."
    )


def _run_all(base: Settings, runs: Mapping[str, Settings], out: Path, jobs: int, display: Display) -> None:
    """Whatever is not finished, `jobs` processes at a time; the catalogue is encoded once, before them."""
    waiting = {name: run for name, run in runs.items() if not _finished(out / name, run)}
    if waiting:
        _encode(base, display)
    context = multiprocessing.get_context("spawn")  # a forked torch may hang
    with (
        display.phase("Curve", kind="training", total=len(runs)) as update,
        ProcessPoolExecutor(max(1, min(jobs, len(waiting))), mp_context=context, max_tasks_per_child=1) as pool,
    ):
        done = len(runs) - len(waiting)
        update(done)
        going = {pool.submit(_run_one, run, out / name): name for name, run in waiting.items()}
        try:
            for future in as_completed(going):
                future.result()
                done += 1
                update(done, note=f"{going[future]} is done, {done} of {len(runs)}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _finished(place: Path, run: Settings) -> bool:
    """Whether that very run has its result. Raises CheckpointError for another one's folder."""
    folder = RunFolder(place)
    if not folder.result.exists():
        return False
    stored = folder.settings()
    if stored.sha256 != run.sha256:
        raise CheckpointError(
            f"{place} holds a run of another configuration; remove that folder, or choose another --out. Nothing was "
            "changed."
        )
    return True


def _run_one(settings: Settings, place: Path) -> None:
    """One point in a process of its own; what it says goes to a file beside its folder."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_name(place.name + ".log"), "a", encoding="utf-8") as log:
        simulate(settings, out=place, resume=True, console=Console(file=log))


def _encode(settings: Settings, display: Display) -> None:
    dataset = components.build("client.datasets", settings.dataset, entry="load")
    encoded(settings, dataset, resolve_device(settings.device), display, Shared())


def _begin(out: Path, settings: Settings, seeds: int, resume: bool) -> None:
    """The folder is new, or this curve's: points may be added to it."""
    path = out / "plan.json"
    about = {"config_sha256": settings.sha256, "seeds": seeds}
    if out.exists() and any(out.iterdir()):
        if not resume:
            raise ConfigError(
                f"{out} already holds files; add --resume to go on with the curve in it, or choose another --out. "
                "Nothing was changed."
            )
        stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if stored is not None and stored != about:
            raise ConfigError(
                f"{out} holds a curve of another configuration or of {stored.get('seeds')} seeds; resume it as it was "
                "begun, or choose another --out. Nothing was changed."
            )
    write_json(path, about)
