"""Independent accounts of the Poisson-sampled Gaussian, with error bounds: what the accountant is held against.

Nothing here is taken from dp-accounting, Opacus or mmrank.
"""

import math

import numpy as np
from scipy.special import ndtr


def epsilon_bounds(parts, delta, *, removed, about):
    """(low, high) around epsilon at `delta` of the composition of parts = [(rate, noise, steps), ...].

    removed: the mixture against the noise; otherwise the other direction. about: a guess of epsilon, for the grid.
    Each loss is moved to one of its two neighbours on the grid, at random so that its mean stays: the sum of n losses
    then moves by less than `move` but for a chance eta (Hoeffding, each move within one cell). Truncation, wrap-around
    of the Fourier transform and rounding are bounded and added to eta.
    """
    steps = sum(count for *_, count in parts)
    eta = delta * 1e-3
    move = 0.002 * about
    cell = move / math.sqrt(steps / 2 * math.log(2 / eta))
    window = max(_window(parts, eta, removed=removed), 4 * cell) + move
    size = 1 << math.ceil(math.log2(2 * window / cell))
    assert size <= 1 << 23, "a finer grid than this machine has memory for"
    losses = (np.arange(size) - size // 2) * cell
    spectrum = np.ones(size // 2 + 1, dtype=complex)
    for rate, noise, count in parts:
        mass = _grid_mass(losses, cell, rate, noise, removed=removed)
        spectrum *= np.fft.rfft(np.roll(mass, -(size // 2))) ** count
    mass = np.roll(np.fft.irfft(spectrum, size), size // 2)
    error = 4 * eta + steps * 1e-15
    return _epsilon(losses, mass, delta + error) - move, _epsilon(losses, mass, delta - error) + move


def _survival(losses, rate, noise, *, removed):
    """P[loss > t]."""
    inner = losses if removed else -losses
    odds = (np.expm1(inner) + rate) / rate
    x = noise**2 * np.log(np.where(odds > 0, odds, 1.0)) + 0.5
    x = np.where(odds > 0, x, -np.inf)
    if not removed:
        return ndtr(x / noise)
    return (1 - rate) * ndtr(-x / noise) + rate * ndtr((1 - x) / noise)


def _grid_mass(losses, cell, rate, noise, *, removed):
    """Mass at each point after moving each loss to a neighbour with its mean kept: second differences of the
    integrated survival function, by Simpson's rule in each cell."""
    ends = np.append(losses, losses[-1] + cell)
    at_ends = _survival(ends, rate, noise, removed=removed)
    at_middles = _survival(losses + cell / 2, rate, noise, removed=removed)
    means = (at_ends[:-1] + 4 * at_middles + at_ends[1:]) / 6
    return np.maximum(np.append(1.0, means[:-1]) - means, 0.0)


def _window(parts, eta, *, removed):
    """Beyond it lie the sum, and any one loss, with a chance below eta (Chernoff at a few orders)."""
    best = {1: math.inf, -1: math.inf}
    for order in np.concatenate([np.geomspace(1e-3, 64, 60), -np.geomspace(1e-3, 64, 60)]):
        sign = 1 if order > 0 else -1
        log_moment, single = 0.0, 0.0
        for rate, noise, count in parts:
            moment = _log_moment(rate, noise, order, removed=removed)
            log_moment += count * moment
            single = max(single, (moment + math.log(4 * count * len(parts) / eta)) / abs(order))
        best[sign] = min(best[sign], max(single, (log_moment + math.log(4 / eta)) / abs(order)))
    return max(best.values())


def _log_moment(rate, noise, order, *, removed):
    x = np.linspace(-40 * noise - 64 / noise, 40 * noise + 64 / noise + 1, 20_001)
    ratio = np.logaddexp(math.log1p(-rate) if rate < 1 else -np.inf, math.log(rate) + (2 * x - 1) / (2 * noise**2))
    log_density = -((x / noise) ** 2) / 2 - math.log(noise * math.sqrt(2 * math.pi)) + math.log(x[1] - x[0])
    if removed:
        log_density, loss = log_density + ratio, ratio
    else:
        loss = -ratio
    values = log_density + order * loss
    return float(np.logaddexp.reduce(values))


def _epsilon(losses, mass, delta):
    low, high = 0.0, losses[-1]

    def spent(epsilon):
        above = losses > epsilon
        return float(mass[above] @ -np.expm1(epsilon - losses[above]))

    if spent(0.0) <= delta:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    return high


def renyi_by_integration(rate, noise, order):
    """(order - 1) times the divergence of the mixture from the noise (Mironov, Talwar and Zhang 2019, Eq. 2)."""
    x, step = np.linspace(-30 * noise, order + 30 * noise, 200_001, retstep=True)
    log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
    log_density = -((x / noise) ** 2) / 2 - math.log(noise * math.sqrt(2 * math.pi)) + math.log(step)
    return float(np.logaddexp.reduce(log_density + order * log_ratio))


def one_step_epsilon(p, q, step, delta):
    """Epsilon at `delta` of two densities on one grid of any number of axes, by integration."""

    def spent(epsilon):
        return float(np.maximum(p - math.exp(epsilon) * q, 0.0).sum()) * step

    low, high = 0.0, 600.0
    if spent(0.0) <= delta:
        return 0.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > delta else (low, middle)
    return high
