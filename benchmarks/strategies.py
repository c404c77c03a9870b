"""Compute the strategy matrices that are shipped in mmrank/privacy/data, and print what each is worth.

    python benchmarks/strategies.py --write

Prints, for a client that takes part as often as said, the RMS error of all prefix sums in units of noise over
sensitivity: of independent noise, of the binary tree (Honaker's refinement left out), and of the strategy.
Without --write nothing is changed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from mmrank.privacy.toeplitz import optimise

DATA = Path(__file__).resolve().parents[1] / "mmrank" / "privacy" / "data" / "strategies.json"
ROUNDS = (100, 200, 500, 1000)
PARTICIPATIONS = (1, 2, 5, 10)


def independent_error(rounds: int, participations: int) -> float:
    """sqrt(participations) x sqrt(mean of t)."""
    return float(np.sqrt(participations * (rounds + 1) / 2))


def tree_error(rounds: int, participations: int, separation: int) -> float:
    """Dyadic nodes: the worst sensitivity of participations at a, a + b, a + 2b, ... x the RMS of nodes in a prefix.

    A node counts only where some prefix needs it. Other participations may be worse still, so this flatters the tree.
    """
    starts, stops = np.array(used_nodes(rounds)).T
    worst = 0.0
    for first in range(rounds):
        at = first + separation * np.arange(participations)
        hits = ((starts[:, None] <= at) & (at < stops[:, None])).sum(1)
        worst = max(worst, float((hits.astype(float) ** 2).sum()))
    return float(np.sqrt(worst * np.mean([t.bit_count() for t in range(1, rounds + 1)])))


def used_nodes(rounds: int) -> list[tuple[int, int]]:
    """[start, stop) of every dyadic node that a prefix of 1 to `rounds` is made of."""
    nodes = set()
    for t in range(1, rounds + 1):
        start = 0
        for bit in reversed(range(t.bit_length())):
            if t >> bit & 1:
                nodes.add((start, start + (1 << bit)))
                start += 1 << bit
    return sorted(nodes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    entries = []
    for rounds in ROUNDS:
        for participations in PARTICIPATIONS:
            separation = rounds // participations
            facts = {"max_participations": participations, "min_separation": separation}
            strategy = optimise(rounds, **facts)
            sensitivity, error = strategy.sensitivity(rounds, **facts), strategy.rms_error(rounds)
            tree = tree_error(rounds, participations, separation)
            print(
                f"{rounds:>5} rounds, {participations:>2} participations, separation {separation:>4}: independent "
                f"{independent_error(rounds, participations):6.2f}  tree {tree:6.2f}  "
                f"buffers({len(strategy.decay)}) {sensitivity * error:6.3f}  = {sensitivity * error / tree:.3f} of tree"
            )
            entries.append(
                {
                    "rounds": rounds,
                    **facts,
                    "decay": strategy.decay,
                    "weight": strategy.weight,
                    "sensitivity": sensitivity,
                    "rms_error": error,
                }
            )
    if write:
        DATA.parent.mkdir(exist_ok=True)
        lines = ",\n".join("  " + json.dumps(entry) for entry in entries)
        DATA.write_text(f'{{"made_by": "benchmarks/strategies.py", "strategies": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
