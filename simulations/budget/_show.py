"""Answers of the planner as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from simulations._tables import print_lines
from simulations._terminal import cell

ROWS = 12
"""Rounds that a terminal shows; --json and --plot have the others."""


def print_plan(found: Mapping[str, Any]) -> None:
    """The plan, every claim in a sentence, and epsilon by round."""
    _group(found)
    if "beside" in found:
        typer.echo("\nBeside it:")
        _group(found["beside"])
        typer.echo("\nA person who is in both:")
        for line in found["person_in_both"]:
            typer.echo(
                f"  epsilon {cell(line['epsilon'])} at delta {line['delta']:g} against "
                f"{'the server' if line['view'] == 'server' else 'whoever sees the released models'}, for "
                f"{line['person']} ({line['adjacency']}; {line['accountant']}); trusted: {line['trusted']}"
            )
    for warning in found["warnings"]:
        typer.echo(f"warning: {warning}", err=True)


def _group(found: Mapping[str, Any]) -> None:
    counted = found["counted"]
    size = f"{cell(found[counted + 's'])} {counted}s"
    if counted == "round" and found["mechanism"] == "dp_sgd":
        size += f" of {found['local_steps']} local steps"
    computed = {"epsilon": "epsilon", "noise_multiplier": "sigma", "rounds": f"{counted}s"}[found["computed"]]
    typer.echo(
        f"{found['mechanism']}, unit {found['unit']}, q = {cell(found['sampling_rate'])}, "
        f"sigma = {found['noise_multiplier']:.5g}, {size} (computed: {computed})"
    )
    for claim in _unlike(found["claims"]):
        typer.echo(
            f"  epsilon {cell(claim['epsilon'])} at delta {claim['delta']:g} for one {claim['unit']}, against "
            f"{claim['view']}\n      adjacency: {claim['adjacency']}; sampler: {claim['sampler']}; "
            f"accountant: {claim['accountant']}\n      trusted: {claim['trusted']}"
        )
    for words in _beside_the_headline(found):
        typer.echo(f"  {words}")
    _print_rounds(found)


def _unlike(claims: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without those that say the same of another viewer."""
    return [claim for place, claim in enumerate(claims) if claim["view"] not in {c["view"] for c in claims[:place]}]


def _beside_the_headline(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for units, value in found.get("person_with_slates", {}).items():
        lines.append(f"a person with {units} slates there: epsilon {cell(value)}")
    two = found.get(f"one_{found['unit']}_at_two_merchants")
    if two is not None:
        lines.append(f"a person with one {found['unit']} at each of two such merchants: epsilon {cell(two)}")
    if "epsilon_where_cohorts_are_known" in found:
        value = cell(found["epsilon_where_cohorts_are_known"])
        lines.append(
            f"where it becomes known who took part in which round: epsilon {value} for a client in every round"
        )
    if "participations" in found:
        part = found["participations"]
        lines.append(
            f"a client that is drawn {part['expected']} times (what q and the rounds let expect): epsilon "
            f"{cell(part['epsilon'])}; the claim above is for one that is drawn in every round"
        )
    if "spent" in found:
        spent = found["spent"]
        lines.append(
            f"spent before: epsilon {cell(spent['epsilon'])} in {spent['steps']} steps; with this plan behind it "
            f"{cell(spent['epsilon_with_plan'])} ({spent['composed']})"
        )
    if "rounds_within_budget" in found:
        lines.append(
            f"the ledger's budget of {cell(found['budget'])} is enough for {found['rounds_within_budget']} such "
            f"{found['counted']}s"
        )
    return lines


def _print_rounds(found: Mapping[str, Any]) -> None:
    rounds = found["by_round"]
    if len(rounds) < 2:
        return
    shown = sorted({round((len(rounds) - 1) * place / (ROWS - 1)) for place in range(ROWS)})
    split = found["epsilon"] != found["epsilon_server_view"]
    lines = []
    for place in shown:
        point = rounds[place]
        line = {f"after {found['counted']}": str(point["round"]), "epsilon": cell(point["epsilon"])}
        lines.append(line | ({"against the server": cell(point["epsilon_server_view"])} if split else {}))
    typer.echo()
    print_lines(lines)


def print_classes(found: Mapping[str, Any]) -> None:
    """The table of declared sizes, and why q may not come from n."""
    print_lines(
        [
            {
                "declared": f"{line['class']:g}",
                "covers": f"{line['from']:.4g} – {line['to']:.4g}",
                "q": f"{line['sampling_rate']:.4g}",
                "sigma": f"{line['noise_multiplier']:.4g}",
                "epsilon": cell(line["epsilon"]),
                "batch low / declared / high": _three(line["expected_batch"]),
                "signal to noise, at most": _three(line["signal_to_noise"]),
            }
            for line in found["classes"]
        ]
    )
    typer.echo(
        f"\n{found['rounds']} rounds of {found['local_steps']} local steps; epsilon at delta {found['delta']:g} for "
        f"one {found['unit']} ({found['adjacency']}; sampler: {found['sampler']}), against {found['view']}; trusted: "
        f"{found['trusted']}."
    )
    typer.echo(
        "Signal to noise: the longest that a step's clipped sum can be, over the length of its noise in "
        f"{found['parameters']:,} parameter{'s' if found['parameters'] > 1 else ''}. A merchant at the low end of its "
        "class hears itself less, one at the high end more; what either promises is the same."
    )
    typer.echo(f"\n{found['why']}")
    for warning in found["warnings"]:
        typer.echo(f"warning: {warning}", err=True)


def _three(values: Mapping[str, float]) -> str:
    return " / ".join(f"{values[place]:.3g}" for place in ("low", "declared", "high"))


def print_curve(found: Mapping[str, Any]) -> None:
    """Ranking quality against epsilon, and the point that is recommended."""
    print_lines(
        [
            {
                "epsilon": cell(float(point["epsilon"])),
                "nDCG@10": _measure(point["ndcg@10"], 4),
                "gain ratio": _measure(point["gain_ratio"], 2),
                "of the non-private": _measure(point["share_of_non_private"], 2),
                "over unpersonalised": _measure(point["retained_over_unpersonalised"], 2),
                "sigma": cell(point["noise_multiplier"]),
            }
            for point in found["points"]
        ]
    )
    typer.echo(f"\n{found['promise']}")
    for line in found["notes"]:
        typer.echo(line)
    typer.echo(f"{found['recommended']['why']} {found['recommended']['rule']}")


def _measure(measure: Mapping[str, Any] | None, digits: int) -> str:
    if measure is None or measure["mean"] is None:
        return "–"
    low, high = measure["ci95"]
    return f"{measure['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
