"""At stake: noise of exactly the law that is accounted, and a bound on its sums that is never below the truth."""

import math
import time
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from mmrank.errors import PrivacyError
from mmrank.privacy import discrete
from mmrank.privacy.discrete import bernoulli_exp, concentrated_epsilon, discrete_gaussian, discrete_laplace, tau
from mmrank.privacy.noise import SecureNoise, SeededNoise

SOURCES = pytest.mark.parametrize(
    "source", [SecureNoise, lambda: SeededNoise(11, "statistics")], ids=["secure", "seeded"]
)


def gaussian_law(variance: float, reach: int) -> np.ndarray:
    """Probabilities of -reach..reach."""
    x = np.arange(-reach, reach + 1)
    weights = np.exp(-(x**2) / (2 * variance))
    return weights / weights.sum()


def summed_law(variance: float, shares: int, reach: int) -> np.ndarray:
    """The law of a sum, by convolution of positive numbers: each probability is right to a few parts in 10^14."""
    one = gaussian_law(variance, reach)
    law = one
    for _ in range(shares - 1):
        law = np.convolve(law, one)
    return law


def fits(draws: np.ndarray, law: np.ndarray) -> bool:
    """Chi-square of integer draws against probabilities of -r..r, bins below 10 expected draws put together; 1e-7."""
    reach = len(law) // 2
    if np.abs(draws).max() > reach:
        return False
    counts, expected = np.bincount(draws + reach, minlength=len(law)), law * len(draws)
    common = expected >= 10
    observed = np.append(counts[common], counts[~common].sum())
    wanted = np.append(expected[common], expected[~common].sum())
    keep = wanted > 0.5
    return stats.chisquare(observed[keep], wanted[keep] * observed[keep].sum() / wanted[keep].sum()).pvalue > 1e-7


@SOURCES
@pytest.mark.parametrize("variance", [0.09, 0.5, 1.0, 2.75, 9.3, 400.0, 1e4])
def test_draws_follow_the_discrete_gaussian_and_the_test_would_see_another(source, variance):
    draws = discrete_gaussian(source(), variance, 60_000)
    assert draws.dtype == np.int64
    reach = math.ceil(9 * math.sqrt(variance)) + 2
    assert fits(draws, gaussian_law(variance, reach))
    if variance >= 0.5:
        assert not fits(draws, gaussian_law(variance * 4 / 9, reach))
        assert not fits(draws, gaussian_law(variance * 9 / 4, reach))


@pytest.mark.parametrize("std", [1e5, 2.0**28])
def test_wide_draws_have_the_variance_that_was_asked_for(std):
    draws = discrete_gaussian(SecureNoise(), std**2, 50_000)
    low, high = stats.chi2.ppf([2.5e-7, 1 - 2.5e-7], len(draws))
    assert low < float((draws.astype(float) ** 2).sum()) / std**2 < high
    assert stats.kstest(draws / std, "norm").pvalue > 5e-7
    assert len(np.unique(draws & 15)) == 16  # the low bits are drawn as well


@SOURCES
@pytest.mark.parametrize("scale_bits", [0, 1, 3])
def test_the_proposal_is_the_discrete_laplace(source, scale_bits):
    draws = discrete_laplace(source(), scale_bits, 60_000)
    reach = 40 * 2**scale_bits
    weights = np.exp(-np.abs(np.arange(-reach, reach + 1)) / 2**scale_bits)
    assert fits(draws, weights / weights.sum())


def test_a_coin_that_floats_can_not_decide_is_decided_by_more_digits(monkeypatch):
    """With an error of 1 each coin takes the exact way, and falls as the fast way lets it fall."""
    exponents = np.abs(np.random.Generator(np.random.PCG64(1)).normal(size=300)) * 3

    def fall() -> np.ndarray:
        noise = SeededNoise(3, "coins")
        return bernoulli_exp(noise, exponents, lambda row: Fraction(float(exponents[row])))

    fast = fall()
    monkeypatch.setattr(discrete, "_ERROR", 1.0)
    assert np.array_equal(fall(), fast)
    assert 50 < fast.sum() < 250


@pytest.mark.parametrize("variance", [0.7, 30.25, 1e6])
def test_draws_made_with_exact_fractions_alone_are_the_draws_made_with_floats(variance, monkeypatch):
    """The slow way has the formulas in rational numbers: over the same stream it keeps the same candidates."""
    fast = discrete_gaussian(SeededNoise(5, "draws"), variance, 150)
    monkeypatch.setattr(discrete, "_ERROR", 1.0)
    assert np.array_equal(discrete_gaussian(SeededNoise(5, "draws"), variance, 150), fast)


class Fixed:
    """A source of given uniforms."""

    def __init__(self, *values: float) -> None:
        self.values = list(values)

    def uniform(self, n: int) -> np.ndarray:
        return np.array([self.values.pop(0) for _ in range(n)])


def test_the_bits_that_follow_decide_a_coin_on_the_border():
    """exp(-1) = 0.0101111000101101... in binary: begin with its own first 53 bits, then go below or above."""
    word = math.floor(Fraction(math.exp(-1)) * 2**53)
    begins = [w for w in (word - 1, word, word + 1) if not math.isclose(w, 0)]
    falls = []
    for first in begins:
        for then in (0.0, 1 - 2.0**-53):
            falls.append(bool(bernoulli_exp(Fixed(first / 2**53, then), np.ones(1), lambda row: Fraction(1))[0]))
    assert falls == sorted(falls, reverse=True)  # the larger the uniform, the less it is below
    assert falls[0]
    assert not falls[-1]


