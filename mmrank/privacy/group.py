"""What a history costs somebody who is more than one unit: a person with several slates, an event in many histories.

Neither is a multiple of the unit's epsilon. Under Poisson sampling each of the units has a coin of its own, and what
is released differs by a random multiple of the clipping norm.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

from mmrank.errors import PrivacyError
from mmrank.privacy._pld import pld_epsilon
from mmrank.privacy._rdp import rdp_epsilon
from mmrank.privacy.accountant import epsilon as unit_epsilon
from mmrank.privacy.events import UNIT, Event, Relation, check_delta, merged, without_noise


def group_epsilon(events: Iterable[Event], delta: float, *, units: int) -> float:
    """Epsilon at `delta` of a person who is `units` units of this history, all there or none of them.

    A step is a Gaussian of sensitivity Binomial(units, sampling_rate), composed by loss distributions
    (Choquette-Choo et al. 2024, Corollary 4.7; Charles et al. 2024). Concentrated events cost units^2 rho (Bun and
    Steinke 2016, Proposition 27), and the history is then composed by Renyi DP. inf where no number can be computed
    (epsilon above about 200); 0 for no events or units. Raises PrivacyError for a `units` below 0.
    """
    return changed_epsilon(events, delta, own=units, changed=0)


def changed_epsilon(events: Iterable[Event], delta: float, *, own: int, changed: int) -> float:
    """Epsilon at `delta` of one event that is in `own` units of its own and in the histories of `changed` others.

    Without it the own units are gone and each of the others still there, with other contents: where sampled, these
    move the sum by up to 2 clipping norms. An upper bound. Proof: both sides draw the same coins, so that they share
    the part of the mixture where none of these units is sampled; advanced joint convexity (Balle, Barthe and Gaboardi
    2018, Theorem 2), with the best split of the rest, bounds a step's profile by those of Gaussian mixtures, and a
    dominating distribution composes (Zhu, Dong and Wang 2022, Theorem 10). At sampling_rate 1 it is the Gaussian at
    distance own + 2 changed. For one replaced unit it stands within 2% of the pair that is conjectured to be worst
    (Lebeda et al. 2024) up to a sampling rate of 0.1. inf and 0 as in `group_epsilon`.
    Raises PrivacyError for a count below 0.
    """
    check_delta(delta)
    for name, count in (("own", own), ("changed", changed)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise PrivacyError(f"Expected {name}={count!r} units to be a whole number of at least 0.")
    history, relation = merged(events), Relation(own, changed)
    if not history or relation.distance == 0:
        return 0.0
    if without_noise(history):
        return math.inf
    return unit_epsilon(history, delta) if relation == UNIT else _epsilon(history, delta, relation)


@lru_cache(maxsize=4096)
def _epsilon(history: tuple[Event, ...], delta: float, relation: Relation) -> float:
    by_renyi = rdp_epsilon(history, delta, relation)
    if any(event.family == "concentrated" for event in history):
        return by_renyi
    by_losses = pld_epsilon(history, delta, relation)
    return by_renyi if by_losses is None else min(by_losses, by_renyi)
