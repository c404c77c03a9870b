"""The better of item-kNN and iALS on validation: the row that reports show."""

from __future__ import annotations

from simulations.evaluation import Scorer
from simulations.rows import RowContext, build_row

KINDS = ("collaborative_knn", "collaborative_ials")


def build(context: RowContext) -> Scorer:
    """Both are centralised: they see what everybody chose in the training part."""
    scorers = {kind: build_row(kind, context) for kind in KINDS}
    if "collaborative" not in context.choices:
        context.choices["collaborative"], _ = context.evaluator.choose(scorers.items())
    return scorers[context.choices["collaborative"]]