def test_a_coin_of_vanishing_probability_is_still_decided():
    gone = np.array([1e4])
    assert not bernoulli_exp(Fixed(0.0, *[0.5] * 1), gone, lambda row: Fraction(10_000))[0]
    assert bernoulli_exp(Fixed(0.0, 0.0), np.zeros(1), lambda row: Fraction(0))[0]


def test_no_draws_and_impossible_variances():
    assert discrete_gaussian(SecureNoise(), 1.0, 0).shape == (0,)
    for variance in (0.0, -1.0, math.nan, math.inf, 2.0**61):
        with pytest.raises(PrivacyError, match="variance"):
            discrete_gaussian(SecureNoise(), variance, 1)


@pytest.mark.slow
def test_fifty_thousand_secure_draws_take_a_fraction_of_a_second():
    for std in (1.0, 30.0, 1e3, 1e5):
        started = time.process_time()
        discrete_gaussian(SecureNoise(), std**2, 50_000)
        assert time.process_time() - started < 0.5


# what a sum costs


def renyi(law: np.ndarray, shift: int, alpha: float) -> float:
    """D_alpha(X || X + shift) and its mirror are equal for a symmetric law; log-sum-exp over the common support."""
    logs = np.log(law)
    p, q = logs[shift:], logs[: len(logs) - shift]
    terms = alpha * p + (1 - alpha) * q
    return float(np.logaddexp.reduce(terms)) / (alpha - 1)


@pytest.mark.parametrize("variance", [0.5, 0.75, 1.0, 2.0])
@pytest.mark.parametrize("shares", [2, 3, 5])
def test_half_of_tau_bounds_how_far_a_sum_is_from_one_discrete_gaussian(variance, shares):
    reach = math.ceil(14 * math.sqrt(variance))
    summed = summed_law(variance, shares, reach)
    one = gaussian_law(shares * variance, len(summed) // 2)
    middle = slice(len(summed) // 2 - reach, len(summed) // 2 + reach + 1)  # beyond it, terms that were cut off lack
    assert np.abs(np.log(summed[middle] / one[middle])).max() <= tau(share_variance=variance, shares=shares) / 2 + 1e-13


def test_a_sum_of_discrete_gaussians_is_not_one_which_is_why_tau_counts():
    summed = summed_law(0.5, 2, 12)
    one = gaussian_law(1.0, 24)
    assert np.abs(np.log(summed[20:29] / one[20:29])).max() > 0.01


@pytest.mark.parametrize("variance", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("shares", [1, 2, 4])
@pytest.mark.parametrize("shift", [1, 2, 5])
def test_the_bound_is_never_below_the_exact_renyi_divergence_in_one_dimension(variance, shares, shift):
    law = summed_law(variance, shares, math.ceil(34 * math.sqrt(variance / shares)))
    bound = concentrated_epsilon(norm_squared=shift**2, share_variance=variance, shares=shares, dimension=1)
    for alpha in (1.01, 1.5, 2.0, 4.0, 8.0):
        if alpha * shift > 12 * math.sqrt(shares * variance):
            continue  # the divergence is made where the law was cut off
        exact = renyi(law, shift, alpha)
        assert exact <= alpha / 2 * bound**2 + 1e-9, alpha
        if variance >= 4:
            assert exact >= 0.99 * alpha / 2 * bound**2  # where tau vanishes the bound is tight


@pytest.mark.parametrize("variance", [0.5, 1.0])
def test_the_bound_is_never_below_the_exact_renyi_divergence_in_two_dimensions(variance):
    """The coordinates are independent: the law is an outer product, and its divergence is computed as such."""
    logs = np.log(summed_law(variance, 2, math.ceil(24 * math.sqrt(variance))))
    plane = np.add.outer(logs, logs)
    for shift in ((1, 0), (1, 1), (2, 1)):
        bound = concentrated_epsilon(
            norm_squared=shift[0] ** 2 + shift[1] ** 2, share_variance=variance, shares=2, dimension=2
        )
        size = len(logs)
        p = plane[shift[0] :, shift[1] :]
        q = plane[: size - shift[0], : size - shift[1]]
        for alpha in (1.5, 2.0, 3.0):
            exact = float(np.logaddexp.reduce((alpha * p + (1 - alpha) * q).ravel())) / (alpha - 1)
            assert exact <= alpha / 2 * bound**2 + 1e-9


def test_the_bound_is_the_papers_formula_by_hand():
    """Two shares of variance 1: tau = 10 exp(-pi^2); shift 2 in one dimension."""
    error = 10 * math.exp(-(math.pi**2))
    assert tau(share_variance=1.0, shares=2) == pytest.approx(error, rel=1e-12)
    assert tau(share_variance=1.0, shares=1) == 0
    by_hand = math.sqrt(4 / 2 + 2 * 2 / math.sqrt(2) * error + error**2)
    assert concentrated_epsilon(norm_squared=4, share_variance=1.0, shares=2, dimension=1) == pytest.approx(by_hand)


def test_a_cost_that_is_not_proven_is_refused():
    for variance, shares in ((0.4, 2), (1.0, 0)):
        with pytest.raises(PrivacyError, match="Expected share_variance"):
            concentrated_epsilon(norm_squared=1, share_variance=variance, shares=shares, dimension=1)
