"""`mmrank newcomers`: what a federation is worth to a merchant that it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mmrank.errors import ConfigError
from simulations._terminal import Config, Json, Overrides, Resume, print_json, progress_console

EXAMPLE = (
    "Example: mmrank newcomers simulations/configs/marketplace-merchants.yaml --merchants merchant-0,merchant-3 "
    "--set federation.rounds=10"
)


def newcomers(
    config: Config,
    overrides: Overrides = None,
    merchants: Annotated[
        str | None, typer.Option(help="Who is left out, one after the other: a,b; every merchant by default.")
    ] = None,
    sizes: Annotated[str, typer.Option(help="With how many training slates each comes.")] = "10,100,1000",
    out: Annotated[Path | None, typer.Option(help="The folder; runs/NAME-newcomers by default.")] = None,
    resume: Resume = False,
    json: Json = False,
) -> None:
    """Leave each merchant out of the federation and measure it there; then let it come with a few slates.

    Simulation only: it looks at slates that no federation may. Add --set privacy.mechanism=no_privacy for a federation
    without noise.
    """
    from simulations import config as configs
    from simulations.newcomers import newcomers as run

    settings = configs.load(config, overrides or ())
    found = run(
        settings,
        out=out or Path("runs") / f"{settings.name}-newcomers",
        merchants=[name.strip() for name in merchants.split(",") if name.strip()] if merchants else (),
        sizes=_sizes(sizes),
        resume=resume,
        console=progress_console(json),
    )
    if json:
        print_json(found)
        return
    from simulations._tables import print_lines

    print_lines(_lines(found))
    for merchant, one in found["merchants"].items():
        for row, reason in one["skipped"].items():
            typer.echo(f"not computed: {merchant}, {row}: {reason}")
    typer.echo(found["simulation_only"])


def _sizes(text: str) -> list[int]:
    """
    >>> _sizes("100, 10")
    [10, 100]
    """
    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ConfigError(f"Expected --sizes {text!r} as numbers of slates, for example 10,100,1000.") from None


def _lines(found: dict[str, Any]) -> list[dict[str, str]]:
    """A line for each merchant and row, then for each difference; those of all merchants last."""
    lines = []
    for merchant, one in [*found["merchants"].items(), ("all", found["all"])]:
        for name, summary in one["rows"].items():
            lines.append({"merchant": merchant, "row": name, **_figures(summary["ndcg@10"])})
        for name, gain in one["differences"].items():
            lines.append({"merchant": merchant, "row": name, **_figures(gain.get("ndcg@10", gain), sign="+")})
    return lines


def _figures(measure: dict[str, Any], sign: str = "") -> dict[str, str]:
    if measure["mean"] is None:
        return {"ndcg@10": "–", "95% interval": ""}
    low, high = measure["ci95"]
    return {"ndcg@10": f"{measure['mean']:{sign}.4f}", "95% interval": f"[{low:{sign}.4f}, {high:{sign}.4f}]"}
