"""At stake: the whole way from ten devices' updates to a noisy sum, with devices lost at every step."""

import math

import numpy as np
import pytest
from scipy import stats

from mmrank.privacy.distributed import DistributedNoise, plan_distributed
from mmrank.privacy.noise import SecureNoise
from tests.secure_sum.rounds import Party, play

NAMES = tuple(f"device-{i:02d}" for i in range(10))
LOST = {"advert": NAMES[:1], "shares": NAMES[1:2], "masked": NAMES[2:3], "reveal": NAMES[3:4]}
IN_SUM = NAMES[3:]
DIMENSION = 3000


def mechanism(**changes) -> DistributedNoise:
    facts = {"noise_multiplier": 1.0, "max_grad_norm": 0.5, "dimension": DIMENSION, "threshold": 6, "colluders": 0}
    return plan_distributed(**facts | {"cohort": 10} | changes)


def updates() -> dict[str, np.ndarray]:
    """Of norms from 0.1 to 1: some are clipped to 0.5."""
    generator = np.random.Generator(np.random.PCG64(8))
    drawn = {name: generator.normal(size=DIMENSION) for name in NAMES}
    return {
        name: vector / np.linalg.norm(vector) * norm
        for (name, vector), norm in zip(drawn.items(), np.linspace(0.1, 1, 10), strict=True)
    }


def clipped_sum() -> np.ndarray:
    by_name = updates()
    return sum(by_name[name] * min(1, 0.5 / np.linalg.norm(by_name[name])) for name in IN_SUM)


@pytest.mark.parametrize("bits", [16, 32])
def test_without_noise_the_sum_is_exact_to_rounding(bits):
    plan = mechanism(bits=bits)
    party = Party(round_=plan.sum_round(run="exact", round_number=1, cohort=NAMES))
    by_name, noise = updates(), SecureNoise()

    def value_of(name: str) -> np.ndarray:
        return plan.rounded(by_name[name], round_=party.round_, noise=noise) & party.round_.largest

    view = play(party, value_of, lost=LOST)
    assert view.survivors == IN_SUM
    rounded_off = plan.decode(view.total, round_=party.round_) - clipped_sum()
    # each coordinate of each survivor is rounded by a variance of at most 1/4
    assert np.linalg.norm(rounded_off) <= 1.2 * plan.granularity * math.sqrt(len(IN_SUM) * plan.length / 4)
    assert np.abs(rounded_off).max() <= len(IN_SUM) * plan.granularity * math.sqrt(4096)


def test_with_noise_the_sum_has_the_claimed_law_and_no_other():
    """Seven survivors of a threshold of six: variance 7/6 z^2 C^2 a coordinate, a little above what is charged for."""
    plan = mechanism()
    party = Party(round_=plan.sum_round(run="noisy", round_number=1, cohort=NAMES))
    by_name = updates()
    view = play(party, lambda name: plan.encode(by_name[name], round_=party.round_, noise=SecureNoise()), lost=LOST)
    noise = plan.decode(view.total, round_=party.round_) - clipped_sum()
    std = math.sqrt(len(IN_SUM) / plan.threshold) * plan.noise_multiplier * plan.max_grad_norm
    low, high = stats.chi2.ppf([2e-7, 1 - 2e-7], DIMENSION)
    assert low < float(noise @ noise) / std**2 < high
    assert not low < float(noise @ noise) / (std * 2 / 3) ** 2 < high
    assert not low < float(noise @ noise) / (std * 3 / 2) ** 2 < high
    assert stats.kstest(noise / std, "norm").pvalue > 4e-7


def test_the_least_that_survives_still_carries_the_noise_that_is_charged():
    """Six of ten, and no update at all: what is left is the noise of six shares, z C in every direction."""
    plan = mechanism()
    party = Party(round_=plan.sum_round(run="least", round_number=1, cohort=NAMES))
    zeros = np.zeros(DIMENSION)
    view = play(
        party,
        lambda name: plan.encode(zeros, round_=party.round_, noise=SecureNoise()),
        lost={"shares": NAMES[:2], "masked": NAMES[2:4]},
    )
    assert len(view.survivors) == plan.threshold
    noise = plan.decode(view.total, round_=party.round_)
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], DIMENSION)
    assert low < float(noise @ noise) / (plan.noise_multiplier * plan.max_grad_norm) ** 2 < high


def test_two_rounds_of_the_same_updates_share_no_noise_and_no_rotation():
    plan = mechanism()
    by_name = updates()
    sums = []
    for number in (1, 2):
        party = Party(round_=plan.sum_round(run="twice", round_number=number, cohort=NAMES))
        view = play(party, lambda name, r=party.round_: plan.encode(by_name[name], round_=r, noise=SecureNoise()))
        sums.append(plan.decode(view.total, round_=party.round_))
    noises = [total - sum(by_name[n] * min(1, 0.5 / np.linalg.norm(by_name[n])) for n in NAMES) for total in sums]
    assert abs(np.corrcoef(noises[0], noises[1])[0, 1]) < 6 / math.sqrt(DIMENSION)
