"""How fast tables are read and checked, and how much memory that takes, beside polars reading the same file.

    python benchmarks/tables.py --rows 100000,1000000,10000000 --folder /tmp/tables

Each size is written once (events.csv and events.parquet over 100,000 items) and measured in processes of its own, as a
check, as a data set with some slates made, and by polars (pip install polars). Seconds are of CPU and of the clock;
memory is the most that a process held.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

ITEMS = 100_000
SLATES_OF = 2000
MAP = {
    "items": {"file": "items.csv", "id": "item_id", "title": "title", "category": "category", "price": "price"},
    "clients": "user",
}
EVENTS = {"user": "user_id", "item": "item_id", "time": "timestamp", "type": "event_type", "query": "query"}


def write(folder: Path, rows: int) -> None:
    """The tables, unless they are there."""
    if (folder / "events.parquet").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    ids = pa.array([f"{item:08d}" for item in range(ITEMS)])
    columns: dict[str, Any] = {
        "item_id": ids,
        "title": pa.array([f"product {item} of kind {item % 300}" for item in range(ITEMS)]),
        "category": pa.array([f"kind {item % 300}" for item in range(ITEMS)]),
        "price": pa.array(np.round(draw.uniform(1, 90, ITEMS), 2)),
    }
    pyarrow.csv.write_csv(pa.table(columns), folder / "items.csv")
    kinds, queries = np.array(["view", "click", "purchase"]), np.array(["", "red shoes", "bags", "男鞋"])
    columns = {
        "user_id": pa.array(draw.integers(0, max(rows // 12, 10), rows)).cast(pa.string()),
        "item_id": ids.take(pa.array((draw.pareto(1.2, rows) * 50).astype(np.int64) % ITEMS)),
        "timestamp": pa.array(np.sort(draw.integers(1_690_000_000, 1_710_000_000, rows))),
        "event_type": pa.array(kinds[draw.choice(3, rows, p=[0.6, 0.3, 0.1])]),
        "query": pa.array(queries[draw.choice(4, rows)]),
    }
    pyarrow.csv.write_csv(pa.table(columns), folder / "events.csv")
    pyarrow.parquet.write_table(pa.table(columns), folder / "events.parquet")


def measure(what: str, folder: Path, file: str) -> dict[str, Any]:
    """One measurement, in this process."""
    started, cpu = time.perf_counter(), time.process_time()
    more: dict[str, Any] = {}
    spec = {"name": "tables", "root": str(folder), **MAP, "events": {"file": file, **EVENTS}}
    if what == "polars":
        import polars

        (polars.read_csv if file.endswith("csv") else polars.read_parquet)(folder / file)
    elif what == "check":
        from mmrank.settings import parse
        from simulations.data_check import check

        found = check(parse({"dataset": spec}), pictures=False)
        more = {"slates": found.facts["slates"], "usable": found.usable}
    else:
        from client.datasets.tables import load

        dataset = load(**{key: value for key, value in spec.items() if key != "name"})
        opened = time.process_time()
        made = sum(len(dataset.slates(client, "train")) for client in dataset.client_ids[:SLATES_OF])
        more = {"slates_a_cpu_second": round(made / (time.process_time() - opened))}
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        **more,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="100000,1000000", help="sizes of the table of events")
    parser.add_argument("--folder", type=Path, required=True, help="where the tables are written, and left")
    parser.add_argument("--write", type=int, help="only write the tables of that size into the folder")
    parser.add_argument("--one", nargs=3, metavar=("WHAT", "FOLDER", "FILE"), help="measure in this process")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one[0], Path(given.one[1]), given.one[2])))
        return
    if given.write is not None:
        write(given.folder, given.write)
        return
    for rows in map(int, given.rows.split(",")):
        folder = given.folder / str(rows)
        # in a process of its own: Linux counts what a parent holds to the peak of its children
        subprocess.run([sys.executable, __file__, "--folder", str(folder), "--write", str(rows)], check=True)
        for file in ("events.csv", "events.parquet"):
            for what in ("polars", "check", "slates"):
                command = [sys.executable, __file__, "--folder", str(folder), "--one", what, str(folder), file]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                print(json.dumps({"rows": rows, "file": file, "what": what, **json.loads(done.stdout)}), flush=True)


if __name__ == "__main__":
    main()
