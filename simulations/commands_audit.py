"""`mmrank audit`: try to break a run's promise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

EXAMPLE = "Example: mmrank audit runs/quickstart --canaries 1000"
EXIT_BROKEN = 1


def audit(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run, such as runs/quickstart.")],
    canaries: Annotated[
        int, typer.Option(min=2, help="Units that are each put in by a coin; more of them see more.")
    ] = 1000,
    client: Annotated[
        str | None, typer.Option(help="With dp_sgd, whose data they join; a client with few slates by default.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the coins, and of noise that is seeded; drawn in secret by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Keep the training's state and audit.json in this folder.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON value on stdout, and no progress.")] = False,
) -> None:
    """Train a run's configuration with canaries, and prove a lower bound of epsilon beside what the ledger claims.

    Exit code 0 where the bound, at 99.9%, does not pass the claim; 1 where it does.
    """
    from rich.console import Console

    from simulations._folder import to_json
    from simulations.audit.report import audit_run, sentence

    report = audit_run(
        run, canaries=canaries, client=client, seed=seed, out=out, console=None if json else Console(stderr=True)
    )
    if json:
        typer.echo(to_json(report))
    else:
        from simulations._tables import print_lines

        print_lines(_lines(report))
        typer.echo(f"\n{sentence(report)}")
    if not report["holds"]:
        sys.exit(EXIT_BROKEN)


def _lines(report: dict) -> list[dict[str, str]]:
    """The figures, one a line."""
    lines = [{"": "claimed epsilon", "figure": f"{report['epsilon']:.4g}", "how": f"delta {report['delta']:g}"}]
    for confidence, bound in report["lower_bound"].items():
        right = f"{bound['correct']} of {bound['guesses']} guesses of {bound['side']} right"
        how = f"{right} by {bound['score']} ({bound['method']})"
        lines.append({"": f"lower bound at {float(confidence):.1%}", "figure": f"{bound['epsilon']:.4g}", "how": how})
    for name, figures in report["membership"].items():
        low, high = figures["auc"]["ci95"]
        lines.append(
            {
                "": f"membership by {name}: AUC",
                "figure": f"{figures['auc']['mean']:.3f}",
                "how": f"[{low:.3f}, {high:.3f}]; {figures['tpr_at_1%_fpr']['mean']:.1%} found at 1% false alarms",
            }
        )
    return lines
