"""One simulated run: data, features, federations, rows, result.json and its report.

What is finished is kept (models, per-slate figures, a checkpoint a round) and never done twice: a killed run goes on
with `resume`. Only the first repetition's federation is the run's own; what else is trained to compare it with is
the simulation's, under debug/.
"""

from __future__ import annotations

import resource
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mmrank.ranker import build_ranker, load_parameters
from mmrank.settings import Settings
from server.checkpoint import write_model
from simulations._examples import examples
from simulations._facts import model_facts, privacy_facts, version_control
from simulations._federation import Parameters, federate, reported_row, rounds_done
from simulations._folder import RunFolder, read_table, write_json
from simulations._measures import keep_clients, measure_all, metrics_of, wanted_rows
from simulations._stage import Shared, Stage, set_up
from simulations.config import PRODUCTION
from simulations.evaluation import HEADLINE, Scorer
from simulations.progress import Display
from simulations.report import read_result, thumbnail, write_report
from simulations.rows import RowSkippedError, _personalised, build_row, centralised
from simulations.rows._brought import brought_scorer
from simulations.rows._ranker import ranker_scorer
from simulations.tracking import Tracker, check_tracking, open_tracker

SCHEMA = 1


def simulate(settings: Settings, *, out: Path, resume: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Run `settings` in the folder `out` and return result.json's content.

    A finished run is not run again. Raises ConfigError for a folder in use without `resume`,
    CheckpointError for a run of another configuration, and whatever a setting makes of itself.
    """
    check_tracking(settings)
    folder = RunFolder(out)
    folder.check(settings, resume=resume)
    if folder.result.exists():
        if not folder.report.exists():
            write_report(out)
        return read_result(out)
    stage = set_up(settings, folder, Display(console))
    folder.begin(settings)
    tracker = open_tracker(settings, out)
    try:
        _Run(stage, tracker).finish()
    finally:
        tracker.close()
        stage.keep_seconds()
    write_report(out)
    return read_result(out)


def trial(
    settings: Settings, out: Path, *, shared: Shared | None = None, console: Console | None = None
) -> dict[str, float]:
    """The reported federation alone, measured on validation: what a sweep compares. The test part is not read."""
    folder = RunFolder(out)
    folder.check(settings, resume=True)
    stage = set_up(settings, folder, Display(console), shared)
    folder.begin(settings)
    tracker = open_tracker(settings, out)
    row = reported_row(settings)
    try:
        for seed in seeds_of(settings):
            federate(stage, row, seed, tracker)
    finally:
        tracker.close()
        stage.keep_seconds()
    last: dict[str, dict[str, str]] = {}
    for line in read_table(folder.curves):
        if int(line["round"]) >= int(last.get(line["seed"], line)["round"]):
            last[line["seed"]] = line
    found = {
        name: float(np.mean([float(line[name]) for line in last.values()]))
        for name in (HEADLINE, "mrr", "recall@10", "hit@3")
    }
    facts = privacy_facts(settings, out)
    return found | {"epsilon_max": float(facts["epsilon_max"]), "seconds": sum(stage.display.seconds.values())}


def seeds_of(settings: Settings) -> list[int]:
    """The repetitions; the first is the one whose model is kept."""
    return [settings.seed + repetition for repetition in range(settings.evaluation.seeds)]


class _Run:
    """A run in progress: trains what its rows need, once, and writes the result."""

    def __init__(self, stage: Stage, tracker: Tracker) -> None:
        self.stage, self.tracker = stage, tracker
        self.settings, self.folder = stage.settings, stage.folder
        self.reported = reported_row(self.settings)
        self.names = wanted_rows(
            self.settings.evaluation.rows,
            self.reported == "federated_dp",
            bool(self.settings.model.personal),
            getattr(stage.dataset, "brought_rows", ()),
        )

    def finish(self) -> None:
        parameters = federate(self.stage, self.reported, self.settings.seed, self.tracker)
        write_model(self.folder.model, parameters)
        measured = measure_all(self.stage, self.names, seeds_of(self.settings), self.scorer)
        with self.stage.display.phase("Intervals", kind="evaluation"):
            found = metrics_of(self.stage, measured)
        keep_clients(self.stage, measured)
        ranker = build_ranker(self.settings.model, seed=self.settings.seed)
        load_parameters(ranker, parameters)
        with self.stage.display.phase("Examples", kind="evaluation"):
            write_json(self.folder.examples, {"examples": examples(self.stage, ranker, thumbnail)})
        self.stage.keep_seconds()
        write_json(self.folder.result, self.result(found))

    def scorer(self, name: str, seed: int) -> Scorer:
        """What row `name` ranks with in that repetition. Raises RowSkippedError."""
        if name in ("federated", "federated_dp"):
            return self._ranked(federate(self.stage, name, seed, self.tracker), seed)
        if name == "unpersonalised":
            if not self.settings.model.use_behaviour:
                raise RowSkippedError("the model reads no history (model.use_behaviour: false)")
            return self._ranked(federate(self.stage, self.reported, seed, self.tracker), seed, empty_history=True)
        if name in getattr(self.stage.dataset, "brought_rows", ()):
            return brought_scorer(name)
        if name == PRODUCTION or name in (self.settings.dataset.get("rows") or {}):
            raise RowSkippedError("the data set brings no scores of that name")
        context = self.stage.context.for_seed(seed)
        context.on_progress = self.stage.on_progress
        if name == "personalised":
            return _personalised.scorer(context, federate(self.stage, self.reported, seed, self.tracker))
        if name == "centralised":
            parameters = centralised.train(context)
            write_model(self.folder.trained(name, seed), parameters)
            return self._ranked(parameters, seed)
        return build_row(name, context)

    def result(self, found: dict[str, Any]) -> dict[str, Any]:
        """result.json."""
        settings, evaluator = self.settings, self.stage.evaluator
        rounds = read_table(self.folder.rounds)
        # rounds whose cohorts are secret have no seconds of their own
        spent = sum(float(line["seconds"]) for line in rounds) or self.stage.display.seconds.get("training", 0.0)
        seconds = {kind: round(value, 3) for kind, value in sorted(self.stage.display.seconds.items())}
        return {
            "schema": SCHEMA,
            "run": settings.name,
            "config_sha256": settings.sha256,
            "commit": version_control(),
            "engine": settings.engine,
            "device": self.stage.device,
            "seed": settings.seed,
            "seeds": settings.evaluation.seeds,
            "reported": self.reported,
            "dataset": self._dataset(),
            "model": model_facts(settings),
            "privacy": privacy_facts(settings, self.folder.path),
            "rounds": rounds_done(self.folder.path, settings),
            **found,
            "left_out": evaluator.left_out("test"),
            "seconds": seconds | {"total": round(sum(self.stage.display.seconds.values()), 3)},
            "client_updates_per_second": sum(int(line["replies"]) for line in rounds) / spent if spent else 0.0,
            "peak_rss_mb": peak_rss_mb(),
        }

    def _dataset(self) -> dict[str, Any]:
        dataset, evaluator = self.stage.dataset, self.stage.evaluator
        try:
            train: int | None = len(self.stage.context.train_slates)
        except RowSkippedError:
            train = None  # too many clients to count: their slates are made when asked for
        return {
            "name": dataset.name,
            "version": dataset.version,
            "synthetic": dataset.synthetic,
            "simulation_only": dataset.simulation_only,
            "items": len(dataset.catalog),
            "clients": len(dataset.client_ids),
            "kinds": dict(Counter(dataset.kind(client) for client in dataset.client_ids)),
            "slates": {
                "train": train,
                "validation": evaluator.slates("validation"),
                "test": evaluator.slates("test"),
            },
        }

    def _ranked(self, parameters: Parameters, seed: int, *, empty_history: bool = False) -> Scorer:
        stage = self.stage
        ranker = build_ranker(self.settings.model, seed=seed)
        return ranker_scorer(ranker, stage.features, parameters, empty_history=empty_history, device=stage.device)


def peak_rss_mb() -> float:
    """Most memory that this process, or one that it started and that has ended, held at once."""
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024
    own, children = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return round(max(own, children) / unit, 1)
