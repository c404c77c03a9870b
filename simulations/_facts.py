"""What result.json says of the run besides its figures: public facts of settings, model and promise."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmrank.privacy.mechanism import build_mechanism
from mmrank.ranker import build_ranker
from mmrank.settings import Settings
from simulations._federation import epsilons

ADJACENCY = {"dp_sgd": "add/remove one", "no_privacy": "none"}
SAMPLER = {"dp_sgd": "Poisson", "no_privacy": "none"}
ACCOUNTANT = {"dp_sgd": "PLD (dp-accounting)", "no_privacy": "none"}


def privacy_facts(settings: Settings, state_dir: Path) -> dict[str, Any]:
    """The promise and what was spent of it.

    With dp_sgd the noise is added inside the client, so what the server sees and what the released model
    shows cost the same epsilon, and no sampling of clients is counted.
    """
    privacy = settings.privacy
    mechanism = build_mechanism(privacy, settings.training, rounds=settings.federation.rounds, cache_dir=state_dir)
    largest, median = epsilons(state_dir, settings)
    private = privacy.mechanism != "no_privacy"
    budget = (privacy.budget_epsilon or privacy.epsilon) if private else None
    return {
        "mechanism": privacy.mechanism,
        "unit": mechanism.unit if private else "none",
        "adjacency": ADJACENCY[privacy.mechanism],
        "sampler": SAMPLER[privacy.mechanism],
        "delta": privacy.delta,
        "epsilon_max": largest,
        "epsilon_median": median,
        "epsilon_server_view": largest,
        "budget": float("inf") if budget is None else budget,
        "accountant": ACCOUNTANT[privacy.mechanism],
        "noise": privacy.noise,
        "noise_multiplier": mechanism.event.noise_multiplier,
        "sampling_rate": mechanism.event.sampling_rate,
        "max_grad_norm": privacy.max_grad_norm if private else float("inf"),
        "ledger": privacy.ledger,
    }


def model_facts(settings: Settings) -> dict[str, Any]:
    """Sizes of the model that clients train."""
    parameters = list(build_ranker(settings.model, seed=settings.seed).parameters())
    return {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trainable_parameters": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
    }


@lru_cache(maxsize=1)
def version_control() -> str | None:
    """The project's commit, marked where files differ from it; None where it is not a checkout."""
    root = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None  # no git, or an installed copy
        return done.stdout.strip()

    top, commit = git("rev-parse", "--show-toplevel"), git("rev-parse", "HEAD")
    if top is None or commit is None or Path(top).resolve() != root:
        return None
    return commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
