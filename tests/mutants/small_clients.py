"""An audit of whole clients that takes seconds: real rounds, population, ledger and mechanism; a weight a client.

Each client's update points along a weight of its own, and goes through the mechanism's own release. The attacker sees
each round's noisy mean, or each noisy update where the noise is local.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmrank.privacy.accountant import Event
from mmrank.privacy.audit import Verdict, judge
from mmrank.privacy.client_update import ClientUpdate
from mmrank.privacy.noise import SeededNoise
from mmrank.protocol import TrainReply
from mmrank.settings import Settings, parse
from server.checkpoint import run_identity
from server.population import open_population
from server.rounds import RoundReport, run_rounds
from simulations.audit.scores import log_likelihood_ratio, log_likelihood_ratio_of_opposites

CLIENTS = 500
CLIP = 0.5
STEEPNESS = 5.0
"""An update before the clip, over it."""


def settings(*, rounds: int = 10, seed: int = 7, **privacy) -> Settings:
    """Epsilon 1.9 at delta 1e-5, unless changed."""
    facts = {"sampling_rate": 1.0, "noise_multiplier": 6.5, "noise": "seeded", "delta": 1e-5, "max_grad_norm": CLIP}
    return parse(
        {
            "seed": seed,
            "federation": {"rounds": rounds, "cohort_size": CLIENTS},
            "privacy": {"mechanism": "client_update", "unit": "client", **facts, **privacy},
        }
    )


class Devices:
    """A messenger whose clients move a weight of their own: up where in; where out not at all, or under local down."""

    def __init__(self, mechanism: ClientUpdate, included: np.ndarray, seed: int) -> None:
        self.mechanism, self.included, self.seed = mechanism, included, seed
        self.names = [f"client-{row:03d}" for row in range(len(included))]
        self.cohorts: list[list[str]] = []
        self.scores = np.zeros(len(included))

    def clients(self, at_least):
        return self.names

    def merchants(self, clients):
        return frozenset()

    def exchange(self, clients, request, timeout_seconds, acknowledged=None):
        self.cohorts.append(list(clients))
        local = self.mechanism.noise_at == "local"
        for client in clients:
            row = int(client[-3:])
            learned = np.zeros(len(self.included))
            learned[row] = STEEPNESS * CLIP * (1 if self.included[row] else -1 if local else 0)
            noise = SeededNoise(self.seed, client, request.run, request.round_number)
            update = self.mechanism.release({"weights": learned}, clip=CLIP, noise=noise)
            if local:
                seen = float(update["weights"][row]) / CLIP
                self.scores[row] += log_likelihood_ratio_of_opposites(seen, 1.0, self.mechanism.update_noise)
            yield (
                client,
                TrainReply(code="ok", client=client, round_number=request.round_number, update=update, epsilon=0.0),
            )


def train(asked: Settings, included: np.ndarray, folder: Path) -> tuple[Devices, list[RoundReport], np.ndarray]:
    """(the clients, each round's report, the final weights [m])."""
    # seeded noise is bound to the run's name, and a name made of the settings would change it with every new setting
    run_identity(folder / "checkpoint", config_sha256=asked.sha256, fresh="audit")
    population = open_population(asked, state_dir=folder)
    devices, reports = Devices(population.mechanism, included, asked.seed), []
    final = run_rounds(
        asked,
        initial={"weights": np.zeros(len(included), np.float32)},
        messenger=devices,
        checkpoint_dir=folder / "checkpoint",
        resume=True,
        on_round=reports.append,
    )
    return devices, reports, final["weights"].astype(float)


def spent(asked: Settings, folder: Path) -> tuple[Event, ...]:
    """What the population ledger holds; of a device under local noise, what as many participations cost."""
    population = open_population(asked, state_dir=folder)
    if population.account is not None:
        return population.account.events()
    return (population.mechanism.event,) * asked.federation.rounds


def audit(asked: Settings, folder: Path, *, seed: int, confidence: float = 0.999) -> Verdict:
    """Half of the clients by a coin, all rounds, and what they show against the ledger's claim."""
    included = np.random.default_rng([seed, 1]).random(CLIENTS) < 0.5
    devices, reports, final = train(asked, included, folder)
    scores = devices.scores
    for report in reports:
        if report.noisy_mean is not None:
            seen = report.noisy_mean["weights"] * CLIENTS / CLIP
            scores = scores + log_likelihood_ratio(
                seen, np.ones(CLIENTS), devices.mechanism.update_noise, devices.mechanism.sampling_rate
            )
    return judge(
        {"rounds": scores, "model": final}, included, events=spent(asked, folder), delta=1e-5, confidence=confidence
    )
