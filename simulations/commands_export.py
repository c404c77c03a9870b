"""`mmrank data export`: slates and scores as qrels and runs of TREC, for trec_eval and other tools of the field."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from simulations._terminal import Json, Overrides, progress_console, show

EXAMPLE = "Example: mmrank data export runs/quickstart --part test --out exported"

data_export_app = typer.Typer(rich_markup_mode=None)


class Part(StrEnum):
    """Which slates."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


@data_export_app.command("export", epilog=EXAMPLE)
def data_export(
    source: Annotated[Path, typer.Argument(help="The folder of a finished run, or a YAML file for qrels alone.")],
    out: Annotated[Path, typer.Option(help="The folder to write qrels.txt, run.txt and run-ROW.txt into.")],
    part: Annotated[Part, typer.Option(help="Whose slates: those that the evaluation measures.")] = Part.TEST,
    row: Annotated[
        list[str] | None,
        typer.Option(help="Of a run: this row beside its model; all but those trained anew by default."),
    ] = None,
    allow_private_copy: Annotated[
        bool, typer.Option("--allow-private-copy", help="Copy what real people were shown and chose; I may do so.")
    ] = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Write qrels of a data set's slates, and a TREC run of a run's model and of each row that can score.

    This copies behaviour, under no promise of privacy: of data that are not synthetic only with --allow-private-copy.
    A query is CLIENT.PART.PLACE, such as device-000003.test.12. The means told are over slates, as trec_eval's are.
    """
    from simulations._export import export

    found = export(
        source,
        overrides or (),
        part=part.value,
        out=out,
        rows=row or (),
        allow_private_copy=allow_private_copy,
        console=progress_console(json),
    )
    show(found, json)
