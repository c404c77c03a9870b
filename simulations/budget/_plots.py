"""Plots of the planner, into a file or into a page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrank.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg", ".pdf")
DPI = 150


def save(draw: Callable[[Axes, bool], None], path: Path, *, height: float) -> None:
    """Draw into a file of the kind that its name says. Raises ConfigError without matplotlib or for another kind."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigError(f"Expected the plot's file {path} to end in one of {', '.join(FORMATS)}; rename it.")
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError(
            "A plot needs matplotlib, which is not installed; pip install 'mmrank[sim]', or leave the plot out."
        ) from error
    from simulations.report._plots import style

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(style(11.0)):
        figure = Figure(figsize=(9.0, height), layout="constrained")
        draw(figure.subplots(), False)
        figure.savefig(path, dpi=DPI, metadata={"Software": None} if path.suffix == ".png" else None)


def save_plan(found: Mapping[str, Any], path: Path) -> None:
    """Epsilon by round of a plan, and of the group beside it."""
    groups = [found, *([found["beside"]] if "beside" in found else [])]

    def draw(axes: Axes, narrow: bool) -> None:
        for group, ink in zip(groups, ("#c2410c", "#2456c9"), strict=False):
            rounds = [point["round"] for point in group["by_round"]]
            name = f"{group['mechanism']}, one {group['unit']}"
            axes.plot(rounds, [p["epsilon"] for p in group["by_round"]], color=ink, linewidth=2.2, label=name)
            server = [point["epsilon_server_view"] for point in group["by_round"]]
            if server and math.isinf(server[-1]):
                axes.plot([], [], " ", label=f"against the server: ∞ ({group['mechanism']})")
        if "budget" in found:
            axes.axhline(found["budget"], color="#1d2430", linewidth=1.0, label=f"budget {found['budget']:g}")
        axes.set_xlabel(" / ".join(dict.fromkeys(group["counted"] for group in groups)))
        axes.set_ylabel(f"epsilon at delta = {found['delta']:g}")
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=0)
        axes.legend(loc="lower right", fontsize="small")

    save(draw, path, height=4.2)


def draw_curve(points: Sequence[Mapping[str, Any]], levels: Mapping[str, float], recommended: float | None) -> Any:
    """A function (axes, narrow) that draws nDCG@10 against epsilon on a logarithmic axis, infinity at its end."""
    finite = sorted(float(point["epsilon"]) for point in points if math.isfinite(float(point["epsilon"])))
    end = (finite[-1] if finite else 1.0) * 2.5

    def place(epsilon: Any) -> float:
        return float(epsilon) if math.isfinite(float(epsilon)) else end

    def draw(axes: Axes, narrow: bool) -> None:
        from simulations.report._plots import INK, SOFT, colour

        for name, value in levels.items():
            axes.axhline(value, color=colour(name), linewidth=1.3, linestyle=(0, (4, 3)))
            axes.annotate(
                name, (0.0, value), (4, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                color=colour(name), fontsize="small",
            )  # fmt: skip
        ordered = sorted(points, key=lambda point: place(point["epsilon"]))
        for row in ("federated_dp", "federated"):
            chosen = [point for point in ordered if math.isfinite(float(point["epsilon"])) == (row == "federated_dp")]
            xs, means = [place(p["epsilon"]) for p in chosen], [p["ndcg@10"]["mean"] for p in chosen]
            bounds = [point["ndcg@10"]["ci95"] for point in chosen]
            ink = colour(row)
            axes.plot(xs, means, color=ink, linewidth=2.2, marker="o", markersize=6, markeredgecolor="white", zorder=3)
            axes.vlines(xs, [low for low, _ in bounds], [high for _, high in bounds], color=ink, linewidth=2.2)
        if recommended is not None:
            axes.axvline(recommended, color=INK, linewidth=1.0, linestyle=":", zorder=1)
            axes.annotate(
                f"recommended: {recommended:g}" if math.isfinite(recommended) else "", (recommended, 0.0), (5, 5),
                xycoords=("data", "axes fraction"), textcoords="offset points", color=SOFT, fontsize="small",
            )  # fmt: skip
        axes.set_xscale("log")
        ticks = [*finite, *([end] if any(not math.isfinite(float(p["epsilon"])) for p in points) else [])]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in finite] + ["∞"] * (len(ticks) - len(finite)))
        axes.minorticks_off()
        axes.set_xlim(min(ticks) / 1.6, max(ticks) * 1.5)
        axes.set_xlabel("epsilon (logarithmic; ∞: the same federation without noise)")
        axes.set_ylabel("nDCG@10 on test")

    return draw
