"""`mmrank budget plan|classes|curve`. What takes long to import is imported by the command that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmrank.errors import ConfigError
from simulations._terminal import Config, Json, Overrides, Resume, print_json, progress_console

budget_app = typer.Typer(help="Plan a privacy budget before it is spent.", no_args_is_help=True, rich_markup_mode=None)

Plot = Annotated[Path | None, typer.Option(help="Draw epsilon by round into this .png, .svg or .pdf.")]


@budget_app.command(
    "plan",
    epilog="Example: mmrank budget plan --epsilon 2 --sampling-rate 0.05 --steps 200 --delta 1e-6   "
    "Example: mmrank budget plan --mechanism client_update --noise-multiplier 1 --sampling-rate 0.05 --rounds 100 "
    "--delta 1e-4   Example: mmrank budget plan simulations/configs/quickstart.yaml",
)
def budget_plan(
    config: Annotated[
        Path | None, typer.Argument(help="Read the plan from a run's YAML file, in place of the options.")
    ] = None,
    mechanism: Annotated[
        str | None, typer.Option(help="dp_sgd (noise in every local step) or client_update (a whole update).")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(help="Whom one epsilon protects: slate or user (dp_sgd), client (client_update).")
    ] = None,
    noise_at: Annotated[
        str | None, typer.Option(help="Who adds client_update's noise: central (the server), distributed, local.")
    ] = None,
    sampling_rate: Annotated[
        float | None, typer.Option(help="Poisson rate q in (0, 1]: of units in a step, or of clients in a round.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds in all.")] = None,
    local_steps: Annotated[int | None, typer.Option(help="Local steps of a round, with dp_sgd.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps in all, with dp_sgd: rounds times local steps.")] = None,
    delta: Annotated[float | None, typer.Option(help="In [1e-10, 1), far below one over the registry.")] = None,
    noise_multiplier: Annotated[float | None, typer.Option(help="Sigma: the noise over the clip.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="The promise; with sigma as well, the budget to fill.")] = None,
    registered: Annotated[
        int | None, typer.Option(min=1, help="Size of the public registry, or of the declared class: checks delta.")
    ] = None,
    spent: Annotated[
        str | None, typer.Option(help="What was spent before: 'sampling_rate,noise_multiplier,steps; ...'.")
    ] = None,
    ledger: Annotated[
        Path | None, typer.Option(help="The same from a run's folder or a ledger's file: the account that paid most.")
    ] = None,
    data: Annotated[str | None, typer.Option(help="Which account of --ledger, by its name.")] = None,
    one_plan: Annotated[
        bool,
        typer.Option("--one-plan", help="What was spent and what is planned were declared together, beforehand."),
    ] = False,
    beside: Annotated[
        str | None, typer.Option(help="A second group of clients, as key=value,...: both, and a person who is in both.")
    ] = None,
    overrides: Overrides = None,
    plot: Plot = None,
    json: Json = False,
) -> None:
    """What a plan costs whom, the noise that a promise needs, or the rounds that are left: without data or training.

    Of sigma, epsilon and rounds give two; the third is computed.
    """
    from simulations.budget import ask as asks
    from simulations.budget.plan import answer

    given: dict[str, Any] = {
        "mechanism": mechanism, "unit": unit, "noise_at": noise_at, "sampling_rate": sampling_rate, "delta": delta,
        "noise_multiplier": noise_multiplier, "epsilon": epsilon, "rounds": rounds, "local_steps": local_steps,
        "steps": steps,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value is not None}
    budget = None
    if config is not None:
        ask, budget = _from_config(config, overrides, given)
    else:
        if overrides:
            raise ConfigError(f"Expected a configuration beside --set {overrides[0]}; give its file, or options alone.")
        ask = asks.Ask(**given)
    ask, before = _with_history(ask, spent, ledger, data)
    if one_plan and not before:
        raise ConfigError("Expected --spent or --ledger with --one-plan, which says how it is composed; give one.")
    found = answer(
        ask,
        beside=None if beside is None else asks.parse_ask(beside, delta=ask.delta),
        spent=before,
        declared=one_plan,
        registered=registered,
        budget=budget,
    )
    if plot is not None:
        from simulations.budget._plots import save_plan

        save_plan(found, plot)
    if json:
        print_json(found)
        return
    from simulations.budget._show import print_plan

    print_plan(found)
    if plot is not None:
        typer.echo(f"\n{plot}")


def _from_config(config: Path, overrides: list[str] | None, given: dict[str, Any]) -> tuple[Any, float | None]:
    from simulations import config as configs
    from simulations.budget.ask import ask_of

    if given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(
            f"Expected no {names} beside {config}, which holds the plan; change it with --set, for example "
            "--set privacy.epsilon=2."
        )
    settings = configs.load(config, overrides or ())
    return ask_of(settings), settings.privacy.budget_epsilon


def _with_history(ask: Any, spent: str | None, ledger: Path | None, data: str | None) -> tuple[Any, tuple[Any, ...]]:
    """The ask, with the ledger's own delta and budget where they were left open, and the events before it."""
    from dataclasses import replace

    if data is not None and ledger is None:
        raise ConfigError(f"Expected --ledger with --data {data}; give the file that holds it.")
    before: tuple[Any, ...] = ()
    if spent is not None:
        from simulations.budget.ask import parse_spent

        before = parse_spent(spent)
    if ledger is not None:
        from simulations.budget.spent import spent_of

        account, events = spent_of(ledger, data)
        before += events
        if ask.delta is not None and ask.delta != account["delta"]:
            raise ConfigError(
                f"Expected --delta={ask.delta:g} to be the ledger's, {account['delta']:g}: its promise has one delta; "
                "leave --delta out."
            )
        ask = replace(ask, delta=account["delta"])
        unit = ask.unit or ("client" if ask.mechanism == "client_update" else "slate")
        if unit != account["unit"]:
            raise ConfigError(
                f"Expected --unit={unit} to be the ledger's, {account['unit']}: events of unlike units are no history "
                "of one; set --unit, or plan with --beside."
            )
        open_end = ask.epsilon is None and ask.rounds is None and ask.steps is None
        if open_end and ask.noise_multiplier is not None and account["budget"] < float("inf"):
            ask = replace(ask, epsilon=account["budget"])
    return ask, before


