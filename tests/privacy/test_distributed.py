"""At stake: facts that do not hold together, noise too small for what is charged, and sums that mean something else."""

import math
from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import stats

from mmrank.errors import PrivacyError, SecureSumError
from mmrank.privacy.accountant import epsilon
from mmrank.privacy.distributed import DistributedNoise, plan_distributed
from mmrank.privacy.distributed_update import from_settings
from mmrank.privacy.noise import SecureNoise, SeededNoise
from mmrank.settings import FederationSettings, PrivacySettings, TrainingSettings

FACTS = {"noise_multiplier": 1.0, "max_grad_norm": 0.5, "dimension": 300, "threshold": 6, "colluders": 1, "cohort": 10}


def plan(**changes) -> DistributedNoise:
    return plan_distributed(**FACTS | changes)


def round_of(mechanism: DistributedNoise, number: int = 1):
    names = [f"c{i}" for i in range(mechanism.cohort)]
    return mechanism.sum_round(run="run", round_number=number, cohort=names)


def test_each_share_is_sized_for_the_honest_of_the_smallest_cohort():
    mechanism = plan()
    units = mechanism.noise_multiplier * mechanism.max_grad_norm / mechanism.granularity
    assert mechanism.share_variance == pytest.approx(units**2 / (6 - 1))
    assert mechanism.share_variance * (6 - 1) * mechanism.granularity**2 == pytest.approx((1.0 * 0.5) ** 2)


def test_the_charge_counts_the_rounded_sensitivity_and_is_a_little_above_the_plain_gaussians():
    mechanism = plan()
    sensitivity = math.sqrt(mechanism.norm_bound_squared) * mechanism.granularity
    assert sensitivity > mechanism.max_grad_norm
    expected = mechanism.noise_multiplier * mechanism.max_grad_norm / sensitivity
    assert mechanism.effective_noise_multiplier == pytest.approx(expected, rel=1e-6)
    assert 0.99 < mechanism.effective_noise_multiplier < 1
    assert mechanism.rho == pytest.approx(0.5 / mechanism.effective_noise_multiplier**2)


def test_coarser_grains_cost_more_and_are_charged():
    fine = plan()
    coarse = replace(fine, granularity=fine.granularity * 100)
    assert coarse.effective_noise_multiplier < 0.9 * fine.effective_noise_multiplier


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"threshold": 1, "colluders": 1}, "threshold=1"),
        ({"threshold": 11}, "threshold=11"),
        ({"threshold": 5, "colluders": 0}, "above"),
        ({"threshold": 6, "colluders": 3}, "above"),
        ({"colluders": -1}, "colluders=-1"),
        ({"noise_multiplier": 0.0}, "noise_multiplier=0.0"),
        ({"noise_multiplier": math.nan}, "noise_multiplier=nan"),
        ({"max_grad_norm": -1.0}, "max_grad_norm=-1.0"),
        ({"granularity": math.inf}, "granularity=inf"),
        ({"granularity": 1.0}, "variance in"),
        ({"granularity": 1e-10}, "granularity=1e-10"),
        ({"bits": 10}, "bits=10"),
        ({"bits": 7}, "bits=7"),
        ({"bits": 33}, "bits=33"),
        ({"cohort": 5}, "threshold=6"),
        ({"cohort": 1, "threshold": 1, "colluders": 0}, "cohort of 2"),
        ({"dimension": 0}, "dimension=0"),
        ({"beta": 0.0}, "beta=0.0"),
        ({"beta": 1.0}, "beta=1.0"),
    ],
)
def test_facts_that_do_not_hold_together_are_refused(wrong, match):
    with pytest.raises(PrivacyError, match=match):
        replace(plan(), **wrong)


def test_all_facts_are_frozen_and_given_by_name():
    mechanism = plan()
    with pytest.raises(AttributeError):
        mechanism.threshold = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        DistributedNoise(1.0, 1.0, 0.1, 5, 2, 0, 2, 16)  # type: ignore[misc]
    assert all(field.kw_only for field in fields(mechanism))


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("dimension", [1, 300, 5000])
@pytest.mark.parametrize("noise_multiplier", [0.3, 1.0, 8.0])
def test_a_plan_keeps_its_promises(dimension, noise_multiplier, rotated):
    mechanism = plan(dimension=dimension, noise_multiplier=noise_multiplier, rotated=rotated)
    assert mechanism.wrap_probability <= 2.0**-40
    assert mechanism.bits in (16, 32)
    assert mechanism.effective_noise_multiplier >= 0.99 * noise_multiplier


def test_sixteen_bits_serve_small_cohorts_and_thirty_two_large_ones():
    assert plan(dimension=50_000).bits == 16
    assert plan(dimension=50_000, cohort=1000, threshold=700).bits == 32
    with pytest.raises(PrivacyError, match="rounding costs"):
        plan(dimension=50_000, cohort=1000, threshold=700, bits=16)
    with pytest.raises(PrivacyError, match="no room"):
        plan(dimension=50_000, cohort=9000, threshold=8000, bits=8)


