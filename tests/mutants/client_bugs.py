"""The bugs of rounds whose unit is the client, in the device, the mechanism and the server; see `bugs`."""

from __future__ import annotations

import numpy as np
import pytest

from mmrank.privacy import client_update, distributed
from mmrank.privacy.client_update import ClientUpdate
from mmrank.privacy.noise import SeededNoise
from server.population import Population


def noise_times(factor: float):
    """The noise on a sum, or on a device's update, is `factor` of what is charged."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        noisy = client_update._noisy
        patch.setattr(client_update, "_noisy", lambda arrays, std, noise: noisy(arrays, std * factor, noise))

    return plant


def shares_times(factor: float):
    """The standard deviation of each device's share of distributed noise is `factor` of what is charged."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        draw = distributed.discrete_gaussian

        def wrong(noise, variance: float, n: int) -> np.ndarray:
            return draw(noise, variance * factor**2, n) if factor else np.zeros(n, np.int64)

        patch.setattr(distributed, "discrete_gaussian", wrong)

    return plant


def no_clip(patch: pytest.MonkeyPatch) -> None:
    """A device sends what it learned as it is."""

    def wrong(self: ClientUpdate, update, *, clip, noise):
        return {name: array.astype(np.float32) for name, array in update.items()}

    patch.setattr(ClientUpdate, "release", wrong)


def no_clip_and_no_check(patch: pytest.MonkeyPatch) -> None:
    """Nor does the server look at it."""
    no_clip(patch)
    patch.setattr(ClientUpdate, "fault", lambda self, update, *, clip: None)


def charge_forgotten(patch: pytest.MonkeyPatch) -> None:
    """The population ledger holds the first round alone."""
    charge = Population.charge
    patch.setattr(Population, "charge", lambda self, request: True if self.account.events() else charge(self, request))


def fixed_cohorts(patch: pytest.MonkeyPatch) -> None:
    """Cohorts of one size, drawn without replacement, reported as Poisson."""

    def wrong(self: Population, clients, request):
        order = np.argsort(self._noise("cohort", request).uniform(len(clients)))
        return sorted(clients[row] for row in order[: round(self.mechanism.sampling_rate * len(clients))])

    patch.setattr(Population, "draw", wrong)


def same_noise_each_round(patch: pytest.MonkeyPatch) -> None:
    """The sum's noise is bound to the run, and to neither round nor model; secure noise is kept through the run."""
    patch.setattr(Population, "_noise", lambda self, purpose, request: SeededNoise(7, purpose, request.run))


def private_denominator(patch: pytest.MonkeyPatch) -> None:
    """The noisy sum is divided by how many replied."""
    aggregate = ClientUpdate.aggregate

    def wrong(self: ClientUpdate, updates, like, *, clip, noise):
        mean, clip = aggregate(self, updates, like, clip=clip, noise=noise)
        return {name: array * (self.cohort_size / max(len(updates), 1)) for name, array in mean.items()}, clip

    patch.setattr(ClientUpdate, "aggregate", wrong)
