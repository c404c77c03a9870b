"""`mmrank audit`: the claim, what an attack proved against it, and what membership inference finds."""

from __future__ import annotations

import contextlib
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from mmrank import components
from mmrank.errors import ConfigError
from mmrank.privacy.audit import METHODS, Verdict, judge
from server.checkpoint import read_model
from server.rounds import RoundReport
from simulations._folder import RunFolder, write_json
from simulations._stage import Shared, encoded, resolve_device
from simulations.audit.membership import charged_clients, membership
from simulations.audit.scores import Attack
from simulations.audit.training import attack, audited, smallest_client
from simulations.progress import Display

GATE = 0.999
CONFIDENCES = (0.95, GATE)
WEAK = 0.5
"""A canary that fills less of the clip shows that much less than one may: adamw moves all that it touches alike."""
KNOWS = "knows the canaries, not the coins; drew the queries and items of the canaries"
ADVERSARY = {
    "dp_sgd": f"sees every noisy step of the client, every update and the model; {KNOWS}",
    "central": f"sees the noisy mean and the model of every round, neither an update nor the cohort; {KNOWS}",
    "distributed": f"is the server: sees the sum and the model of every round; asks each device each round; {KNOWS}",
    "local": f"is the server: sees every device's noisy update and every model; asks each device each round; {KNOWS}",
}
ADJACENCY = {
    "dp_sgd": "add/remove one",
    "central": "zero-out: a registered device's data, or none",
    "distributed": "zero-out: a registered device's data, or none",
    "local": "replace-one: a device with its canary, or one with its opposite",
}


def audit_run(
    run: Path,
    *,
    canaries: int,
    client: str | None = None,
    seed: int | None = None,
    out: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Train the run's configuration with canaries, attack it and its released model, and report.

    seed: of coins, weights and seeded noise; drawn where None. out: keeps the training's state and audit.json; a
    temporary folder where None. `holds` is False where the bound at GATE passes the claim.
    Raises ConfigError for a folder without a finished run, one that makes no promise, or an `out` that is in use.
    """
    folder = RunFolder(run)
    settings = folder.settings()
    if not folder.model.exists():
        raise ConfigError(f"{run} has no model yet; finish it with mmrank simulate ... --out {run} --resume.")
    seed = secrets.randbits(63) if seed is None else seed
    display = Display(console)
    dataset = components.build("client.datasets", settings.dataset, entry="load")
    features = encoded(settings, dataset, resolve_device(settings.device), display, Shared())
    devices = settings.privacy.mechanism == "client_update"
    chosen = client or (None if devices else smallest_client(dataset))
    if chosen is not None:
        dataset.kind(chosen)  # an unknown client is an error of its own
    with _state(out) as state, display.phase("Audit", kind="audit", total=settings.federation.rounds) as update:

        def on_round(report: RoundReport) -> None:
            update(report.round_number, note=f"epsilon {report.epsilon_max:.2f}")

        found = attack(
            settings,
            dataset=dataset,
            features=features,
            canaries=canaries,
            client=chosen,
            seed=seed,
            state_dir=state,
            on_round=on_round,
        )
    with display.phase("Membership", kind="audit"):
        attacks = membership(
            settings,
            dataset=dataset,
            features=features,
            parameters=read_model(folder.model),
            seed=seed,
            asked=charged_clients(folder.path, settings, dataset) if devices else None,
        )
    kind = settings.privacy.noise_at if devices else settings.privacy.mechanism
    report = {
        "run": settings.name,
        "config_sha256": settings.sha256,
        "unit": settings.privacy.unit,
        "mechanism": settings.privacy.mechanism,
        "noise": settings.privacy.noise,
        "adjacency": ADJACENCY[kind],
        "adversary": ADVERSARY[kind],
        "client": chosen,
        "seed": seed,
        "also_trained": sorted(set(audited(settings, seed).model.trainable) - set(settings.model.trainable)),
        **verdicts(found, settings.privacy.delta),
        "membership": attacks,
        "seconds": round(sum(display.seconds.values()), 2),
    }
    if out is not None:
        write_json(out / "audit.json", report)
    return report


def verdicts(found: Attack, delta: float) -> dict[str, Any]:
    """The claim and the bounds at each confidence; `holds` by the one at GATE."""
    judged = {
        confidence: judge(found.scores, found.included, events=found.events, delta=delta, confidence=confidence)
        for confidence in CONFIDENCES
    }
    gate = judged[GATE]
    return {
        "epsilon": gate.claim,
        "delta": delta,
        "canaries": gate.canaries,
        "included": int(found.included.sum()),
        "rounds": found.rounds,
        "share_of_clip": found.share,
        "lower_bound": {f"{confidence:g}": _bound(verdict) for confidence, verdict in judged.items()},
        "below_resolution": gate.below_resolution,
        "holds": not gate.refuted,
    }


def sentence(report: dict[str, Any]) -> str:
    """What the report comes to."""
    bound = report["lower_bound"][f"{GATE:g}"]["epsilon"]
    claim = f"epsilon {report['epsilon']:.3g} at delta {report['delta']:g}, unit {report['unit']}"
    if not report["holds"]:
        if report["lower_bound"][f"{GATE:g}"]["method"] == METHODS[1]:
            return (
                f"BROKEN: the trade-off curve of what was charged does not hold (confidence {GATE:.1%}); of that kind "
                f"of noise epsilon is at least {bound:.3g}, and {claim} is claimed."
            )
        return f"BROKEN: epsilon is at least {bound:.3g} (confidence {GATE:.1%}), and {claim} is claimed."
    if report["below_resolution"]:
        return (
            f"Below resolution: {report['canaries']} canaries can't refute {claim}, whatever is guessed; "
            "give more --canaries."
        )
    filled = report["share_of_clip"]
    weak = f" The canaries filled {filled:.0%} of the clip alone: a weak attack." if filled < WEAK else ""
    more = "".join(f" {name} was trained as well, for canaries to show." for name in report["also_trained"])
    return f"The claim stands: {claim}; the attack proves at least {bound:.3g} (confidence {GATE:.1%}).{weak}{more}"


def _bound(verdict: Verdict) -> dict[str, Any]:
    best = verdict.best
    return {
        "epsilon": best.bound,
        "score": best.guessed.score,
        "method": best.method,
        "side": best.guessed.side,
        "guesses": best.guessed.guesses,
        "correct": best.guessed.correct,
        "tests": verdict.tests,
        "ceiling": verdict.ceiling,
    }


@contextlib.contextmanager
def _state(out: Path | None) -> Iterator[Path]:
    if out is None:
        with tempfile.TemporaryDirectory(prefix="mmrank-audit-") as folder:
            yield Path(folder)
        return
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} already holds files; choose another --out. Nothing was changed.")
    out.mkdir(parents=True, exist_ok=True)
    yield out
