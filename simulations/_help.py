"""What `--help` says of arguments, which typer 0.20 loses where click has help texts of its own for them (from 8.4)."""

from __future__ import annotations

import inspect

import click
import typer.core
from typer.core import TyperArgument
from typer.utils import get_params_from_function

typer.core.HAS_RICH = False  # help is plain text here, and typer would still escape it for rich


def restore_argument_help(command: click.Command) -> None:
    """Give each argument of the command, and of those under it, the text that its annotation has. In place."""
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            restore_argument_help(inner)
    lost = [p for p in command.params if isinstance(p, TyperArgument) and not p.help]
    if lost and command.callback is not None:
        told = get_params_from_function(inspect.unwrap(command.callback))
        for argument in lost:
            argument.help = told[argument.name or ""].default.help
    vars(command)["format_arguments"] = _nothing  # typer lists them among the options


def _nothing(context: click.Context, formatter: click.HelpFormatter) -> None:
    """Writes nothing."""
