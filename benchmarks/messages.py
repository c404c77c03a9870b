"""What a client's message costs apart from its training, and the same federation on both engines, side by side.

    python benchmarks/messages.py simulations/configs/hm.yaml --set dataset.root=../shared/data/hm

Prints milliseconds a message on each engine (wall clock, all rounds but the first, which starts processes), how much of
an inline message is not training, and the largest difference between the two models.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _asked import settings_asked

import client.vault
from mmrank import components
from mmrank.settings import Settings
from server.rounds import RoundReport
from simulations.config import dump


def federate(settings: Settings, folder: Path) -> tuple[dict[str, np.ndarray], float]:
    """(the model, ms of wall clock a message after the first round) on the settings' engine."""
    reports: list[RoundReport] = []
    folder.mkdir()
    dump(settings, folder / "config.yaml")
    model = components.load("simulations.engines", settings.engine).federate(
        settings, config_path=folder / "config.yaml", state_dir=folder, on_round=reports.append
    )
    later = reports[1:]
    return model, 1e3 * sum(report.seconds for report in later) / sum(sum(r.codes.values()) for r in later)


def main() -> None:
    settings = settings_asked(__doc__)
    torch.set_num_threads(1)
    trained: list[float] = []
    plain = client.vault.local_update

    def timed(*arguments: Any, **options: Any) -> dict[str, np.ndarray]:
        started = time.perf_counter()
        update = plain(*arguments, **options)
        trained.append(1e3 * (time.perf_counter() - started))
        return update

    with tempfile.TemporaryDirectory() as folder:
        client.vault.local_update = timed
        inline, inline_ms = federate(replace(settings, engine="inline"), Path(folder) / "inline")
        client.vault.local_update = plain
        flower, flower_ms = federate(replace(settings, engine="flower"), Path(folder) / "flower")
    training_ms = float(np.mean(trained[len(trained) // settings.federation.rounds :]))
    print(f"inline: {inline_ms:.2f} ms a message, {inline_ms - training_ms:.2f} of them not training")
    print(f"flower: {flower_ms:.2f} ms a message")
    print(f"largest difference of the models: {max(np.abs(inline[n] - flower[n]).max() for n in inline):.2g}")


if __name__ == "__main__":
    main()
