"""Where a Flower run keeps things: what both apps read from the run's or the node's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mmrank.errors import ConfigError

RUNS = "~/.local/state/mmrank/runs"
"""Under it, the folder of a run that names no `state-dir`."""


def config_path(values: Mapping[str, object], *, beside: Path) -> Path:
    """The YAML file that `config` names; a relative path is looked for in the folder `beside`, then here.

    `flwr run` starts the apps from a copy of the project, in whatever folder its SuperLink was once started in:
    `beside` is that copy, and comes first. Raises ConfigError where it is absent.
    """
    given = Path(str(values.get("config", ""))).expanduser()
    for path in (beside / given, given):
        if path.is_file():
            return path.resolve()
    raise ConfigError(
        f"Expected config={str(given)!r} to be a file, in {beside} or here; "
        "pass its path, for example flwr run . --run-config 'config=\"/path/to/config.yaml\"'."
    )


def state_dir(values: Mapping[str, object], *, run_id: int) -> Path:
    """The folder that `state-dir` names, or where it is empty one of this run's own, under RUNS."""
    given = str(values.get("state-dir", ""))
    return Path(given).expanduser() if given else Path(RUNS).expanduser() / str(run_id)
