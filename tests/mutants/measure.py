"""The audit's table: claims against bounds on a real configuration, clean and with each bug that an audit can see.

python -m tests.mutants.measure simulations/configs/quickstart.yaml --canaries 2000
python -m tests.mutants.measure simulations/configs/quickstart.yaml --canaries 2000 --set privacy.unit=user \\
    --set dataset.clients=merchants
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pytest

from mmrank import components
from mmrank.features import build_features
from mmrank.privacy.audit import judge
from simulations.audit.training import attack, smallest_client
from simulations.config import load
from tests.mutants import bugs, client_bugs

OF_CLIENTS = {
    "clean": lambda patch: None,
    "noise a quarter": client_bugs.noise_times(1 / 4),
    "no noise": client_bugs.noise_times(0),
    "clip neither applied nor checked": client_bugs.no_clip_and_no_check,
}
OF_SHARES = {
    "clean": lambda patch: None,
    "noise a quarter": client_bugs.shares_times(1 / 4),
    "no noise": client_bugs.shares_times(0),
}
PLANTED = {
    "clean": lambda patch: None,
    "noise a quarter": bugs.noise_times(1 / 4),
    "no noise": bugs.noise_times(0),
    "clip not applied": bugs.no_clip,
    "a charge forgotten": bugs.charge_forgotten,
}
OF_PEOPLE = {**PLANTED, "people clipped by the slate": bugs.clipped_by_slate}


def main() -> None:
    """One line a claim and bug."""
    parser = argparse.ArgumentParser()
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    parser.add_argument("--epsilons", default="1,2,4")
    parser.add_argument("--planted-at", default="2")
    parser.add_argument("--canaries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    settings = load(asked.config, asked.overrides)
    dataset = components.build("client.datasets", settings.dataset, entry="load")
    features = build_features(dataset.catalog, settings.model, cache_dir=Path(settings.features_cache).expanduser())
    devices = settings.privacy.mechanism == "client_update"
    client = None if devices else smallest_client(dataset)
    own = "devices alone" if client is None else f"{client}, {len(dataset.slates(client, 'train'))} slates of its own"
    print(f"{own}, {asked.canaries} canaries")
    if devices:
        planted = OF_SHARES if settings.privacy.distributed else OF_CLIENTS
    else:
        planted = OF_PEOPLE if settings.privacy.unit == "user" else PLANTED
    print("| claim | planted | ledger's epsilon | bound 95% | bound 99.9% | ceiling | by | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for target in asked.epsilons.split(","):
        for name, plant in planted.items():
            if name != "clean" and target not in asked.planted_at.split(","):
                continue
            started = time.perf_counter()
            with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as state:
                plant(patch)
                found = attack(
                    load(asked.config, [*asked.overrides, f"privacy.epsilon={target}"]),
                    dataset=dataset,
                    features=features,
                    canaries=asked.canaries,
                    client=client,
                    seed=asked.seed,
                    state_dir=Path(state),
                )
            low, high = (
                judge(
                    found.scores,
                    found.included,
                    events=found.events,
                    delta=settings.privacy.delta,
                    confidence=confidence,
                )
                for confidence in (0.95, 0.999)
            )
            guessed = high.best.guessed
            print(
                f"| {target} | {name} | {high.claim:.2f} | {low.bound:.2f} | {high.bound:.2f}"
                f"{' REFUTED' if high.refuted else ''} | {high.ceiling:.2f} | {guessed.correct} of {guessed.guesses} "
                f"{guessed.side}, {guessed.score} | {time.perf_counter() - started:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
