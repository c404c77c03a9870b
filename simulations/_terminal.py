"""What the commands share: options, one JSON value, names beside values, a console for progress."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Config = Annotated[Path, typer.Argument(help="A YAML file, such as simulations/configs/quickstart.yaml.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Lay a.b=value over the file; may be given many times.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout, and no progress.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder; begin where it is empty.")]


def progress_console(json: bool) -> Console | None:
    """Progress goes to stderr, and nowhere with --json."""
    if json:
        return None
    from rich.console import Console

    return Console(stderr=True)


def show(found: dict[str, Any], json: bool) -> None:
    """Names and values, or one JSON value."""
    if json:
        print_json(found)
        return
    width = max(map(len, found))
    for name, value in found.items():
        typer.echo(f"{name:<{width}}  {cell(value)}")


def print_json(value: Any) -> None:
    """Strict JSON on stdout."""
    from simulations._folder import to_json

    typer.echo(to_json(value))


def cell(value: Any) -> str:
    """One value for a person: four digits, an infinity sign, a dash for nothing."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return "∞" if value == math.inf else f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(inner)}" for key, inner in value.items())
    return str(value)
