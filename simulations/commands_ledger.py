"""`mmrank ledger`: what each client's data has paid, whether the record holds together, and its entries."""

from __future__ import annotations

import json as json_text
import math
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

EXIT_BROKEN = 1


class _ShowByDefault(TyperGroup):
    """`mmrank ledger RUN` is `mmrank ledger show RUN`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["show", *args]
        return super().parse_args(ctx, args)


ledger_app = typer.Typer(
    cls=_ShowByDefault,
    help="What each client's data has paid, and whether the record holds together. `mmrank ledger RUN` is "
    "`mmrank ledger show RUN`.",
    epilog="Example: mmrank ledger runs/quickstart",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Where = Annotated[Path, typer.Argument(help="A run's folder, or a ledger's file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]


@ledger_app.command("show", epilog="Example: mmrank ledger show runs/quickstart")
def ledger_show(where: Where, json: Json = False) -> None:
    """What each client's data has paid, by which rule, and what remains of its budget."""
    from simulations._ledgers import show

    found = show(where)
    if json:
        _print_json(found)
        return
    from simulations._tables import print_lines

    hidden = ("filter_order", "delta_in_all")
    print_lines([{name: _cell(value) for name, value in line.items() if name not in hidden} for line in found])


@ledger_app.command("verify", epilog="Example: mmrank ledger verify runs/quickstart")
def ledger_verify(
    where: Annotated[Path, typer.Argument(help="A run's folder, a ledger's file, or an export (.jsonl).")],
    head: Annotated[
        list[str] | None,
        typer.Option(help="DATA=COUNT:HASH, a head that was acknowledged and must be there; may be given many times."),
    ] = None,
    new_witness: Annotated[
        bool, typer.Option("--new-witness", help="Make the .witness file anew where it is lost and all else holds.")
    ] = False,
    json: Json = False,
) -> None:
    """Recompute every hash, count and total from the entries; exit 1 where one is not what it says."""
    from simulations._ledgers import verify

    found = verify(where, head or (), new_witness=new_witness)
    if json:
        _print_json(found)
    elif found["whole"]:
        typer.echo(f"{found['ledger']} is whole.")
    else:
        for fault in found["faults"]:
            typer.echo(f"{fault['data'] or found['ledger']}: {fault['fault']}")
    if not found["whole"]:
        raise typer.Exit(EXIT_BROKEN)


@ledger_app.command("export", epilog="Example: mmrank ledger export runs/quickstart --out ledger.jsonl")
def ledger_export(
    where: Where,
    out: Annotated[Path | None, typer.Option(help="A file to write, in place of stdout.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON value in place of lines.")] = False,
) -> None:
    """Every entry with its hash as JSON lines, for an auditor: it names the data and holds the salts of the chains."""
    from simulations._ledgers import export

    if json and out is None:
        _print_json(list(export(where)))
        return
    lines = (json_text.dumps(line, ensure_ascii=False) for line in export(where))
    if out is None:
        for line in lines:
            typer.echo(line)
        return
    count = 0
    with out.open("w", encoding="utf-8") as file:
        for line in lines:
            count += file.write(f"{line}\n") > 0
    if json:
        _print_json({"out": str(out), "lines": count})
    else:
        typer.echo(f"{count} lines in {out}")


@ledger_app.command("opt-out", epilog="Example: mmrank ledger opt-out ~/ledger.sqlite --data shop/7 --yes")
def ledger_opt_out(
    where: Where,
    data: Annotated[str, typer.Option(help="The data's identity, as ledger show tells it.")],
    yes: Annotated[bool, typer.Option("--yes", help="It can't be undone: say that you mean it.")] = False,
    json: Json = False,
) -> None:
    """Stop all use of one client's data for good: every later charge to it is refused."""
    from simulations._ledgers import opt_out

    found = opt_out(where, data, yes=yes)
    if json:
        _print_json(found)
    else:
        typer.echo(f"{data} has opted out: nothing is charged to it any more, so nothing is trained on it.")


def _print_json(value: Any) -> None:
    from simulations._folder import to_json

    typer.echo(to_json(value))


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "∞" if value == math.inf else f"{value:.4g}"
    if isinstance(value, dict):
        return f"{value['entries']}:{value['hash'][:12]}"
    return str(value)
