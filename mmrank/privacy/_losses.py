"""The privacy loss distribution of one step, on a grid of losses, rounded so that it dominates the true one.

A step's privacy profile, delta as a function of epsilon, is computed at each point of the grid and joined by
"Connect the Dots" (Doroshenko et al. 2022, Algorithm 1), as in dp-accounting, whose distributions these are.
"""

from __future__ import annotations

import math
from typing import Any

import dp_accounting
import numpy as np
import numpy.typing as npt
from dp_accounting.pld import pld_pmf, privacy_loss_distribution
from scipy.stats import binom

from mmrank.privacy._mixtures import Mixture, gaussian_profile
from mmrank.privacy.events import UNIT, Relation

Floats = npt.NDArray[Any]

TAIL_MASS = 1e-22
"""What is beyond the grid, counted as an infinite loss; also in ten million steps far below the smallest delta."""
TAIL = 10.0
"""The same in standard deviations of a Gaussian."""
_SPLITS = np.exp(np.concatenate([np.linspace(-14, 0, 29), np.linspace(0.5, 6, 12)]))


def step_losses(rate: float, noise: float, relation: Relation, interval: float) -> Any:
    """dp-accounting's PrivacyLossDistribution of one Poisson-sampled Gaussian step between neighbours."""
    if rate == 1:
        noise, relation = noise / relation.distance, UNIT
    if relation == UNIT:
        return privacy_loss_distribution.from_gaussian_mechanism(
            standard_deviation=noise,
            sensitivity=1.0,
            pessimistic_estimate=True,
            value_discretization_interval=interval,
            sampling_prob=rate,
            neighboring_relation=dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
        )
    top = largest_loss(rate, noise, relation)
    if relation.changed:
        remove, add = _changed(rate, noise, relation, np.arange(math.ceil(top / interval) + 1) * interval)
        low = 1 - (len(remove) + 1) // 2
        return privacy_loss_distribution.PrivacyLossDistribution(
            _distribution(low, remove, interval), _distribution(low, add, interval)
        )
    mixture = _group(rate, noise, relation)
    lowest, highest = mixture.loss(-TAIL * noise), mixture.loss(TAIL * noise)
    remove_grid = np.arange(math.floor(lowest / interval), math.ceil(top / interval) + 1)
    add_grid = np.arange(-math.ceil(highest / interval), -math.floor(lowest / interval) + 1)
    return privacy_loss_distribution.PrivacyLossDistribution(
        _distribution(int(remove_grid[0]), mixture.remove(remove_grid * interval), interval),
        _distribution(int(add_grid[0]), mixture.add(add_grid * interval), interval),
    )


def largest_loss(rate: float, noise: float, relation: Relation) -> float:
    """The largest loss on a step's grid, in nats: its memory is this over the interval."""
    plain = relation.distance * (2 * TAIL * noise + relation.distance) / (2 * noise**2)
    if rate == 1:
        return plain
    mixture = _group(rate, noise, relation)
    # P's density over Q's is at most its density over that part of Q where nobody is sampled
    nobody = -(relation.own + relation.changed) * math.log1p(-rate) if relation.changed else 0.0
    return min(plain, mixture.loss(mixture.tail(TAIL_MASS)) + nobody)


def moments(rate: float, noise: float, relation: Relation) -> tuple[float, float]:
    """Mean and variance of one step's loss, roughly: for choosing a grid."""
    if rate == 1:
        return relation.distance**2 / (2 * noise**2), relation.distance**2 / noise**2
    mixture = _group(rate, noise, relation)
    x = np.linspace(-8 * noise, float(mixture.sizes.max()) + 8 * noise, 4096)
    density = np.exp(-(((x[:, None] - mixture.sizes) / noise) ** 2) / 2) @ mixture.weights
    density /= density.sum()
    loss = mixture.losses(x)
    mean = float(density @ loss)
    more = 1 + 3 * (relation.changed > 0)
    return more * mean, more * float(density @ (loss - mean) ** 2)


def _group(rate: float, noise: float, relation: Relation) -> Mixture:
    count = relation.own + relation.changed
    sizes = np.arange(count + 1)
    return Mixture(noise, sizes, binom.pmf(sizes, count, rate))


