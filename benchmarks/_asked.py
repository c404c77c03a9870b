"""What a benchmark of one configuration is asked: CONFIG, and --set key=value as often as wanted."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmrank.settings import Settings
from simulations.config import load


def settings_asked(description: str | None) -> Settings:
    """The settings that the command line names; `--help` says `description`. Raises ConfigError as `load` does."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="key=value")
    asked = parser.parse_args()
    return load(asked.config, asked.overrides)
