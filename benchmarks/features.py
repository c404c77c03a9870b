"""Pictures a second of `mmrank features` beside the bare encoder's own rate.

    python benchmarks/features.py /data/hm --pictures 2000 --repeats 5

Ways through the same pictures, in turn, again and again:

- bare: the encoder alone, on pictures that were decoded beforehand, in the same batches and as many threads.
- features: `build_features` into an empty cache, by its own count of seconds; `whole` is the whole call, with the
  components and the style that are fitted to the rows once they are there.
- squared: as bare, with pictures that were brought to the encoder's size beforehand as well: nothing but encoding.
- serial: one thread that decodes a batch and then encodes it.
- caller: as bare, by one caller with PyTorch on as many cores, over the first pictures only: where others work on the
  machine, cores that share each product wait for the one that is away.

Prints one JSON value: the median rate of each, and the median over the repeats of features/bare and features/squared
within a repeat. Other work on the machine moves rates by half: compare ratios, those of one run, and best those of the
time that all cores together were busy (`by_cpu`), which others move less. `alone` is the ratio of bare's time to that
of what a worker of features does, reading, encoding and keeping, in one thread, batch beside batch, the least of many
tries each: what there is without others and without the start.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mmrank import components
from mmrank._pictures import PictureReader
from mmrank._row_cache import keys_of
from mmrank._row_log import RowLog
from mmrank._sides import IMAGE_BATCH
from mmrank._workers import completed, count_workers
from mmrank.catalog import Catalog
from mmrank.encoders.image._pixels import square
from mmrank.features import build_features
from mmrank.settings import ModelSettings

WAYS = ("bare", "features", "whole", "squared", "serial", "caller")
FEW = 320
"""Pictures of the way that others slow down most."""


def first_items(catalog: Catalog, count: int) -> Catalog:
    """The catalogue's first items."""
    columns = ("item_ids", "titles", "prices", "merchants", "categories")
    return replace(catalog, **{name: getattr(catalog, name)[:count] for name in columns})


@dataclass
class Run:
    """What one way through the pictures took: seconds on the wall, and of all cores together."""

    seconds: float
    cpu_seconds: float
    pictures: int


def timed(work: Callable[[list[int]], Any], items: int, *, workers: int, cores: int = 1) -> Run:
    """Call `work` on batches of all positions, in so many threads with PyTorch on so many cores each."""
    batches = [list(range(start, min(start + IMAGE_BATCH, items))) for start in range(0, items, IMAGE_BATCH)]

    def on_cores(positions: list[int]) -> None:
        torch.set_num_threads(cores)
        work(positions)

    begun, begun_cpu = time.perf_counter(), time.process_time()
    for _ in completed(on_cores, batches, workers=workers):
        pass
    return Run(time.perf_counter() - begun, time.process_time() - begun_cpu, items)


def built(catalog: Catalog, model: ModelSettings, *, workers: int) -> tuple[Run, Run]:
    """`build_features` into an empty cache: the encoding, and the whole call."""
    cpu: list[float] = []
    ended: list[bool] = []  # the last report comes again, after the table was written

    def note(name: str, done: int, total: int) -> None:
        if not ended:
            cpu.append(time.process_time())
            ended.extend([True] * (done == total))

    with tempfile.TemporaryDirectory() as folder:
        begun, begun_cpu = time.perf_counter(), time.process_time()
        table = build_features(catalog, model, cache_dir=folder, workers=workers, progress=note)
        whole = Run(time.perf_counter() - begun, time.process_time() - begun_cpu, len(catalog))
    return Run(table.work["image"].seconds, cpu[-1] - cpu[0], len(catalog)), whole


