"""The process in which the flower engine runs: `python -m simulations.engines._flower_app` with a JSON job.

Flower's simulation changes the environment, starts Ray and may end the process: it gets one of its own.
What happens is told over a pipe as ("client", done, total), ("round", RoundReport), ("error", name, text), ("done",).
"""

from __future__ import annotations

import json
import os
import sys
from multiprocessing.connection import Connection
from typing import Any

import torch
from flwr.simulation import run_simulation

from client.app import make_app as make_client_app
from mmrank.errors import MmrankError
from server.app import make_app as make_server_app

OBJECT_STORE_BYTES = 512 * 1024 * 1024
"""Ray would reserve 30% of the memory; a message is a few MB."""
CLIENTS_PER_GPU = 4


def main(job: dict[str, Any]) -> int:
    """Run the job; 0 where it ended well, 2 for an error that was told, as the command line does."""
    told = Connection(job["pipe"], readable=False)
    run_config = {"config": job["config"], "state-dir": job["state_dir"], "resume": job["resume"]}
    server_app = make_server_app(
        on_round=lambda report: told.send(("round", report)),
        on_client=lambda done, total: told.send(("client", done, total)),
        run_config=run_config,
        expected_clients=job["clients"],
        simulation=True,
    )
    try:
        run_simulation(
            server_app,
            make_client_app(run_config=run_config, simulation=True),
            num_supernodes=job["clients"],
            backend_config=backend(job["device"], job["ray_dir"]),
        )
    except MmrankError as error:
        told.send(("error", type(error).__name__, str(error)))
        return 2
    told.send(("done",))
    return 0


def backend(device: str, ray_dir: str) -> dict[str, Any]:
    """One CPU a client at a time, and a share of a GPU where there is one. An existing cluster is joined as it is."""
    gpus = 1 / CLIENTS_PER_GPU if device != "cpu" and torch.cuda.is_available() else 0.0
    init = {} if "RAY_ADDRESS" in os.environ else {"_temp_dir": ray_dir, "object_store_memory": OBJECT_STORE_BYTES}
    return {"client_resources": {"num_cpus": 1, "num_gpus": gpus}, "init_args": init}


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
