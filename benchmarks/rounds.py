"""What a private round costs beside the same round without a mechanism: milliseconds of CPU a client, interleaved.

    OMP_NUM_THREADS=1 python benchmarks/rounds.py --repeats 7

A merchant of 40 people and a device of one over the same shop take part in the same number of steps of about the same
number of slates. Prints the median of each mechanism and its ratio to `no_privacy` of the same kind of client.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from client.vault import Vault
from client.workspace import Workspace, make_workspace
from mmrank.protocol import TrainRequest
from mmrank.settings import parse

SHOP = {"name": "marketplace", "items": 4000, "types": 20, "merchants": 1, "people_per_merchant": 40, "devices": 4}
BATCH, STEPS = 64, 5
BASE = {"noise_multiplier": 1.0, "noise": "secure", "expected_batch_size": BATCH, "micro_batch_size": BATCH}
DEVICE = {"mechanism": "client_update", "unit": "client"}
MECHANISMS: dict[str, tuple[str, dict[str, Any]]] = {
    "no_privacy, merchant": ("merchants", {"mechanism": "no_privacy"}),
    "dp_sgd, slate, opacus": ("merchants", {"mechanism": "dp_sgd"}),
    "dp_sgd, slate, vmap": ("merchants", {"mechanism": "dp_sgd", "grad_sample": "vmap"}),
    "dp_sgd, user, K = 8": ("merchants", {"mechanism": "dp_sgd", "unit": "user", "slates_per_user": 8}),
    "no_privacy, device": ("devices", {"mechanism": "no_privacy"}),
    "client_update, central": ("devices", DEVICE),
    "client_update, central, adaptive clip": ("devices", {**DEVICE, "clipping": "adaptive", "clip_count_noise": 2.0}),
    "client_update, local": ("devices", {**DEVICE, "noise_at": "local"}),
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One mechanism, ready to train one client."""

    workspace: Workspace
    client: str

    def milliseconds(self, number: int) -> float:
        """CPU of one round; each has a model of its own, so that no reply is a kept one."""
        start = {name: array + array.dtype.type(1e-4 * number) for name, array in self.workspace.shapes.items()}
        request = TrainRequest(
            run="bench", round_number=1, config_sha256=self.workspace.settings.agreed_sha256, parameters=start
        )
        began = time.process_time()
        reply = Vault(self.workspace, self.client).train(request)
        spent = 1e3 * (time.process_time() - began)
        if reply.code != "ok":
            raise SystemExit(f"{self.client} answered {reply.code}")
        return spent


def case(clients: str, privacy: dict[str, Any], folder: Path) -> Case:
    """q is set so that a step takes about BATCH slates, as a minibatch of the plain round does."""
    raw = {
        "device": "cpu",
        "dataset": {**SHOP, "clients": clients},
        "model": {"image": {"name": "histogram"}},
        "training": {"optimizer": "sgd", "batch_size": BATCH, "local_steps": STEPS},
        "privacy": {**BASE, **privacy},
    }
    probe = make_workspace(parse(raw), state_dir=folder)
    client = probe.dataset.client_ids[0]
    batch = probe.batch(client, "train")
    if privacy["mechanism"] == "dp_sgd":
        people = len(batch.user.unique())
        units, each = (people, min(8, len(batch) / people)) if privacy.get("unit") == "user" else (len(batch), 1)
        raw["privacy"] = {**BASE, **privacy, "sampling_rate": min(BATCH / (units * each), 1.0)}
    workspace = make_workspace(parse(raw), state_dir=folder, dataset=probe.dataset, features=probe.features)
    return Case(workspace=workspace, client=client)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        cases = {
            name: case(clients, privacy, Path(folder) / str(row))
            for row, (name, (clients, privacy)) in enumerate(MECHANISMS.items())
        }
        spent: dict[str, list[float]] = {name: [] for name in cases}
        for number in range(given.repeats + 1):
            for name, one in cases.items():
                milliseconds = one.milliseconds(number)
                if number:  # the first round makes hooks, slates and the file of the ledger
                    spent[name].append(milliseconds)
    table = Table("mechanism", "ms of CPU", "ratio")
    for name, values in spent.items():
        base = spent["no_privacy, merchant" if MECHANISMS[name][0] == "merchants" else "no_privacy, device"]
        ratio = statistics.median(one / other for one, other in zip(values, base, strict=True))
        table.add_row(name, f"{statistics.median(values):.1f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
