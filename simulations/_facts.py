"""What result.json says of the run besides its figures: public facts of settings, model and promise."""

from __future__ import annotations

import math
import subprocess
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mmrank.privacy import inspection
from mmrank.privacy.accountant import epsilon
from mmrank.privacy.client_update import ClientUpdate
from mmrank.privacy.distributed_update import DistributedUpdate
from mmrank.privacy.group import changed_epsilon, group_epsilon
from mmrank.privacy.ledger import SECONDS_A_DAY, Standing
from mmrank.privacy.mechanism import build_mechanism
from mmrank.privacy.metrics_release import planned_events
from mmrank.ranker import build_ranker
from mmrank.settings import PrivacySettings, Settings
from server.population import LEDGER as POPULATION_LEDGER
from server.population import POPULATION, population_key
from simulations._federation import epsilons
from simulations._folder import RunFolder, private_fields, read_table

ACCOUNTANT = "PLD (dp-accounting)"
ACCOUNTANT_OF_SUMS = "RDP (dp-accounting)"
"""A sum of discrete Gaussians is known to be concentrated, not to have a Gaussian's distribution of losses."""


@dataclass(frozen=True)
class _Promise:
    """How an epsilon of one kind has to be read."""

    adjacency: str
    sampler: str
    trust: str
    view: str


CLIENT_ALONE = "nobody outside of the client"
EVERYBODY = "the server and all who see the models"
PROMISES = {
    "no_privacy": _Promise("none", "none", "everybody", "none"),
    "slate": _Promise("add/remove one slate", "Poisson, of slates in each step", CLIENT_ALONE, EVERYBODY),
    "user": _Promise("add/remove one person", "Poisson, of people in each step", CLIENT_ALONE, EVERYBODY),
    "central": _Promise(
        "zero-out of one client's data",
        "Poisson, of clients in each round",
        "the server, which sees each clipped update and adds the noise",
        "those who see the released models, but no update",
    ),
    "distributed": _Promise(
        "zero-out of one client's data",
        "none counted: each participation is charged in full",
        "the server to follow the protocol (honest but curious), and enough of the survivors: see secure_threshold and "
        "colluders",
        EVERYBODY,
    ),
    "stream": _Promise(
        "zero-out of all that one client contributed to the run",
        "none counted: cohorts that nobody sampled, a client in at most so many rounds, evenly apart",
        "the server, which sees each clipped update and adds the noise",
        "those who see the released models, but no update",
    ),
    "local": _Promise(
        "replace one client's data", "none counted: each participation is charged in full", CLIENT_ALONE, EVERYBODY
    ),
}


def promise_of(privacy: PrivacySettings) -> _Promise:
    """What the settings promise, in words."""
    if privacy.mechanism == "client_update":
        return PROMISES["stream" if privacy.stream else privacy.noise_at]
    return PROMISES[privacy.unit if privacy.mechanism == "dp_sgd" else privacy.mechanism]


def privacy_facts(settings: Settings, state_dir: Path) -> dict[str, Any]:
    """The promise and what was spent of it.

    epsilon_max is against those that `view` names, and with renewal the worst over the periods that one datum lived
    through. epsilon_server_view: with noise inside the clients the same, since
    then nothing is sampled behind the server's back; infinite where the server itself adds the noise.
    """
    privacy = settings.privacy
    mechanism = build_mechanism(
        privacy,
        settings.training,
        settings.federation,
        cache_dir=state_dir,
        dimension=model_facts(settings)["trainable_parameters"],
    )
    largest, median = epsilons(state_dir, settings)
    private = privacy.mechanism != "no_privacy"
    promise = promise_of(privacy)
    standing = spent_most(settings, state_dir) if private else None
    event = mechanism.population_event if privacy.central and isinstance(mechanism, ClientUpdate) else mechanism.event
    return {
        "mechanism": privacy.mechanism,
        "noise_at": privacy.noise_at if privacy.mechanism == "client_update" else "client" if private else "none",
        "unit": mechanism.unit if private else "none",
        "slates_per_user": mechanism.slates_per_unit if privacy.unit == "user" else None,
        "adjacency": promise.adjacency,
        "sampler": promise.sampler,
        "trust": promise.trust,
        "view": promise.view,
        "delta": privacy.delta,
        "epsilon_max": largest,
        "epsilon_median": median,
        "epsilon_server_view": math.inf if privacy.central else largest,
        "budget": privacy.budget,
        "accountant": _accountant(privacy, standing) if private else "none",
        "composition": "plan" if standing is None else standing.composition,
        "delta_in_all": privacy.delta if standing is None else standing.delta,
        "noise": privacy.noise,
        "noise_multiplier": event.noise_multiplier,
        "sampling_rate": event.sampling_rate,
        "max_grad_norm": privacy.max_grad_norm if private else float("inf"),
        "clipping": privacy.clipping,
        "participations": mechanism.stream.max_participations
        if isinstance(mechanism, ClientUpdate) and mechanism.stream is not None
        else None,
        "noise_cohort_size": privacy.noise_cohort_size,
        "secure_threshold": mechanism.shares.threshold if isinstance(mechanism, DistributedUpdate) else None,
        "secure_cohort": mechanism.shares.cohort if isinstance(mechanism, DistributedUpdate) else None,
        "colluders": privacy.colluders if privacy.distributed else None,
        "ledger": privacy.ledger,
        "metrics": metrics_facts(settings, state_dir),
    } | _people(settings, state_dir)


