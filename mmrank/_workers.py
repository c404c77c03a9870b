"""Threads that share the batches of a long encoding.

Threads, not processes: decoding, NumPy and PyTorch let others run while they compute, a process would first spend
seconds on importing PyTorch and hundreds of megabytes on holding it, and a data set's pictures need not be picklable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

from mmrank.errors import ConfigError

T = TypeVar("T")

MOST_BY_DEFAULT = 8
"""What Python itself does is done by one thread at a time."""


def count_workers(workers: int | None) -> int:
    """`workers`, or by default one for each core that this process may use, at most 8. Raises ConfigError below 1."""
    if workers is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, MOST_BY_DEFAULT)
    if workers < 1:
        raise ConfigError(f"Expected workers={workers} of at least 1; set --workers, or leave it out.")
    return workers


def completed(work: Callable[[list[int]], T], batches: Sequence[list[int]], *, workers: int) -> Iterator[T]:
    """What `work` returns for each batch, as soon as it does; at most `workers` batches are in work at once.

    The first batch is done before others begin: an encoder loads its network with it. What `work` raises is raised
    here, after the batches that are in work have ended.
    """
    ahead = iter(batches)
    running: set[Future[T]] = set()
    with ThreadPoolExecutor(workers, thread_name_prefix="encode") as pool:
        try:
            for batch in islice(ahead, 1):
                yield pool.submit(work, batch).result()
            running = {pool.submit(work, batch) for batch in islice(ahead, workers + 1)}
            while running:
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(work, batch) for batch in islice(ahead, len(ended))}
                for future in ended:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()
