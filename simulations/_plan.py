"""`mmrank budget plan`: what a plan costs, or the noise that it needs."""

from __future__ import annotations

from typing import Any

from mmrank.errors import ConfigError
from mmrank.privacy.accountant import Event
from mmrank.privacy.accountant import epsilon as epsilon_of
from mmrank.privacy.planning import calibrate


def plan(
    *, sampling_rate: float, steps: int, delta: float, noise_multiplier: float | None, target: float | None
) -> dict[str, Any]:
    """Epsilon of a noise multiplier, or the noise multiplier of an epsilon."""
    if (noise_multiplier is None) == (target is None):
        raise ConfigError("Expected one of --noise-multiplier and --epsilon; give one, and the other is computed.")
    if noise_multiplier is None:
        noise_multiplier = calibrate(sampling_rate=sampling_rate, steps=steps, epsilon=target or 0.0, delta=delta)
    event = Event(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier, steps=steps)
    return {
        "epsilon": epsilon_of([event], delta),
        "noise_multiplier": noise_multiplier,
        "sampling_rate": sampling_rate,
        "steps": steps,
        "delta": delta,
        "adjacency": "add/remove one",
        "sampler": "Poisson",
        "accountant": "PLD (dp-accounting)",
    }
