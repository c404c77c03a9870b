"""What a private search shows when it has ended."""

from __future__ import annotations

import math
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmrank.errors import BudgetExhaustedError
from mmrank.privacy.accountant import epsilon
from mmrank.privacy.metrics_release import MetricRelease
from mmrank.privacy.run_counts import quantile
from mmrank.privacy.tuning import PrivateSelection, View, best_index
from mmrank.settings import Settings
from server.checkpoint import read_model, write_model
from simulations._facts import promise_of
from simulations._federation import reported_row
from simulations._folder import RunFolder, write_json
from simulations.config import dump

WINNER = "winner.json"
LIKELY = 0.99
MOST_FIXED = 500


@dataclass(frozen=True, kw_only=True)
class Scored:
    """One trial that has ended. vector: the noised sum, of so many `releases`."""

    choices: Mapping[str, Any]
    settings: Settings
    folder: Path
    vector: np.ndarray
    releases: int

    def score(self, release: MetricRelease) -> dict[str, Any]:
        """The estimate of what was measured."""
        return vars(release.estimates(self.vector, releases=self.releases)[release.measures[0]])


def trained(folder: Path, settings: Settings) -> dict[str, np.ndarray]:
    """A trial's model."""
    return read_model(RunFolder(folder).trained(reported_row(settings), settings.seed))


def check_budget(cost: float, base: Settings) -> None:
    """Raise BudgetExhaustedError past a budget that is set."""
    budget = base.privacy.budget_epsilon
    if budget is not None and cost > budget:
        raise BudgetExhaustedError(
            f"The search would cost epsilon={cost:.4g} at delta={base.privacy.delta:g}, past "
            f"privacy.budget_epsilon={budget:.4g}; search less, or with more noise."
        )


def promised(selection: PrivateSelection, release: MetricRelease, base: Settings) -> dict[str, Any]:
    """The promise, known before anything is drawn: public facts alone.

    server_view: what the search costs against the server that ran it, at a number of runs that the drawn one seldom
    passes; inf where only the winner is released, since whoever adds the one noise on all clients' scores saw them
    exact, and with central noise each update as well. The drawn number is not in it. fixed_runs_for_the_same: how
    many trials, all of them shown, cost no more by plain composition: where that is more than the mean number of
    runs (cheap trials), nothing is won by hiding.
    """
    privacy = base.privacy
    dearest = max(selection.training, key=lambda history: epsilon(selection.history(history), privacy.delta))

    def composed(runs: int) -> float:
        return epsilon(selection.history(dearest) * runs, privacy.delta)

    many = quantile(selection.runs, LIKELY)
    facts: dict[str, Any] = {
        "view": selection.view,
        "delta": privacy.delta,
        "unit": privacy.unit,
        "adjacency": promise_of(privacy).adjacency,
        "sampler": promise_of(privacy).sampler,
        "noise": privacy.noise,
        "ledger": privacy.ledger,
        "score_noise_multiplier": release.noise_multiplier,
        "epsilon_of_one_trial": composed(1),
        "noise_cohort_size": privacy.noise_cohort_size,
        "server_view": {
            "epsilon": math.inf if selection.view == "released" else composed(many),
            "runs_at_most": many,
            "with_probability": LIKELY,
        },
        "accountant": "PLD (dp-accounting), every trial composed",
    }
    if selection.view == "released":
        cost = selection.epsilon(privacy.delta)
        facts["epsilon"] = cost
        facts["accountant"] = "RDP, the best of a random number of runs (Papernot and Steinke 2022)"
        facts["fixed_runs_for_the_same"] = bisect_right(range(1, MOST_FIXED + 1), cost, key=composed)
    return facts


def publish(
    out: Path, facts: Mapping[str, Any], scored: Sequence[Scored], *, release: MetricRelease, view: View, base: Settings
) -> None:
    """winner.yaml, the model, and last winner.json. Nothing in them counts the trials, unless all are paid for."""
    # how many units there are is the same for all, so the sum decides, without the noise of the count
    best = best_index([float(trial.vector[0]) for trial in scored])
    winner = None if best is None else scored[best]
    dump(base if winner is None else winner.settings, out / "winner.yaml")
    found = dict(facts) | {
        "choices": {} if winner is None else dict(winner.choices),
        "measure": release.measures[0],
        "score": None if winner is None else winner.score(release),
        "score_is": "of the best of several on the validation part: biased upwards",
        "config": "winner.yaml",
        "model": None if winner is None else "model.safetensors",
    }
    if winner is not None:
        write_model(out / "model.safetensors", trained(winner.folder, winner.settings))
    if view == "server":
        found["trials"] = [{"choices": dict(trial.choices), "score": trial.score(release)} for trial in scored]
    write_json(out / WINNER, found)


def hide_duration(out: Path) -> None:
    """Every file in `out`, and it, with the time at which the search began: how long it took tells the number of runs.

    A file system may know more (the time of the last change of a name): give away copies, not the folder.
    """
    began = (out / "search.json").stat().st_mtime_ns
    for path in (*out.iterdir(), out):
        os.utime(path, ns=(began, began))
