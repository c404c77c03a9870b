"""`mmrank data`: which data sets there are, what one holds, and whether it can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from simulations._terminal import Config, Json, Overrides, print_json, progress_console
from simulations.commands_export import data_export_app

data_app = typer.Typer(help="Look at data sets.", no_args_is_help=True, rich_markup_mode=None)
data_app.add_typer(data_export_app)
UNUSABLE = 1


@data_app.command("list", epilog="Example: mmrank data list")
def data_list(json: Json = False) -> None:
    """The data sets that there are: what each needs, its size, licence and citation, and its settings."""
    from simulations._look import datasets

    found = datasets()
    if json:
        print_json(found)
        return
    for name, about in found.items():
        typer.echo(f"{name}: {about['summary']}")
        for what in ("needs", "size", "licence"):
            if about[what]:
                typer.echo(f"    {what}: {about[what]}")
        typer.echo(f"    {', '.join(f'{key}={value}' for key, value in about['settings'].items())}")


@data_app.command("describe", epilog="Example: mmrank data describe marketplace --set dataset.items=1000")
def data_describe(
    name: Annotated[str, typer.Argument(help="A data set, or a YAML file that names one.")],
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """What a data set holds: items, clients, and, as only a simulation can count, slates."""
    from simulations._look import describe

    found = describe(name, overrides or ())
    if json:
        print_json(found)
        return
    from simulations._tables import print_lines

    print_lines([{"what": key, "value": _words(value)} for key, value in found.items()])


@data_app.command("check", epilog="Example: mmrank data check shop.yaml --html runs/shop-check.html")
def data_check(
    config: Annotated[Path, typer.Argument(help="The YAML file of a run, or one that holds nothing but dataset.")],
    overrides: Overrides = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with pictures and distributions there.")] = None,
    pictures: Annotated[bool, typer.Option(help="Decode every picture as well.")] = True,
    json: Json = False,
) -> None:
    """Read everything once and say in plain words what was found; exit 1 where it can't be used."""
    from rich.console import Console

    from simulations import config as configs
    from simulations.data_check import check

    settings = configs.load(config, overrides or (), only=("dataset",))
    checked = check(settings, console=None if json else Console(stderr=True), pictures=pictures)
    if html is not None:
        from simulations._folder import write_text
        from simulations.data_check.page import page

        write_text(html, page(checked))
    if json:
        print_json(checked.to_dict())
    else:
        _say(checked, html)
    if not checked.usable:
        raise typer.Exit(UNUSABLE)


def _say(checked: Any, html: Path | None) -> None:
    """A summary table, then the findings, errors first."""
    from simulations._tables import print_lines

    facts = checked.facts
    shown = ("items", "people", "clients", "slates", "span", "languages", "parts", "rows", "labels", "pictures")
    lines = {key: facts[key] for key in shown if facts.get(key) not in (None, {}, [])}
    if isinstance(lines.get("pictures"), dict):
        lines["pictures"] = {key: value for key, value in lines["pictures"].items() if key != "examples"}
    if lines:
        print_lines([{"what": key, "found": _words(value)} for key, value in lines.items()])
    for found in checked.findings:
        typer.echo(f"{found.level}: {found}")
    typer.echo("\nIt can be used." if checked.usable else "\nIt can't be used yet.")
    if html is not None:
        typer.echo(str(html))


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_words(inner) for inner in value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


@data_app.command("init", epilog="Example: mmrank data init /data/shop --out shop.yaml")
def data_init(
    folder: Annotated[Path, typer.Argument(help="The folder that holds your tables and pictures.")],
    out: Annotated[Path | None, typer.Option(help="The YAML file to write; FOLDER's name by default.")] = None,
    json: Json = False,
) -> None:
    """Guess the column map from a folder's tables and pictures, and write it; nothing is asked."""
    import yaml

    from mmrank.errors import ConfigError
    from simulations._folder import write_text
    from simulations.data_check.guess import guess

    spec, said = guess(folder)
    path = out or Path(f"{folder.resolve().name}.yaml")
    if path.exists():
        raise ConfigError(f"{path} is there already; choose another --out. Nothing was changed.")
    spec["root"] = str(folder.resolve())
    write_text(path, yaml.safe_dump({"name": path.stem, "dataset": spec}, sort_keys=False, allow_unicode=True))
    if json:
        print_json({"config": str(path), "dataset": spec, "said": said})
        return
    for line in said:
        typer.echo(line)
    typer.echo(f"\n{path}\nNext: mmrank data check {path}")


@data_app.command("same", epilog="Example: mmrank data same shop.yaml --top 20")
def data_same(
    config: Config,
    overrides: Overrides = None,
    top: Annotated[int, typer.Option(min=1, help="How many pairs are shown, the nearest first.")] = 20,
    json: Json = False,
) -> None:
    """Which items of different shops are one product, as far as titles and pictures tell; public facts alone."""
    from simulations._look import same

    found = same(config, overrides or (), console=progress_console(json))
    if json:
        print_json(found)
        return
    from simulations._tables import print_lines

    print_lines([{key: _words(value) for key, value in pair.items()} for pair in found["pairs"][:top]])
    typer.echo(f"{len(found['pairs'])} pairs; {found['products']:,} products among {found['items']:,} items")