def measure(catalog: Catalog, model: ModelSettings, *, workers: int, repeats: int) -> dict[str, list[Run]]:
    """The ways, by repeat."""
    encoder = components.build("mmrank.encoders.image", model.image)
    digests = [catalog.images.digest(index) for index in range(len(catalog))]
    read = PictureReader(catalog.images, digests, encoder.size)
    decoded = [catalog.images(index) for index in range(len(catalog))]
    squares = [None if picture is None else square(picture, encoder.size) for picture in decoded]
    encoder.rows(squares[:IMAGE_BATCH])  # loads the network

    def taking(pictures: Callable[[int], np.ndarray | None]) -> Callable[[list[int]], Any]:
        return lambda positions: encoder.rows([pictures(position) for position in positions])

    runs: dict[str, list[Run]] = {name: [] for name in WAYS}
    for repeat in range(repeats):
        runs["bare"].append(timed(taking(decoded.__getitem__), len(catalog), workers=workers))
        encoding, whole = built(catalog, model, workers=workers)
        runs["features"].append(encoding)
        runs["whole"].append(whole)
        runs["squared"].append(timed(taking(squares.__getitem__), len(catalog), workers=workers))
        runs["serial"].append(timed(taking(read), len(catalog), workers=1))
        few = min(FEW, len(catalog))
        runs["caller"].append(timed(taking(decoded.__getitem__), few, workers=1, cores=workers))
        if sys.stderr.isatty():
            told = ", ".join(f"{name} {values[-1].pictures / values[-1].seconds:.0f}" for name, values in runs.items())
            print(f"{repeat + 1} of {repeats}: pictures a second: {told}", file=sys.stderr)
    return runs


def alone(catalog: Catalog, model: ModelSettings, *, batches: int = 10, tries: int = 15) -> float:
    """How fast a worker of features is beside the bare encoder."""
    encoder = components.build("mmrank.encoders.image", model.image)
    items = range(min(batches * IMAGE_BATCH, len(catalog)))
    digests = [catalog.images.digest(index) for index in items]
    read, keys = PictureReader(catalog.images, digests, encoder.size), keys_of(digests)
    decoded = [catalog.images(index) for index in items]
    torch.set_num_threads(1)
    encoder.rows(decoded[:IMAGE_BATCH])  # loads the network
    least: dict[str, dict[int, float]] = {"bare": {}, "worker": {}}
    with tempfile.TemporaryDirectory() as folder, RowLog(Path(folder) / "log") as log:

        def keep(here: range) -> None:
            pictures = [read(index) for index in here]
            present = np.array([picture is not None for picture in pictures])
            log.append(keys[here][present], encoder.rows(pictures)[present])

        ways: dict[str, Callable[[range], Any]] = {
            "bare": lambda here: encoder.rows([decoded[index] for index in here]),
            "worker": keep,
        }
        for _ in range(tries):
            for start in range(0, len(items), IMAGE_BATCH):
                for name, way in ways.items():
                    begun = time.thread_time()
                    way(items[start : start + IMAGE_BATCH])
                    spent = time.thread_time() - begun
                    least[name][start] = min(spent, least[name].get(start, spent))
    return sum(least["bare"].values()) / sum(least["worker"].values())


def summary(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Median rates, and median ratios within a repeat."""
    found: dict[str, Any] = {}
    for name, values in runs.items():
        found[f"{name}_per_second"] = round(statistics.median(run.pictures / run.seconds for run in values), 1)
        each = statistics.median(run.cpu_seconds / run.pictures for run in values)
        found[f"{name}_cpu_ms_each"] = round(each * 1e3, 3)
    for name in ("bare", "squared"):
        pairs = list(zip(runs["features"], runs[name], strict=True))
        ratios = [other.seconds / own.seconds for own, other in pairs]
        found[f"features_to_{name}"] = round(statistics.median(ratios), 3)
        found[f"features_to_{name}_each"] = [round(ratio, 3) for ratio in ratios]
        cpu = statistics.median(other.cpu_seconds / own.cpu_seconds for own, other in pairs)
        found[f"features_to_{name}_by_cpu"] = round(cpu, 3)
    return found


def main() -> None:
    """Measure over the first pictures of an H&M folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, help="a folder that the data set hm reads")
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--workers", type=int, default=None, help="threads; one for each core by default")
    parser.add_argument("--encoder", default="efficientnet")
    asked = parser.parse_args()
    dataset = components.build("client.datasets", {"name": "hm", "root": asked.root}, entry="load")
    catalog = first_items(dataset.catalog, asked.pictures)
    workers = count_workers(asked.workers)
    model = ModelSettings(image={"name": asked.encoder}, use_text=False)
    runs = measure(catalog, model, workers=workers, repeats=asked.repeats)
    found = {"pictures": len(catalog), "encoder": asked.encoder, "workers": workers, **summary(runs)}
    found["features_to_bare_alone"] = round(alone(catalog, model), 3)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
