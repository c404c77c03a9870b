"""At stake: the same words mean the same whatever the script, width, case or number they are written in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmrank.encoders.text._stop_words import STOP_WORDS
from mmrank.encoders.text._tokens import features, hashed_ids, singular, tokens
from mmrank.errors import ConfigError


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("Running Shoes", "running shoe"),
        ("Ｒｕｎｎｉｎｇ　Ｓｈｏｅｓ", "running shoes"),
        ("T-Shirts", "tshirt"),
        ("Women’s dresses", "woman dress"),
        ("CAFÉ", "café"),
    ],
)
def test_spellings_of_one_thing_meet(left: str, right: str) -> None:
    assert tokens(left) == tokens(right)


def test_chinese_is_cut_into_words_and_the_words_inside_them() -> None:
    assert tokens("跑步运动鞋", bigrams=False) == ["跑步", "运动", "运动鞋"]
    assert "动鞋" in tokens("跑步运动鞋")


def test_a_compound_the_dictionary_lacks_still_meets_its_parts() -> None:
    assert set(features("碳板跑鞋")) & set(features("轻便跑鞋"))


def test_mixed_scripts_and_digits_stay() -> None:
    found = tokens("iPhone15 手机壳 2.5mm 42码")
    assert {"iphone", "15", "iphone15", "手机", "2.5mm", "42"} <= set(found)


def test_stop_words_of_both_languages_go() -> None:
    assert tokens("the shoes of a runner") == ["shoe", "runner"]
    assert tokens("我的运动鞋", bigrams=False) == ["运动", "运动鞋"]
    assert tokens("the and 的 了") == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [("shoes", "shoe"), ("boxes", "box"), ("ties", "tie"), ("babies", "baby"), ("glass", "glass"), ("gps", "gps")],
)
def test_english_plurals_fold(word: str, expected: str) -> None:
    assert singular(word) == expected


@given(st.text(max_size=60))
def test_any_text_gives_tokens_that_are_not_blank_and_no_stop_words(text: str) -> None:
    found = tokens(text)
    assert all(token.strip() == token and token for token in found)
    assert not set(found) & STOP_WORDS
    assert tokens(text) == found
    assert all(feature[:2] in {"w:", "p:", "c:"} for feature in features(text))


def test_hashed_ids_keep_zero_for_padding_and_the_first_words() -> None:
    ids = hashed_ids(["red shoes", "", "a b c d e f g h i j"], buckets=10, length=4)
    assert ids.dtype == np.int32
    assert ids.shape == (3, 4)
    assert (ids[0, :2] > 0).all()
    assert (ids[0, 2:] == 0).all()
    assert not ids[1].any()
    assert (ids[2] > 0).all()
    assert ids.max() < 10


def test_hashed_ids_are_the_same_in_every_process() -> None:
    # CRC-32 of b"red" and of 鞋 in UTF-8; Python's own hash differs from process to process
    assert hashed_ids(["red 鞋"], buckets=1001, length=2).tolist() == [[1 + 0xFA615F8F % 1000, 1 + 0xCCDACF01 % 1000]]


@pytest.mark.parametrize(("buckets", "length"), [(1, 4), (10, 0)])
def test_a_table_too_small_is_refused(buckets: int, length: int) -> None:
    with pytest.raises(ConfigError, match=f"buckets={buckets} of at least 2 and length={length}"):
        hashed_ids(["a"], buckets=buckets, length=length)