@pytest.mark.parametrize("wrong", [{"threshold": 1, "colluders": 1}, {"noise_multiplier": 0.0}, {"dimension": 0}])
def test_a_plan_of_impossible_facts_is_refused(wrong):
    with pytest.raises(PrivacyError, match="Expected"):
        plan(**wrong)


def test_the_wrap_bound_holds_for_the_worst_updates_on_a_small_modulus():
    """All clients send the same clipped update: the bound is above what is seen, and not by the whole range."""
    mechanism = plan(dimension=64, bits=12, wrap_probability=2.0**-21, largest_loss=0.5)
    half = 2 ** (mechanism.bits - 1)
    worst = 0
    for number in range(1, 200):
        round_ = round_of(mechanism, number)
        noise = SeededNoise(number, "wrap")
        update = np.ones(64)
        total = sum(mechanism.rounded(update, round_=round_, noise=noise) for _ in range(mechanism.cohort))
        worst = max(worst, np.abs(total).max())
    assert half / 16 < worst < half
    assert replace(mechanism, bits=11 + 2).wrap_probability < mechanism.wrap_probability


@pytest.mark.parametrize("rotated", [True, False])
def test_an_encoded_update_is_uniform_in_nothing_but_noise_and_decodes_to_itself(rotated):
    mechanism = plan(noise_multiplier=0.01, rotated=rotated, bits=32)
    round_ = round_of(mechanism)
    update = np.linspace(-0.02, 0.02, 300)
    residues = mechanism.encode(update, round_=round_, noise=SecureNoise())
    assert residues.dtype == round_.dtype
    assert residues.shape == (mechanism.length,)
    signed = residues.astype(np.int64)
    signed = np.where(signed >= 2**31, signed - 2**32, signed)
    assert mechanism.decode(signed, round_=round_) == pytest.approx(update, abs=0.02)


def test_the_noise_of_a_share_has_the_claimed_size_and_two_thirds_would_be_seen():
    mechanism = plan(dimension=20_000)
    round_ = round_of(mechanism)
    draws = mechanism.encode(np.zeros(20_000), round_=round_, noise=SecureNoise()).astype(np.int64)
    signed = np.where(draws >= 2 ** (mechanism.bits - 1), draws - 2**mechanism.bits, draws)
    statistic = float((signed.astype(float) ** 2).sum())
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], len(signed))
    assert low < statistic / mechanism.share_variance < high
    assert not low < statistic / (mechanism.share_variance * 4 / 9) < high
    assert not low < statistic / (mechanism.share_variance * 9 / 4) < high


def test_clipping_happens_whatever_comes_in():
    mechanism = plan()
    round_ = round_of(mechanism)
    for update in (np.full(300, 1e6), np.full(300, np.nan), np.full(300, 1e-9), np.eye(1, 300)[0] * 0.5):
        rounded = mechanism.rounded(update, round_=round_, noise=SecureNoise())
        assert int(rounded @ rounded) <= mechanism.norm_bound_squared


def test_a_round_of_other_facts_and_an_update_of_another_shape_are_refused():
    mechanism = plan()
    round_ = round_of(mechanism)
    for wrong in (replace(round_, threshold=7), replace(round_, bits=round_.bits - 1), replace(round_, length=8)):
        with pytest.raises(PrivacyError, match="use sum_round"):
            mechanism.encode(np.zeros(300), round_=wrong, noise=SecureNoise())
        with pytest.raises(PrivacyError, match="use sum_round"):
            mechanism.decode(np.zeros(512, np.int64), round_=wrong)
    for shape in ((299,), (300, 1)):
        with pytest.raises(PrivacyError, match="flatten"):
            mechanism.encode(np.zeros(shape), round_=round_, noise=SecureNoise())


def test_a_cohort_above_the_planned_or_below_the_threshold_is_refused():
    mechanism = plan()
    for size in (11, 5):
        with pytest.raises(SecureSumError, match="Expected"):
            mechanism.sum_round(run="r", round_number=1, cohort=[f"c{i}" for i in range(size)])
    assert mechanism.sum_round(run="r", round_number=1, cohort=[f"c{i}" for i in range(6)]).threshold == 6


@pytest.mark.parametrize("delta", [1e-5, 1e-8])
@pytest.mark.parametrize("dimension", [13_544, 2_199])
def test_a_target_epsilon_is_kept_whatever_the_granularity_does(delta, dimension):
    """Near the coarsest rounding that is allowed, more noise is rounded more, and what it counts for hardly grows."""
    privacy = PrivacySettings(
        mechanism="client_update", unit="client", noise_at="distributed", epsilon=2.0, delta=delta, sampling_rate=1.0
    )
    federation = FederationSettings(rounds=5, cohort_size=50)
    privacy = replace(privacy, secure_cohort=50, secure_threshold=50)
    private = from_settings(privacy, TrainingSettings(), federation, dimension=dimension)
    spent = epsilon([private.event] * 5, delta)
    assert 1.95 < spent <= 2.0
