"""The privacy profile of a Gaussian of random sensitivity: what a group of sampled units costs in one step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import log_ndtr, ndtr

Floats = npt.NDArray[Any]

_BLOCK = 1 << 14


class Mixture:
    """N(0, noise^2) against its mixture with means `sizes` at `weights`, in units of the clipping norm.

    It dominates the same with vectors of these norms (Choquette-Choo et al. 2024, "Privacy amplification for
    matrix mechanisms", Corollary 4.7). dp-accounting's own inverts the loss to 1e-6 whatever the noise, which
    under little noise reports too little.
    """

    def __init__(self, noise: float, sizes: Floats, weights: Floats) -> None:
        kept = weights > 0
        self.noise, self.sizes, self.weights = noise, sizes[kept].astype(float), weights[kept]
        constant = float(self.weights[self.sizes == 0].sum())
        self.lowest = math.log(constant) + 1e-12 if constant > 0 else -math.inf

    def loss(self, x: float) -> float:
        """ln(mixture's density / noise's density) at x: increasing in x."""
        return float(self.losses(np.array([x]))[0])

    def losses(self, x: Floats) -> Floats:
        """`loss` at each x."""
        return self._loss_and_slope(x)[0]

    def tail(self, mass: float) -> float:
        """The x above which the mixture has `mass`, from above."""
        low, high = 0.0, float(self.sizes.max()) + 40 * self.noise
        for _ in range(60):
            middle = (low + high) / 2
            beyond = float(self.weights @ ndtr((self.sizes - middle) / self.noise))
            low, high = (middle, high) if beyond > mass else (low, middle)
        return high

    def remove(self, epsilons: Floats) -> Floats:
        """delta(epsilon) of the mixture against the noise, for a group that is taken out. epsilons rise."""
        return np.concatenate([self._remove(block) for block in _blocks(epsilons)])

    def add(self, epsilons: Floats) -> Floats:
        """delta(epsilon) of the noise against the mixture, for a group that is put in. epsilons rise."""
        return np.concatenate([self._add(block) for block in _blocks(epsilons)])

    def _remove(self, epsilons: Floats) -> Floats:
        deltas = -np.expm1(np.minimum(epsilons, 0.0))  # below the lowest loss, that of nobody sampled
        inside = epsilons > self.lowest
        x = self._inverse(epsilons[inside])
        above = ndtr((self.sizes - x[:, None]) / self.noise) @ self.weights
        deltas[inside] = above - np.exp(epsilons[inside] + log_ndtr(-x / self.noise))
        return np.clip(deltas, 0.0, 1.0)

    def _add(self, epsilons: Floats) -> Floats:
        deltas = np.zeros_like(epsilons)
        inside = -epsilons > self.lowest
        x = self._inverse(-epsilons[inside])
        below = np.exp(log_ndtr((x[:, None] - self.sizes) / self.noise) + epsilons[inside, None])
        deltas[inside] = ndtr(x / self.noise) - below @ self.weights
        return np.clip(deltas, 0.0, 1.0)

    def _inverse(self, losses: Floats) -> Floats:
        """x with loss(x) = losses: a table, then Newton's steps, kept between the ends of the table's cell."""
        if not losses.size:
            return losses
        low, high = -self.noise, float(self.sizes.max()) + self.noise
        while self.loss(low) > losses.min() and low > -40 * self.noise:
            low *= 2
        while self.loss(high) < losses.max():
            high *= 2
        table = np.linspace(low, high, 1024)
        cell = np.clip(np.searchsorted(self.losses(table), losses), 1, table.size - 1)
        left, right = table[cell - 1], table[cell]
        x = (left + right) / 2
        for _ in range(60):
            value, slope = self._loss_and_slope(x)
            left, right = np.where(value <= losses, x, left), np.where(value >= losses, x, right)
            newton = x - (value - losses) / np.maximum(slope, 1e-300)
            following = np.where((newton >= left) & (newton <= right), newton, (left + right) / 2)
            settled = np.abs(following - x) <= 1e-12 * (self.noise + np.abs(x))
            x = following
            if settled.all():
                break
        return x

    def _loss_and_slope(self, x: Floats) -> tuple[Floats, Floats]:
        terms = np.log(self.weights) + (x[:, None] * self.sizes - self.sizes**2 / 2) / self.noise**2
        top = terms.max(axis=1)
        scaled = np.exp(terms - top[:, None])
        total = scaled.sum(axis=1)
        return top + np.log(total), scaled @ self.sizes / total / self.noise**2


def gaussian_profile(epsilons: Floats, shift: float) -> Floats:
    """delta(epsilon) of N(shift, 1) against N(0, 1) (Balle and Wang 2018, Eq. 6), for any sign of epsilon."""
    if shift == 0:
        return np.maximum(0.0, -np.expm1(np.minimum(epsilons, 0.0)))
    cut = epsilons / shift
    return np.asarray(ndtr(shift / 2 - cut) - np.exp(epsilons + log_ndtr(-shift / 2 - cut)))


def _blocks(values: Floats) -> list[Floats]:
    return np.array_split(values, max(1, values.size // _BLOCK))
