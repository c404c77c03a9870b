"""Results as tables on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

METRICS = ("ndcg@10", "mrr", "recall@10", "hit@3")
GAINERS = ("unpersonalised", "local_only", "federated", "federated_dp", "personalised")
"""Rows of which a share of the centralised gain says something."""


def print_result(result: Mapping[str, Any]) -> None:
    """Every row with its interval, and what was promised."""
    gains = result["gain_ratio"]
    lines = []
    for row, measures in result["metrics"].items():
        low, high = measures["ndcg@10"]["ci95"]
        line = {"row": row, "ndcg@10": f"{measures['ndcg@10']['mean']:.4f}", "95% interval": f"[{low:.4f}, {high:.4f}]"}
        line |= {name: f"{measures[name]['mean']:.4f}" for name in METRICS[1:]}
        line["gain"] = f"{gains[row]['mean']:.2f}" if row in gains and row in GAINERS else ""
        lines.append(line)
    print_lines(lines)
    for name, reason in result["skipped"].items():
        print(f"not computed: {name}: {reason}")
    privacy = result["privacy"]
    if privacy["mechanism"] == "no_privacy":
        print("No differential privacy: epsilon is infinite.")
    else:
        print(
            f"epsilon {float(privacy['epsilon_max']):.3g} at delta {privacy['delta']:g} for one {privacy['unit']} "
            f"({privacy['adjacency']}, {privacy['sampler']}, {privacy['noise']} noise)"
        )


def print_trials(found: Mapping[str, Any]) -> None:
    """A sweep's trials, the best first."""
    print_lines(
        [
            {
                "trial": str(trial["trial"]),
                **{key: str(value) for key, value in trial["choices"].items()},
                **{
                    key: f"{value:.4g}" if isinstance(value, float) else str(value)
                    for key, value in trial["validation"].items()
                },
            }
            for trial in found["trials"]
        ]
    )


def print_lines(lines: Sequence[Mapping[str, str]]) -> None:
    """A table of plain words on stdout; its width is the terminal's, and no limit where that is none."""
    if not lines:
        print("nothing")
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=400)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in lines[0]:
        table.add_column(name, overflow="fold")
    for line in lines:
        table.add_row(*line.values())
    console.print(table, highlight=False, markup=False)
