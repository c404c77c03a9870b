"""At stake: what comes over a wire is a table of known clients, each once, or it is nothing."""

import numpy as np
import pytest

from mmrank.errors import SecureSumError
from mmrank.secure_sum.keys import Identity
from mmrank.secure_sum.messages import ADVERT_BYTES, Advert, pack, unpack
from tests.secure_sum.rounds import facts


def test_a_table_goes_over_the_wire_and_back():
    table = {"c03": b"xyz", "c00": b"abc"}
    arrays = pack(table, facts())
    assert arrays["clients"].tolist() == [0, 3]
    assert unpack(arrays, facts(), 3) == table
    assert unpack(pack({}, facts()), facts(), 3) == {}


def changed(**arrays) -> dict[str, np.ndarray]:
    return {**pack({"c00": b"abc", "c03": b"xyz"}, facts()), **arrays}


@pytest.mark.parametrize(
    "arrays",
    [
        changed(clients=np.array([0, 0], np.int32)),
        changed(clients=np.array([0, 5], np.int32)),
        changed(clients=np.array([-1, 3], np.int32)),
        changed(clients=np.array([0, 3], np.int64)),
        changed(clients=np.array([[0, 3]], np.int32)),
        changed(clients=np.array([0], np.int32)),
        changed(rows=np.zeros((2, 4), np.uint8)),
        changed(rows=np.zeros(6, np.uint8)),
        changed(rows=np.zeros((2, 3), np.float32)),
        changed(more=np.zeros(1)),
        {"clients": np.array([0], np.int32)},
    ],
)
def test_a_table_with_anything_wrong_is_refused(arrays):
    with pytest.raises(SecureSumError, match="Expected"):
        unpack(arrays, facts(), 3)


def test_an_advert_has_one_length():
    advert = Advert(cipher=b"c" * 32, mask=b"m" * 32, signature=Identity().sign(b""))
    assert Advert.from_bytes(advert.to_bytes()) == advert
    for wrong in (advert.to_bytes()[:-1], advert.to_bytes() + b"x", b""):
        with pytest.raises(SecureSumError, match=f"{ADVERT_BYTES} bytes"):
            Advert.from_bytes(wrong)


def test_a_statement_is_bound_to_every_fact_of_its_round():
    base = facts()
    others = [
        facts(run="other"),
        facts(round_number=2),
        facts(size=4),
        facts(threshold=4),
        facts(size=5, threshold=4, colluders=1),
        facts(length=9),
        facts(bits=15),
        facts(agreed="another configuration, with less noise"),
        facts(cohort=("c00", "c01", "c02", "c03", "d")),
    ]
    assert len({round_.context for round_ in [base, *others]}) == len(others) + 1
    assert base.statement("a", b"bc") != base.statement("a", b"b", b"c") != base.statement("ab", b"c")
    assert facts(cohort=tuple(reversed(base.cohort))).context == base.context


@pytest.mark.parametrize(
    "wrong",
    [
        {"cohort": ("a", "b", "b", "c"), "threshold": 3},
        {"size": 1, "threshold": 1},
        {"threshold": 6},
        {"threshold": 0},
        {"threshold": 1, "size": 2},
        {"threshold": 3, "size": 6},
        {"threshold": 3, "colluders": 3},
        {"threshold": 3, "colluders": 1},
        {"colluders": -1},
        {"round_number": 0},
        {"length": 0},
        {"bits": 33},
        {"bits": 0},
    ],
)
def test_a_round_that_would_not_hold_is_refused(wrong):
    with pytest.raises(SecureSumError, match="Expected"):
        facts(**wrong)
