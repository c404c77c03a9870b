"""Behaviour encoders, one a file: a person's recent events -> what they would like, seen from each candidate.

`build(*, dim, event_width, **settings)` gives a module: events [batch, history, event_width] oldest first,
mask float [batch, history] (0 where padded), candidates [batch, slate, dim] -> [batch, slate or 1, dim].
An empty history gives exactly 0, padded events change nothing. Made of Linears, so that both Opacus's
hooks and torch.func see every weight; axis 0 is the slate throughout.
"""

from __future__ import annotations

from torch import Tensor


def some_history(mask: Tensor) -> Tensor:
    """[batch, 1, 1]: 1 where the person has a history, 0 where not."""
    return (mask.sum(1) > 0).to(mask.dtype)[:, None, None]
