"""What secure noise costs beside torch's own seeded noise, float32, one thread.

    OMP_NUM_THREADS=1 python benchmarks/noise.py

Times are of the thread on its processor, so that a busy machine, which interrupts the longer of two calls more often,
does not count. Each ratio is the median over repeats that alternate between the two.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from mmrank.privacy.noise import SecureNoise, snapped

SIZES = (16_384, 50_000, 529_000)
REPEATS = 61


def seconds(call: Callable[[], object]) -> float:
    """Processor time of one call on this thread."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def measure(size: int, repeats: int = REPEATS) -> dict[str, float]:
    """Medians in milliseconds of torch's float32 noise, ours in float32 and float64, and of `snapped`; the ratio."""
    generator, secure = torch.Generator().manual_seed(1), SecureNoise()
    total = secure.normal((size,), 1.0, dtype=torch.float64)
    calls: dict[str, Callable[[], object]] = {
        "torch_ms": lambda: torch.randn(size, generator=generator),
        "secure_ms": lambda: secure.normal((size,), 1.0),
        "secure_float64_ms": lambda: secure.normal((size,), 1.0, dtype=torch.float64),
        "snapped_ms": lambda: snapped(total, 1.0),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(1e3 * seconds(call))
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [secure / plain for secure, plain in zip(times["secure_ms"], times["torch_ms"], strict=True)]
    return {**medians, "ratio": statistics.median(ratios)}


def main() -> None:
    """One line a size."""
    torch.set_num_threads(1)
    for size in SIZES:
        print(f"{size:>9,} values  " + "  ".join(f"{name} {value:.3f}" for name, value in measure(size).items()))


if __name__ == "__main__":
    main()