def _people(settings: Settings, state_dir: Path) -> dict[str, Any]:
    """What people pay who are more than one unit of the ledger that paid most, each composed anew from its events.

    Nothing where a filter's rule holds: plans were then chosen in view of results, and no losses compose so.
    """
    privacy = settings.privacy
    standing, delta = spent_most(settings, state_dir), privacy.delta
    if privacy.mechanism != "dp_sgd" or (standing is not None and standing.composition == "filter"):
        return {}
    events = () if standing is None else standing.events
    twice = [*events, *events]
    found: dict[str, Any] = {"person_at_two_merchants": epsilon(twice, delta)}
    if privacy.unit == "slate":
        histories = settings.model.history_length if settings.model.use_behaviour else 0
        found |= {
            "person_with_slates": {str(units): group_epsilon(events, delta, units=units) for units in (5, 10)},
            # above it is one slate at each
            "person_at_two_merchants_with_slates": {"5": group_epsilon(twice, delta, units=5)},
            "event_in_histories": {
                "histories": histories,
                # its own slate may stay, with something else in its place
                "epsilon": changed_epsilon(events, delta, own=0, changed=histories + 1),
            },
        }
    return found


def _accountant(privacy: PrivacySettings, standing: Standing | None) -> str:
    if standing is not None and standing.composition == "filter":
        return "Renyi filter at one order, since plans were chosen one after another: the budget is what is promised"
    return ACCOUNTANT_OF_SUMS if privacy.distributed else ACCOUNTANT


def spent_most(settings: Settings, state_dir: Path) -> Standing | None:
    """Where the ledger stands that paid most, in the file that this run charged; the population's, where the server
    adds the noise. None before any charge.
    """
    central, throwaway = settings.privacy.central, settings.privacy.ledger == "throwaway"
    thrown = state_dir / (POPULATION_LEDGER if central else "ledger.sqlite")
    path = thrown if throwaway else Path(settings.privacy.ledger).expanduser()
    if not path.is_file():
        return None
    with inspection.reading(path) as connection:
        accounts = inspection.look(connection, clock_days=time.time() / SECONDS_A_DAY)
    found = [
        account.standing
        for account in accounts
        if (account.key == population_key(settings) if central else not account.key.startswith(POPULATION))
    ]
    return max(found, key=lambda standing: standing.lifetime_epsilon, default=None)


def metrics_facts(settings: Settings, state_dir: Path) -> dict[str, Any] | None:
    """What clients released of the last model that they were asked about, and how; None where they release nothing.

    It is private by itself, whatever else of the run is not.
    """
    metrics = settings.privacy.metrics
    if metrics is None:
        return None
    told = [line for line in read_table(RunFolder(state_dir).rounds) if line["private_releases"]]
    planned = planned_events(settings.privacy, rounds=settings.federation.rounds)
    facts: dict[str, Any] = {
        "noise_multiplier": metrics.noise_multiplier,
        "every": metrics.every,
        "asked": metrics.asked,
        "releases_of_a_client_planned": sum(event.steps for event in planned),
        "rounds": [int(line["round"]) for line in told],
    }
    if not told:
        return facts
    last = told[-1]
    estimates = {
        name: dict(zip(("mean", "low", "high"), (float(last[field]) for field in private_fields(name)), strict=True))
        for name in metrics.measures
    }
    count = {"mean": float(last["private_count"]), "std": float(last["private_count_std"])}
    return facts | {"round": int(last["round"]), "releases": int(last["private_releases"]), "count": count} | estimates


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
