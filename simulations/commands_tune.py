"""`mmrank tune`: hyper-parameters chosen on private data, and paid for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmrank.errors import ConfigError

EXAMPLE = (
    "Example: mmrank tune simulations/configs/quickstart.yaml "
    "--search 'training.learning_rate=log:1e-3..1e-1;privacy.max_grad_norm=0.1..1.0' --runs poisson:5 --view released"
)


def tune(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as simulations/configs/quickstart.yaml.")],
    search: Annotated[
        str, typer.Option(help="What is drawn, each by itself: 'a.b=log:1e-3..1e-1;c=8..64;d=x,y'.")
    ] = "training.learning_rate=log:1e-3..1e-1;privacy.max_grad_norm=log:0.1..3.0",
    runs: Annotated[
        str | None,
        typer.Option(
            help="fixed:RUNS (for the server's view, 10 by default), or a random number: geometric:MEAN (10 by default "
            "where only the winner is released), logarithmic:MEAN, poisson:MEAN, negative-binomial:MEAN:SHAPE."
        ),
    ] = None,
    view: Annotated[
        str,
        typer.Option(
            help="server: epsilon against a server that ran the trials; all are charged and shown. released: against "
            "those who see the winner alone; nothing else is kept, and nobody else may see how long it took."
        ),
    ] = "server",
    score_noise_multiplier: Annotated[
        float, typer.Option(help="Of the noise on the score by which trials are compared.")
    ] = 10.0,
    overrides: Annotated[list[str] | None, typer.Option("--set", help="Lay a.b=value over the file.")] = None,
    out: Annotated[Path | None, typer.Option(help="The search's folder; runs/NAME-tune by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the search in the folder.")] = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it would cost: nothing is drawn.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout, and no progress.")] = False,
) -> None:
    """Choose hyper-parameters on private data by a search whose own cost is known before it begins."""
    from simulations import config as configs
    from simulations import private_search as searches
    from simulations._folder import to_json
    from simulations._winner import promised
    from simulations.sweep import parse_space

    if view not in ("server", "released"):
        raise ConfigError(f"Expected --view {view!r} to be one of server, released.")

    def settle(choices: Any) -> Any:
        return configs.load(config, [*(overrides or ()), *choices])

    wanted = searches.PrivateSearch(
        space=parse_space(search),
        runs=searches.parse_runs(runs or ("fixed:10" if view == "server" else "geometric:10")),
        view="released" if view == "released" else "server",
        score_noise_multiplier=score_noise_multiplier,
    )
    base = settle(searches.FIXED)
    if plan:
        release, selection = searches.promise(wanted, settle)
        found = promised(selection, release, base)
    else:
        folder = out or Path("runs") / f"{base.name}-tune"
        if not json:
            typer.echo(f"Searching in {folder}; how far it is would tell how many runs there are.", err=True)
        found = searches.private_search(wanted, settle=settle, out=folder, resume=resume)
    typer.echo(to_json(found) if json else _lines(found))


def _lines(found: dict[str, Any]) -> str:
    """One fact a line."""
    from simulations._folder import flat

    trials = found.get("trials", [])
    plain = flat({name: value for name, value in found.items() if name != "trials"})
    width = max(map(len, plain))
    lines = [f"{name:<{width}}  {value}" for name, value in plain.items()]
    lines += [f"trial {number + 1:<{width - 6}}  {trial}" for number, trial in enumerate(trials)]
    return "\n".join(lines)
