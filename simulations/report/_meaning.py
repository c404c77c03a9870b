"""What an epsilon and a delta mean, in numbers that a reader can check: beliefs, guesses, detections.

Every (epsilon, delta)-private release is a post-processing of this game: with probability delta the secret is told, and
else a coin is shown that is right with odds of e^epsilon to 1 (Kairouz, Oh and Viswanath 2015, Theorem 3.3; Murtagh and
Vadhan 2016, Lemma 2.2). What an attacker with unlimited knowledge can reach follows from that game.
"""

from __future__ import annotations

import math


def belief_after(prior: float, epsilon: float) -> float:
    """The most that a belief in (0, 1) may rise to, outside of the delta: odds rise by e^epsilon at most.

    >>> round(belief_after(0.5, 1.0), 3), round(belief_after(0.01, 2.0), 3), belief_after(0.5, float("inf"))
    (0.731, 0.069, 1.0)
    """
    return 1 / (1 + math.exp(-epsilon) * (1 - prior) / prior)


def belief_before(prior: float, epsilon: float) -> float:
    """The least that it may fall to.

    >>> round(belief_before(0.5, 1.0), 3)
    0.269
    """
    return 1 - belief_after(1 - prior, epsilon)


def right_guesses(epsilon: float, delta: float) -> float:
    """How often a guess of a fair coin's side ("in" or "out") can be right: (e^epsilon + delta) / (1 + e^epsilon).

    >>> right_guesses(0.0, 0.0), round(right_guesses(1.0, 1e-6), 4)
    (0.5, 0.7311)
    """
    coin = 1 / (1 + math.exp(-epsilon))
    return coin + delta * (1 - coin)


def detections(false_alarms: float, epsilon: float, delta: float) -> float:
    """Of those who are in, the share that a test can find which accuses `false_alarms` of those who are not.

    min(e^epsilon a + delta, 1 - e^-epsilon (1 - delta - a)) (Kairouz, Oh and Viswanath 2015, Theorem 2.1).

    >>> round(detections(0.05, 1.0, 0.0), 3), detections(0.05, 0.0, 0.0), detections(0.05, float("inf"), 0.0)
    (0.136, 0.05, 1.0)
    """
    first = math.exp(min(epsilon, 700.0)) * false_alarms + delta
    second = 1 - math.exp(-epsilon) * (1 - delta - false_alarms)
    return min(max(first, 0.0), max(second, 0.0), 1.0)


def strength(epsilon: float) -> str:
    """A word for an epsilon, as a reader should take it; the numbers beside it count.

    >>> strength(0.5), strength(8.0)
    ('strong', 'weak taken by itself')
    """
    if epsilon <= 1:
        return "strong"
    if epsilon <= 3:
        return "moderate"
    return "weak taken by itself" if epsilon <= 10 else "so weak that it promises next to nothing by itself"
