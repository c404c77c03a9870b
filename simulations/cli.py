"""The `mmrank` command. What takes long to import (torch, flwr, plotting) is imported by the command that needs it."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from typer.core import TyperGroup

from mmrank.errors import ConfigError, MmrankError
from simulations import commands_audit, commands_newcomers, commands_tune
from simulations._help import restore_argument_help
from simulations._terminal import Config, Json, Overrides, Resume
from simulations._terminal import cell as _cell
from simulations._terminal import print_json as _print_json
from simulations._terminal import progress_console as _console
from simulations._terminal import show as _show
from simulations.commands_budget import budget_app
from simulations.commands_data import data_app
from simulations.commands_events import events_app
from simulations.commands_ledger import ledger_app

EXIT_ERROR = 2


class _Commands(TyperGroup):
    """Every MmrankError of any command is one line on stderr and exit code 2."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        restore_argument_help(self)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except MmrankError as error:
            click.echo(f"mmrank: {' '.join(str(error).split())}", err=True)
            raise SystemExit(EXIT_ERROR) from None


app = typer.Typer(
    cls=_Commands,
    help="Train one product ranker across merchants and devices without their behaviour data leaving them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.add_typer(budget_app, name="budget")
app.add_typer(ledger_app, name="ledger")
app.add_typer(events_app, name="events")
app.command("audit", epilog=commands_audit.EXAMPLE)(commands_audit.audit)
app.command("newcomers", epilog=commands_newcomers.EXAMPLE)(commands_newcomers.newcomers)

Run = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/quickstart.")]


@app.callback()
def prepare() -> None:
    """Before any command: other people's libraries keep their remarks to themselves."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.basicConfig(level=logging.WARNING, format="mmrank: %(message)s", stream=sys.stderr)
    for handler in logging.root.handlers:
        handler.setLevel(logging.WARNING)  # a library may lower its own logger's level
    for name in ("flwr", "bm25s", "ray", "implicit", "absl", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)


@app.command(
    epilog="Example: mmrank simulate simulations/configs/quickstart.yaml --set federation.rounds=5 --out runs/a"
)
def simulate(
    config: Config,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; runs/NAME by default.")] = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Run a whole federation on this machine, and write result.json, the model and report.html."""
    from simulations import config as configs

    settings = configs.load(config, overrides or ())
    folder = out or Path("runs") / settings.name
    from simulations.run import simulate as run

    result = run(settings, out=folder, resume=resume, console=_console(json))
    if json:
        _print_json(result)
        return
    from simulations._tables import print_result

    print_result(result)
    typer.echo(f"\n{folder / 'report.html'}")


@app.command(
    epilog="Example: mmrank sweep simulations/configs/quickstart.yaml --grid 'training.learning_rate=0.003,0.01' "
    "--out runs/sweep"
)
def sweep(
    config: Config,
    grid: Annotated[str | None, typer.Option(help="Every combination of 'a.b=1,2;c=3,4'.")] = None,
    optuna: Annotated[int | None, typer.Option(min=1, help="So many trials of --search, chosen by Optuna.")] = None,
    search: Annotated[
        str, typer.Option(help="What Optuna may choose: 'a.b=log:1e-3..1e-1;c=8..64;d=x,y'.")
    ] = "training.learning_rate=log:1e-3..1e-1",
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The sweep's folder; runs/NAME-sweep by default.")] = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Compare settings on the validation part; the test part is never read."""
    from simulations import config as configs
    from simulations import sweep as sweeps

    if (grid is None) == (optuna is None):
        raise ConfigError(
            "Expected one of --grid and --optuna; for example --grid 'training.learning_rate=0.003,0.01'."
        )
    plan: dict[str, Any] = (
        {"grid": sweeps.parse_grid(grid)}
        if grid is not None
        else {"search": sweeps.parse_space(search), "trials": optuna}
    )

    def settle(choices: Any) -> Any:
        return configs.load(config, [*(overrides or ()), *choices])

    folder = out or Path("runs") / f"{settle([]).name}-sweep"
    console = _console(json)
    from simulations._stage import Shared
    from simulations._tables import print_trials
    from simulations.run import trial

    shared = Shared()

    def on_trial(found: dict[str, Any], total: int) -> None:
        if console is not None:
            values = ", ".join(f"{key}={value}" for key, value in found["choices"].items())
            score = found["validation"]["ndcg@10"]
            console.print(f"trial {found['trial'] + 1}/{total}: {values}: nDCG@10 {score:.4f}", highlight=False)

    found = sweeps.sweep(
        plan,
        settle=settle,
        measure=lambda settings, at: trial(settings, at, shared=shared, console=console),
        out=folder,
        resume=resume,
        on_trial=on_trial,
    )
    if json:
        _print_json(found)
        return
    print_trials(found)
    typer.echo(f"\nThe best settings are in {found['best_config']}")


@app.command(epilog="Example: mmrank report runs/quickstart runs/hm --out runs/comparison.html")
def report(
    runs: Annotated[list[Path], typer.Argument(help="One run to make its report anew, or several to compare.")],
    out: Annotated[Path, typer.Option(help="Where the comparison goes.")] = Path("runs/comparison.html"),
    statement: Annotated[
        bool, typer.Option("--statement", help="Write what the run promises, to whom and what not, for a legal reader.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a run's report anew, set several runs side by side in one table and plot, or state a run's privacy."""
    from simulations import report as reports
    from simulations._folder import write_text
    from simulations._tables import print_lines
    from simulations.report.compare import lines

    if statement and len(runs) > 1:
        raise ConfigError(f"Expected one run with --statement, not {len(runs)}; state each by itself.")
    if statement:
        from simulations.report.statement import write_statement

        written, text = write_statement(runs[0])
        found: Any = {"statement": str(written), "text": str(text)}
    elif len(runs) == 1:
        written = reports.write_report(runs[0])
        found = {"report": str(written)}
    else:
        results = {_label(run, runs): reports.read_result(run) for run in runs}
        write_text(out, reports.compare(results))
        found = {"comparison": str(out), "runs": lines(results)}
        if not json:
            print_lines(lines(results))
        written = out
    if json:
        _print_json(found)
    else:
        typer.echo(f"\n{written}")


@app.command(epilog="Example: mmrank rank runs/quickstart --query 运动鞋 --client device-000003 --top 10")
def rank(
    run: Run,
    client: Annotated[str, typer.Option(help="Whose history and newest behaviour counts, such as device-000003.")],
    query: Annotated[str, typer.Option(help="What is asked for; left out, the whole catalogue is ranked.")] = "",
    top: Annotated[int, typer.Option(min=1, max=1000)] = 10,
    event: Annotated[
        list[str] | None, typer.Option(help="Something the client just did, as type:item_id (purchase:mp-000042).")
    ] = None,
    pictures: Annotated[bool, typer.Option(help="Save rendered pictures under the run's pictures/.")] = True,
    json: Json = False,
) -> None:
    """Rank the catalogue for a query with one client's newest behaviour, by the run's model."""
    from simulations._ranking import rank_for

    answer = rank_for(run, query=query, client=client, top=top, events=event or [], pictures=pictures)
    if json:
        _print_json(answer)
        return
    from simulations._tables import print_lines

    columns = ("rank", "title", "score", "price", "merchant", "item_id", "picture")
    print_lines([{name: _cell(line[name]) for name in columns} for line in answer])


@app.command(epilog="Example: mmrank features simulations/configs/hm.yaml --set dataset.root=/data/hm --workers 2")
def features(
    config: Config,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode and encode; one for each core by default, 8 at most.")
    ] = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Encode the catalogue into the feature cache, so that runs over it start at once; a killed call goes on."""
    from simulations._look import encode

    _show(encode(config, overrides or (), workers=workers, console=_console(json)), json)


@app.command(epilog="Example: mmrank identity /etc/mmrank/identity")
def identity(
    path: Annotated[Path, typer.Argument(help="A new file for the secret half, readable by its owner alone.")],
    json: Json = False,
) -> None:
    """Make a node's identity, which signs its part of secure sums, and print the public half for the roster."""
    from client.secure_keys import new_identity

    _show({"identity": str(path), "public": new_identity(path)}, json)


app.command(epilog=commands_tune.EXAMPLE)(commands_tune.tune)


def main() -> None:
    """The command's entry point."""
    app()


def _label(run: Path, runs: list[Path]) -> str:
    """A run's name in a comparison: its folder's, or the whole path where two are called alike."""
    same = sum(other.resolve().name == run.resolve().name for other in runs)
    return run.resolve().name if same == 1 else str(run)


if __name__ == "__main__":
    main()