@budget_app.command(
    "classes",
    epilog="Example: mmrank budget classes --sizes 1e3,1e4,1e5 --batch 256 --epsilon 4 --delta 1e-6 --rounds 20 "
    "--local-steps 10",
)
def budget_classes(
    epsilon: Annotated[float, typer.Option(help="The promise of every class.")],
    delta: Annotated[float, typer.Option(help="In [1e-10, 1), below one over the largest merchant's records.")],
    rounds: Annotated[int, typer.Option(help="Rounds in all.")],
    local_steps: Annotated[int, typer.Option(help="Local steps of a round.")],
    sizes: Annotated[str, typer.Option(help="Declared sizes, the public classes: records of a merchant.")] = (
        "1e3,1e4,1e5"
    ),
    batch: Annotated[float, typer.Option(help="Expected records of a step in each class: q = batch / size.")] = 256.0,
    unit: Annotated[str, typer.Option(help="What a record is: slate, or user (a person's bundle).")] = "slate",
    parameters: Annotated[int, typer.Option(help="Trainable parameters, over which the noise is spread.")] = 1,
    json: Json = False,
) -> None:
    """A merchant's q, steps and sigma from a size that it declares, without telling how many records it has."""
    from mmrank.privacy.plans import check_shape
    from simulations.budget.classes import classes, parse_sizes

    check_shape("dp_sgd", unit, "client", 1)
    shape: Any = {"unit": unit}
    found = classes(
        sizes=parse_sizes(sizes), batch=batch, rounds=rounds, local_steps=local_steps, epsilon=epsilon, delta=delta,
        parameters=parameters, **shape,
    )  # fmt: skip
    if json:
        print_json(found)
        return
    from simulations.budget._show import print_classes

    print_classes(found)


@budget_app.command(
    "curve",
    epilog="Example: mmrank budget curve simulations/configs/marketplace-merchants.yaml --epsilons 0.5,1,2,4,8,inf "
    "--seeds 3 --jobs 2",
)
def budget_curve(
    config: Config,
    epsilons: Annotated[str, typer.Option(help="The grid; inf is the same federation without noise.")] = (
        "0.5,1,2,4,8,inf"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of each point.")] = 3,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; one a core by default.")] = None,
    overrides: Overrides = None,
    out: Annotated[Path | None, typer.Option(help="The curve's folder; runs/NAME-curve by default.")] = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Run the simulation at several epsilons, and draw what each is worth in ranking quality, with intervals."""
    from simulations import config as configs
    from simulations.budget.curve import curve, parse_epsilons

    settings = configs.load(config, overrides or ())
    folder = out or Path("runs") / f"{settings.name}-curve"
    found = curve(
        settings,
        epsilons=parse_epsilons(epsilons),
        seeds=seeds,
        jobs=jobs,
        out=folder,
        resume=resume,
        console=progress_console(json),
    )
    if json:
        print_json(found)
        return
    from simulations.budget._show import print_curve

    print_curve(found)
    typer.echo(f"\n{folder / 'curve.html'}")
