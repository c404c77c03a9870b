"""The draws of a private search, made once, before its first trial: how many runs, and what each of them tries.

Kept where the owner alone reads: the number of runs is what the winner's privacy rests on.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from mmrank.errors import CheckpointError, PrivacyError
from mmrank.privacy.noise import Noise
from mmrank.privacy.run_counts import RunCount, draw_runs
from simulations.sweep import Space, suggested

PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one run tries. seed: of its initial weights and shuffles; random, so that it does not tell its place."""

    choices: Mapping[str, Any]
    seed: int


class IndependentSampler(optuna.samplers.BaseSampler):
    """Every value from its public distribution, whatever was tried before, by a source that nobody can replay."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
        """Nothing is drawn together."""
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        """Nothing."""
        return {}

    def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
        """Evenly over the range, or over its logarithm; evenly over choices."""
        share, over = float(self.noise.uniform(1)[0]), param_distribution
        if isinstance(over, optuna.distributions.CategoricalDistribution):
            return over.choices[int(share * len(over.choices))]
        if isinstance(over, optuna.distributions.IntDistribution):
            low, high = (over.low - 0.5, over.high + 0.5) if over.log else (over.low, over.high + 1)
            value = _between(low, high, share, over.log)
            return min(max(round(value) if over.log else math.floor(value), over.low), over.high)
        return min(max(_between(over.low, over.high, share, over.log), over.low), over.high)


def independent_study(noise: Noise) -> optuna.Study:
    """A study in memory that draws independently and stops nothing."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        direction="maximize", sampler=IndependentSampler(noise), pruner=optuna.pruners.NopPruner()
    )


def check_study(study: optuna.Study) -> None:
    """Raise PrivacyError for a study whose draws or stops would look at results, or that anybody can replay."""
    if type(study.sampler) is not IndependentSampler:
        why = "repeats by its seed" if isinstance(study.sampler, optuna.samplers.RandomSampler) else "looks at results"
        raise PrivacyError(
            f"Expected the sampler {type(study.sampler).__name__} to draw each trial by itself, unseen; it {why}: "
            "use simulations._draws.independent_study."
        )
    if not isinstance(study.pruner, optuna.pruners.NopPruner):
        raise PrivacyError(
            f"Expected no pruner, not {type(study.pruner).__name__}: a trial that is stopped in view of others is not "
            "alike; use optuna.pruners.NopPruner()."
        )
    if len(study.directions) != 1 or study.direction != optuna.study.StudyDirection.MAXIMIZE:
        raise PrivacyError("Expected one score to maximise; a search has one winner.")
    if study.get_trials(deepcopy=False):
        raise PrivacyError("Expected a study without trials: what is enqueued or done would not be drawn anew.")


def draw(space: Space, runs: RunCount, noise: Noise, *, study: optuna.Study | None = None) -> list[Trial]:
    """The whole search, drawn at once. `study` is checked; by default one of `independent_study`."""
    study = study or independent_study(noise)
    check_study(study)
    trials = []
    for _ in range(draw_runs(runs, noise)):
        asked = study.ask()
        choices = {key: suggested(asked, key, values) for key, values in space.items()}
        trials.append(Trial(choices=choices, seed=int(noise.uniform(1)[0] * 2**31)))
    return trials


def kept_plan(folder: Path, *, config_sha256: str) -> list[Trial] | None:
    """The plan that lies there, or None before the first draw.

    Raises CheckpointError where it can't be read, belongs to another search, or is gone while trials are there: to
    draw it anew would be another search, which nobody paid for.
    """
    path = folder / PLAN
    if not path.exists():
        if (folder / "trials").exists():
            raise CheckpointError(f"{path} is gone, and trials of it are there; start again with another --out.")
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        trials = [Trial(choices=trial["choices"], seed=int(trial["seed"])) for trial in stored["trials"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} can't be read, and is never drawn anew; start again with another --out."
        ) from error
    if stored.get("config_sha256") != config_sha256:
        raise CheckpointError(f"{path} belongs to a search of another configuration; choose another --out.")
    return trials


def keep_plan(folder: Path, trials: list[Trial], *, config_sha256: str) -> list[Trial]:
    """Write the plan durably, for its owner alone, unless one is there: the first wins, and is what comes back."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    plan = {"config_sha256": config_sha256, "trials": [vars(trial) for trial in trials]}
    draft = folder / f"{PLAN}.{os.getpid()}.part"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(plan, file)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, folder / PLAN)  # unlike a rename it never replaces
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    kept = kept_plan(folder, config_sha256=config_sha256)
    if kept is None:
        raise CheckpointError(f"{folder / PLAN} went away while it was written; start again with another --out.")
    return kept


def _between(low: float, high: float, share: float, log: bool) -> float:
    return math.exp(math.log(low) + share * (math.log(high) - math.log(low))) if log else low + share * (high - low)
