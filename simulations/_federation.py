"""One federation of a run, watched: the engine trains, and after each few rounds the simulation looks at validation.

The server and the clients know nothing of this: what is measured here is exact, and goes to debug/.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from client.workspace import make_workspace
from mmrank import components
from mmrank.metrics import METRICS
from mmrank.ranker import build_ranker, parameters_of
from mmrank.settings import Settings
from server.checkpoint import load_checkpoint, read_model, write_model
from server.population import open_population
from server.rounds import RoundReport
from simulations._folder import CURVE_FIELDS, Table, private_fields, read_table, round_fields
from simulations._stage import Stage
from simulations.config import dump
from simulations.evaluation import HEADLINE
from simulations.progress import Update
from simulations.rows._ranker import ranker_scorer
from simulations.tracking import Tracker

Parameters = Mapping[str, np.ndarray]


def settings_of(row: str, settings: Settings, seed: int) -> Settings:
    """The settings of that row's repetition: `federated` is the same federation without a mechanism.

    A repetition other than the reported one is the simulation's alone and never charges a ledger that lasts.
    """
    privacy = settings.privacy
    if row == "federated":
        privacy = replace(privacy, mechanism="no_privacy", metrics=None)
    if not is_reported(row, settings, seed):
        privacy = replace(privacy, ledger="throwaway")
    return replace(settings, seed=seed, privacy=privacy)


def is_reported(row: str, settings: Settings, seed: int) -> bool:
    """Whether that federation is the run's own, whose model and rounds lie in the run's folder itself."""
    return row == reported_row(settings) and seed == settings.seed


def reported_row(settings: Settings) -> str:
    """The row that the run is about."""
    return "federated" if settings.privacy.mechanism == "no_privacy" else "federated_dp"


def federate(stage: Stage, row: str, seed: int, tracker: Tracker) -> Parameters:
    """The trained model of that row's repetition: the stored one, or the rest of its rounds and then that."""
    kept = stage.folder.trained(row, seed)
    if kept.exists():
        return read_model(kept)
    settings = settings_of(row, stage.settings, seed)
    own = is_reported(row, stage.settings, seed)
    state_dir = stage.folder.path if own else stage.folder.federation(row, seed)
    config_path = stage.folder.config if own else state_dir / "config.yaml"
    if not own:
        state_dir.mkdir(parents=True, exist_ok=True)
        dump(settings, config_path)
    engine = components.load("simulations.engines", settings.engine)
    watch = _Watch(stage=stage, row=row, seed=seed, settings=settings, tracker=tracker, own=own)
    name = f"{row}, seed {seed}"
    with stage.display.phase(name, kind="training", total=settings.federation.rounds) as update:
        watch.begin(update)
        parameters = engine.federate(
            settings,
            config_path=config_path,
            state_dir=state_dir,
            on_round=watch.on_round,
            on_client=watch.on_client,
            resume=True,  # the run's folder was checked: a checkpoint in it is this run's
            workspace=make_workspace(settings, dataset=stage.dataset, features=stage.features, state_dir=state_dir),
        )
        watch.end(parameters, rounds_done(state_dir, settings))
    write_model(kept, parameters)
    stage.keep_seconds()
    return parameters


def rounds_done(state_dir: Path, settings: Settings) -> int:
    """How many rounds the checkpoint there has behind it."""
    stored = load_checkpoint(state_dir / "checkpoint", config_sha256=settings.sha256)
    return 0 if stored is None else stored.round_number


def epsilons(state_dir: Path, settings: Settings) -> tuple[float, float]:
    """(largest, median) of the clients' public totals after the last round; inf without a mechanism.

    Under central noise both are the population ledger's: it stands for every registered client.
    """
    if settings.privacy.mechanism == "no_privacy":
        return math.inf, math.inf
    if settings.privacy.central:
        population = open_population(settings, state_dir=state_dir)
        total = population.account.epsilon() if population is not None and population.account is not None else 0.0
        return total, total
    stored = load_checkpoint(state_dir / "checkpoint", config_sha256=settings.sha256)
    spent = list(stored.epsilon.values()) if stored is not None else []
    return (max(spent), statistics.median(spent)) if spent else (0.0, 0.0)


