"""`mmrank budget classes`: q, steps and sigma from a size that a merchant declares, without telling its count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmrank.errors import ConfigError
from mmrank.privacy.federations import planned_noise
from mmrank.privacy.plans import Plan, Unit
from mmrank.privacy.size_classes import WHY, SizeClass, class_rates, edges
from simulations.budget.ask import number


def parse_sizes(text: str) -> list[float]:
    """
    >>> parse_sizes("1e3, 10000")
    [1000.0, 10000.0]
    """
    words = [word for word in text.split(",") if word.strip()]
    if not words:
        raise ConfigError(f"Expected --sizes {text!r} to hold sizes, separated by commas; for example 1e3,1e4,1e5.")
    return [number(word, float, "--sizes") for word in words]


def classes(
    *,
    sizes: Sequence[float],
    batch: float,
    rounds: int,
    local_steps: int,
    epsilon: float,
    delta: float,
    unit: Unit = "slate",
    parameters: int = 1,
) -> dict[str, Any]:
    """{"classes": [...], "why", "warnings"}: one line a class, smallest first. Raises PrivacyError or ConfigError.

    parameters: trainable ones of the model, over which the noise of a step is spread.
    """
    if parameters < 1:
        raise ConfigError(f"Expected --parameters={parameters} to be at least 1; give the model's trainable ones.")
    lines, warnings = [], []
    for (low, high), size, rate in zip(edges(sizes), sorted(sizes), class_rates(sizes, batch), strict=True):
        shape: dict[str, Any] = {
            "mechanism": "dp_sgd", "unit": unit, "noise_at": "client", "sampling_rate": rate,
            "rounds": rounds, "steps_per_round": local_steps, "delta": delta,
        }  # fmt: skip
        plan = Plan(**shape, noise_multiplier=planned_noise(**shape, epsilon=epsilon))
        found = SizeClass(size=size, low=low, high=high, batch=batch, plan=plan)
        lines.append(_line(found, parameters))
        if delta * high >= 1:
            warnings.append(
                f"delta={delta:g} is at least one over the {high:.3g} {unit}s of the largest merchant in the class "
                f"{size:.3g}; take a delta well below."
            )
    return {
        "unit": unit,
        "adjacency": plan.headline.adjacency,
        "sampler": plan.headline.sampler,
        "view": plan.headline.view,
        "trusted": plan.headline.trusted,
        "delta": delta,
        "target": epsilon,
        "rounds": rounds,
        "local_steps": local_steps,
        "parameters": parameters,
        "classes": lines,
        "why": WHY,
        "warnings": warnings,
    }


def _line(found: SizeClass, parameters: int) -> dict[str, Any]:
    plan = found.plan
    places = {"low": found.low, "declared": found.size, "high": found.high}
    return {
        "class": found.size,
        "from": found.low,
        "to": found.high,
        "sampling_rate": plan.sampling_rate,
        "noise_multiplier": plan.noise_multiplier,
        "epsilon": plan.epsilon(),
        "expected_batch": {place: found.expected_batch(records) for place, records in places.items()},
        "signal_to_noise": {
            place: found.signal_to_noise(records, parameters=parameters) for place, records in places.items()
        },
    }