def _changed(rate: float, noise: float, relation: Relation, epsilons: Floats) -> tuple[Floats, Floats]:
    """Upper bounds of both profiles on the grid -epsilons, epsilons: own units there against not there, and back.

    With the same coins on both sides, P = w X + g P1 and Q = w X + g Q1: X is the sum without any of the units, w =
    (1 - rate)^units the chance that none is sampled, g = 1 - w. Balle, Barthe and Gaboardi 2018, Theorem 2, is
    H_a'(P, Q) = g H_a(P1, (1 - b) X + b Q1), a' = 1 + g (a - 1), b = a' / a. Any split c of P1's mass bounds it,
    H_a(P1, (1 - b) X + b Q1) <= (1 - b c) H_{a (1 - b) / (1 - b c)}(P1, X) + b c H_{a / c}(P1, Q1): c = 1 is their
    joint convexity, c = 0 leaves Q1 out; the least is taken. P1 against X is a `Mixture`; P1 against Q1 at most the
    mean, over the coins, of Gaussians at distance own + 2 changed among the sampled.
    """
    own, changed = np.arange(relation.own + 1)[:, None], np.arange(relation.changed + 1)
    coins = binom.pmf(own, relation.own, rate) * binom.pmf(changed, relation.changed, rate)
    gain = -math.expm1((relation.own + relation.changed) * math.log1p(-rate))
    coins[0, 0] = 0.0
    coins /= coins.sum()
    # tables of convex functions of exp(epsilon), joined by chords, which lie above them
    knots = np.concatenate([-epsilons[:0:-1], epsilons, epsilons[-1] + np.linspace(0.01, 15 - math.log(gain), 2000)])
    joint = _mean_profile(coins, own + 2 * changed, noise, knots)
    bounds = []
    for sizes in (own + changed, 0 * own + changed):
        alone = Mixture(noise, sizes.ravel(), coins.ravel()).remove(knots) if sizes.any() else None
        bounds.append(_split(gain, epsilons, knots, alone, joint))
    return _profile(epsilons, bounds[0], bounds[1]), _profile(epsilons, bounds[1], bounds[0])


def _mean_profile(coins: Floats, distances: npt.NDArray[np.int64], noise: float, epsilons: Floats) -> Floats:
    total = np.zeros_like(epsilons)
    for distance in np.unique(distances):
        total += coins[distances == distance].sum() * gaussian_profile(epsilons, distance / noise)
    return total


def _split(gain: float, epsilons: Floats, knots: Floats, alone: Floats | None, joint: Floats) -> Floats:
    inner = np.log1p(np.expm1(epsilons) / gain)
    beta = np.exp(epsilons - inner)

    def at(values: Floats, where: Floats) -> Floats:
        return np.interp(np.exp(np.minimum(where, knots[-1])), np.exp(knots), values, left=1.0)

    best = np.ones_like(epsilons)
    for part in (0.0, *_SPLITS):
        rest = 1 - beta * part
        valid = rest > 0
        order = inner[valid] + np.log(np.maximum(1 - beta[valid], 1e-300)) - np.log(rest[valid])
        first = np.maximum(0.0, -np.expm1(np.minimum(order, 0.0))) if alone is None else at(alone, order)
        bound = rest[valid] * first
        if part:
            bound += beta[valid] * part * at(joint, inner[valid] - math.log(part))
        best[valid] = np.minimum(best[valid], gain * bound)
    return best


def _profile(epsilons: Floats, forward: Floats, backward: Floats) -> Floats:
    """The profile on -epsilons and epsilons from both sides' halves: H_a(P, Q) = 1 - a + a H_(1/a)(Q, P).

    Made convex in a: the true profile is, and lies below the greatest convex function below any bound of it.
    """
    negative = -epsilons[:0:-1]
    values = np.concatenate([-np.expm1(negative) + np.exp(negative) * backward[:0:-1], forward])
    ratios = np.exp(np.concatenate([negative, epsilons]))
    xs: list[float] = []
    ys: list[float] = []
    for x, y in zip(ratios.tolist(), values.tolist(), strict=True):
        while len(xs) > 1 and (ys[-1] - ys[-2]) * (x - xs[-1]) >= (y - ys[-1]) * (xs[-1] - xs[-2]):
            xs.pop()
            ys.pop()
        xs.append(x)
        ys.append(y)
    return np.asarray(np.interp(ratios, xs, ys))


def _distribution(low: int, deltas: Floats, interval: float) -> Any:
    # rounding must not make it rise; the larger neighbour is the safe one
    falling = np.maximum.accumulate(np.clip(deltas, 0.0, 1.0)[::-1])[::-1]
    return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, low, low + falling.size - 1, falling)
