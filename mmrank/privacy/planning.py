"""From a promise to a noise: the smallest noise multiplier that keeps (epsilon, delta) over a plan."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import Accountant, Event, epsilon, merged

TIGHTNESS = 0.005
"""A calibrated plan costs between (1 - TIGHTNESS) and 1 times its target."""
NOISE_BOUNDS = (0.05, 1e5)


def calibrate(
    *,
    sampling_rate: float,
    steps: int,
    epsilon: float,
    delta: float,
    accountant: Accountant = "pld",
    cache_dir: Path | str | None = None,
    beside: tuple[Event, ...] = (),
) -> float:
    """The noise multiplier with which `steps` steps cost at most `epsilon`, and at least 0.995 of it.

    beside: events of other parameters in the same plan, which `epsilon` covers as well.

    Kept for the process, and in `cache_dir` for others. A wrong file there costs noise or refusals,
    never privacy: the ledger recomputes epsilon from the noise that is used.
    Raises PrivacyError where no noise multiplier in [0.05, 1e5] reaches the target.
    """
    plan = (float(sampling_rate), int(steps), float(epsilon), float(delta), accountant)
    path = _cache_path(plan, cache_dir, merged(beside))
    known = _read(path)
    if known is not None:
        return known
    noise_multiplier = _calibrate(*plan, merged(beside))
    if path is not None:
        _write(path, noise_multiplier)
    return noise_multiplier


@lru_cache(maxsize=256)
def _calibrate(
    sampling_rate: float, steps: int, target: float, delta: float, accountant: Accountant, beside: tuple[Event, ...]
) -> float:
    if not (math.isfinite(target) and target > 0):
        raise PrivacyError(f"Expected epsilon={target} to be finite and above 0; set privacy.epsilon.")
    alone = epsilon(beside, delta, accountant=accountant)
    if alone >= target:
        raise PrivacyError(
            f"Expected what is released beside training to cost less than epsilon={target}, not {alone:.4g}; "
            "raise privacy.metrics.noise_multiplier or privacy.metrics.every."
        )

    def cost(noise_multiplier: float) -> float:
        event = Event(sampling_rate=sampling_rate, noise_multiplier=noise_multiplier, steps=steps)
        return epsilon([event, *beside], delta, accountant=accountant)

    low, high = _bracket(cost, _guess(sampling_rate, steps, target, delta), target)
    low_cost, high_cost = cost(low), cost(high)
    if low_cost <= target:
        return low  # the least noise that is ever used already keeps the promise
    for _ in range(60):
        if high_cost >= target * (1 - TIGHTNESS):
            return high
        middle = _between(low, high, low_cost, high_cost, target)
        middle_cost = cost(middle)
        if middle_cost <= target:
            high, high_cost = middle, middle_cost
        else:
            low, low_cost = middle, middle_cost
    return high


def _between(low: float, high: float, low_cost: float, high_cost: float, target: float) -> float:
    """Where log epsilon, taken as linear in log noise, meets a hair below the target; kept well inside."""
    share = 0.5
    if math.isfinite(low_cost) and 0 < high_cost < low_cost:
        aim = math.log(target * (1 - TIGHTNESS / 2))
        share = (math.log(low_cost) - aim) / (math.log(low_cost) - math.log(high_cost))
    return low * (high / low) ** min(max(share, 0.05), 0.95)


def _bracket(cost: Callable[[float], float], guess: float, target: float) -> tuple[float, float]:
    """(too little noise, enough noise), a few percent around the guess where it is good."""
    smallest, largest = NOISE_BOUNDS
    guess = min(max(guess, smallest), largest)
    factor = 1.1
    high = guess
    while cost(high) > target:
        if high >= largest:
            raise PrivacyError(
                f"No noise multiplier up to {largest:g} keeps epsilon={target}; raise privacy.epsilon or take fewer."
            )
        high, factor = min(high * factor, largest), factor * 1.5
    low, factor = high / 1.1, 1.1
    while low > smallest and cost(low) <= target:
        low, factor = max(low / factor, smallest), factor * 1.5
    return low, high


def _guess(sampling_rate: float, steps: int, target: float, delta: float) -> float:
    """Where to begin: the central limit (Bu et al. 2020) mu = q sqrt(T (e^(1/s^2) - 1)). Only a starting point."""
    mu = target / (math.sqrt(2 * math.log(1.25 / delta) + 2 * target) or 1.0)
    return 1 / math.sqrt(math.log1p((mu / sampling_rate) ** 2 / steps))


def _cache_path(
    plan: tuple[float, int, float, float, Accountant], cache_dir: Path | str | None, beside: tuple[Event, ...]
) -> Path | None:
    if cache_dir is None:
        return None
    others = [asdict(event) for event in beside]
    key = json.dumps([*plan, version("dp-accounting"), TIGHTNESS, *([others] if others else [])])
    return Path(cache_dir).expanduser() / f"noise-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"


def _read(path: Path | None) -> float | None:
    if path is None or not path.exists():
        return None
    try:
        value = json.loads(path.read_text())["noise_multiplier"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # cut short or foreign: computed again
    return float(value) if isinstance(value, float) and NOISE_BOUNDS[0] <= value <= NOISE_BOUNDS[1] else None


def _write(path: Path, noise_multiplier: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}.tmp")
    draft.write_text(json.dumps({"noise_multiplier": noise_multiplier}))
    draft.replace(path)