@dataclass(kw_only=True)
class _Watch:
    """Follows one federation: its bar, its curve, its rounds."""

    stage: Stage
    row: str
    seed: int
    settings: Settings
    tracker: Tracker
    own: bool

    def begin(self, update: Update) -> None:
        self.update = update
        self.ranker = build_ranker(self.settings.model, seed=self.seed)
        self.curve = Table(self.stage.folder.curves, CURVE_FIELDS, ("row", "seed", "round"))
        self.rounds = Table(self.stage.folder.rounds, round_fields(self.settings), ("round",)) if self.own else None
        self.round_number = self._last_round()
        self.looked = ""
        self._look(parameters_of(self.ranker), 0)
        self.update(self.round_number, note=self.looked)

    def on_client(self, done: int, total: int) -> None:
        """A bar moves within the round as the answers come."""
        self.update(self.round_number + done / max(total, 1), detail=f"client {done}/{total}")

    def on_round(self, report: RoundReport) -> None:
        self.round_number = report.round_number
        if report.secret_cohort:
            report = _expected(report, self.settings.federation.cohort_size)
        if self.rounds is not None:
            self.rounds.add(_line(report))
        values = {"replies": float(report.codes.get("ok", 0))}
        if not report.secret_cohort:
            values["seconds"] = report.seconds
        spent = ""
        if self.settings.privacy.mechanism != "no_privacy":
            values |= {"epsilon_max": report.epsilon_max, "epsilon_median": report.epsilon_median}
            spent = f", epsilon {report.epsilon_max:.2f}"
        if report.measured is not None:
            values |= {f"private/{name}": found.mean for name, found in report.measured.estimates.items()}
        due = report.round_number % self.settings.evaluation.every == 0
        if due or report.round_number == self.settings.federation.rounds:
            self._look(report.parameters, report.round_number)
        self.tracker.log({f"{self.row}/{name}": value for name, value in values.items()}, report.round_number)
        self.update(report.round_number, note=f"round {report.round_number}{spent}; {self.looked}")

    def end(self, parameters: Parameters, round_number: int) -> None:
        """The last round is on the curve, also where the run stopped early or was killed behind its last checkpoint."""
        self._look(parameters, round_number)

    def _look(self, parameters: Parameters, round_number: int) -> None:
        if self.curve.has(self.row, self.seed, round_number):
            return
        scorer = ranker_scorer(self.ranker, self.stage.features, parameters, device=self.stage.device)
        result = self.stage.evaluator.measure(scorer, "validation")
        values = {name: result.mean(name) for name in METRICS}
        self.curve.add({"row": self.row, "seed": self.seed, "round": round_number, **values})
        self.tracker.log({f"{self.row}/validation/{name}": value for name, value in values.items()}, round_number)
        self.looked = f"nDCG@10 {values[HEADLINE]:.4f} after round {round_number}"

    def _last_round(self) -> int:
        return max((int(line["round"]) for line in read_table(self.rounds.path)), default=0) if self.rounds else 0


def _expected(report: RoundReport, cohort_size: int) -> RoundReport:
    """What may be told of a round whose cohort is a secret: the public numbers in place of those that were drawn.

    seconds: 0, since a round takes as long as its cohort is large.
    """
    size = sum(array.nbytes for array in report.parameters.values())
    return replace(
        report,
        codes={"ok": cohort_size},
        dropped={},
        cohort_size=cohort_size,
        seconds=0.0,
        bytes_down=cohort_size * size,
        bytes_up=cohort_size * size,
    )


def _line(report: RoundReport) -> dict[str, float | int]:
    told: dict[str, float | int] = {}
    if report.measured is not None:
        told = {"private_releases": report.measured.releases}
        told["private_count"], told["private_count_std"] = report.measured.count
        for name, found in report.measured.estimates.items():
            told |= dict(zip(private_fields(name), (found.mean, found.low, found.high), strict=True))
    return told | {
        "round": report.round_number,
        "seconds": report.seconds,
        "cohort": report.cohort_size,
        "replies": report.codes.get("ok", 0),
        "exhausted": report.codes.get("exhausted", 0),
        "dropped": len(report.dropped),
        "epsilon_max": report.epsilon_max,
        "epsilon_median": report.epsilon_median,
        "bytes_down": report.bytes_down,
        "bytes_up": report.bytes_up,
    }
