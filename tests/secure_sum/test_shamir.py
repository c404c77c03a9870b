"""At stake: shares of which one too few says nothing, and enough give the secret bit for bit."""

import itertools
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmrank.errors import SecureSumError
from mmrank.secure_sum.shamir import PRIME, SHARE_BYTES, combine, element, split, weights_at_zero

EXTREMES = [bytes(32), b"\xff" * 32, b"\x00" * 31 + b"\x01"]


def is_prime(n: int) -> bool:
    """Miller-Rabin with the first 40 primes: wrong with probability below 4^-40 for a number not made to deceive it."""
    odd, twos = n - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in [p for p in range(2, 174) if all(p % q for q in range(2, p))]:
        x = pow(base, odd, n)
        if x not in (1, n - 1) and not any((x := x * x % n) == n - 1 for _ in range(twos - 1)):
            return False
    return True


def test_the_field_is_the_smallest_that_holds_every_secret():
    assert is_prime(PRIME)
    assert not any(is_prime(n) for n in range(2**256 + 1, PRIME, 2))


@given(secret=st.one_of(st.sampled_from(EXTREMES), st.binary(min_size=32, max_size=32)), data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_threshold_of_shares_gives_the_secret(secret, data):
    count = data.draw(st.integers(1, 12))
    threshold = data.draw(st.integers(1, count))
    points = data.draw(st.lists(st.integers(1, 10_000), min_size=count, max_size=count, unique=True))
    shares = dict(zip(points, split(secret, points=points, threshold=threshold), strict=True))
    chosen = data.draw(st.permutations(points))[:threshold]
    assert combine({point: shares[point] for point in chosen}) == secret


def test_one_share_too_few_fits_every_secret_equally_well():
    """For each candidate there is one polynomial through the shares: the shares' law is the same under all."""
    shares = dict(zip(range(1, 5), split(os.urandom(32), points=range(1, 5), threshold=4), strict=True))
    seen = {point: shares[point] for point in (1, 2, 3)}
    points = [0, 1, 2, 3]
    for candidate in [*EXTREMES, os.urandom(32)]:
        values = [int.from_bytes(candidate, "big"), *(element(share) for share in seen.values())]
        fourth = 0
        for i, at in enumerate(points):
            weight = 1
            for other in points:
                if other != at:
                    weight = weight * (4 - other) * pow(at - other, -1, PRIME) % PRIME
            fourth = (fourth + weight * values[i]) % PRIME
        assert combine({**seen, 4: fourth.to_bytes(SHARE_BYTES, "big")}) == candidate


def test_shares_below_the_threshold_are_uniform():
    """The first byte below the top bit, over many splits of one secret; chi-square at a false alarm of 1e-6."""
    counts = [0] * 16
    for _ in range(4000):
        share = split(bytes(32), points=[1, 2], threshold=2)[0]
        counts[element(share) >> 252 & 15] += 1
    statistic = sum((count - 250) ** 2 / 250 for count in counts)
    assert statistic < 57.0  # chi-square with 15 degrees of freedom at 1 - 1e-6 is 56.5


def test_the_weights_are_lagranges():
    assert weights_at_zero([1, 2, 3]) == [3, PRIME - 3, 1]


def test_a_share_of_another_secret_gives_neither():
    one, two = (split(os.urandom(32), points=[1, 2, 3], threshold=2) for _ in range(2))
    assert combine({1: one[0], 2: two[1]}) not in (combine({1: one[0], 2: one[1]}), combine({1: two[0], 2: two[1]}))


@pytest.mark.parametrize(
    ("secret", "points", "threshold"),
    [
        (bytes(31), [1, 2], 2),
        (bytes(32), [1, 1], 2),
        (bytes(32), [0, 1], 2),
        (bytes(32), [1, 2], 3),
        (bytes(32), [1], 0),
    ],
)
def test_an_impossible_split_is_refused(secret, points, threshold):
    with pytest.raises(SecureSumError, match="Expected"):
        split(secret, points=points, threshold=threshold)


@pytest.mark.parametrize("share", [bytes(32), bytes(34), PRIME.to_bytes(33, "big"), b"\xff" * 33])
def test_what_is_no_field_element_is_no_share(share):
    with pytest.raises(SecureSumError, match="share of 33 bytes"):
        element(share)


def test_all_subsets_of_a_small_split_agree():
    shares = dict(zip([3, 5, 7, 11], split(b"\x07" * 32, points=[3, 5, 7, 11], threshold=3), strict=True))
    for chosen in itertools.combinations(shares, 3):
        assert combine({point: shares[point] for point in chosen}) == b"\x07" * 32
