"""At stake: the catalogue is encoded once and the same everywhere, and no query ever reaches the disk."""

from __future__ import annotations

import hashlib
import logging
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmrank.catalog import Catalog
from mmrank.errors import ConfigError, UnknownComponentError
from mmrank.features import PRICE_LIMIT, build_features, image_encoder, standardised_log_prices, text_encoder
from mmrank.settings import ModelSettings

N = 24
FROZEN = ModelSettings(text={"name": "tfidf"}, image={"name": "histogram", "size": 16}, feature_dim=8)
TRAINED = ModelSettings(
    towers="end_to_end", text={"name": "bilstm", "length": 5}, image={"name": "cnn", "size": 16}, feature_dim=8
)


class Pictures:
    """Random pictures; item 1 has none, item 2's can't be read. Counts what was decoded."""

    def __init__(self) -> None:
        self.pixels = list(np.random.default_rng(0).integers(0, 256, (N, 20, 16, 3), dtype=np.uint8))
        self.decoded: list[int] = []

    def __call__(self, index: int) -> np.ndarray | None:
        self.decoded.append(index)
        return None if index in (1, 2) else self.pixels[index]

    def digest(self, index: int) -> str | None:
        return None if index == 1 else hashlib.sha256(self.pixels[index].tobytes()).hexdigest()

    def path(self, index: int) -> str | None:
        return None


def shop(**changes: Any) -> Catalog:
    kinds = ["running shoes 跑步鞋", "summer dress 连衣裙", "leather bag 皮包", "phone case 手机壳"]
    prices = np.linspace(1, 500, N).astype(np.float32)
    prices[3] = np.nan
    catalog = Catalog(
        name="shop",
        item_ids=[f"item-{index}" for index in range(N)],
        titles=["" if index == 5 else f"{kinds[index % 4]} no {index}" for index in range(N)],
        prices=prices,
        merchants=np.zeros(N, np.int64),
        merchant_names=["one"],
        categories=np.arange(N, dtype=np.int64) % 4,
        category_names=["shoes", "dresses", "bags", "cases"],
        images=Pictures(),
    )
    return replace(catalog, **changes)


def test_frozen_features_have_the_shapes_that_the_settings_say(tmp_path: Path) -> None:
    table = build_features(shop(), FROZEN, cache_dir=tmp_path)
    for rows in (table.text, table.image):
        assert rows.shape == (N, FROZEN.feature_dim)
        assert rows.dtype == torch.float32
    assert text_encoder(FROZEN).row_shape == image_encoder(FROZEN).row_shape == (8,)
    assert table.category.tolist() == [index % 4 for index in range(N)]
    assert len(table) == N
    present = table.has_image
    torch.testing.assert_close(table.image[present].norm(dim=1), torch.ones(int(present.sum())))


def test_what_is_absent_is_zero_marked_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        table = build_features(shop(), FROZEN, cache_dir=tmp_path)
    assert (~table.has_text).nonzero().flatten().tolist() == [5]
    assert (~table.has_image).nonzero().flatten().tolist() == [1, 2]
    assert (~table.has_price).nonzero().flatten().tolist() == [3]
    assert table.missing == {"text": 1, "image": 2, "price": 1}
    assert not table.text[5].any()
    assert not table.image[1:3].any()
    assert table.price[3] == 0
    assert [record.getMessage() for record in caplog.records] == [
        "1 of 24 pictures of shop can't be read; they count as missing."
    ]


def test_trainable_encoders_keep_ids_and_pixels(tmp_path: Path) -> None:
    table = build_features(shop(), TRAINED, cache_dir=tmp_path)
    assert (table.text.shape, table.text.dtype) == ((N, 5), torch.int32)
    assert (table.image.shape, table.image.dtype) == ((N, 3, 16, 16), torch.uint8)
    assert table.query_rows(["running shoes"]).dtype == torch.int32
    assert torch.equal(table.query_rows(["running shoes 跑步鞋 no 0"])[0], table.text[0])


@pytest.mark.parametrize("model", [FROZEN, TRAINED])
def test_a_warm_cache_decodes_no_picture_and_gives_the_same_numbers(tmp_path: Path, model: ModelSettings) -> None:
    cold = build_features(shop(), model, cache_dir=tmp_path)
    catalog = shop()
    warm = build_features(catalog, model, cache_dir=tmp_path)
    assert catalog.images.decoded == []  # type: ignore[attr-defined]
    assert torch.equal(cold.text, warm.text)
    assert torch.equal(cold.image, warm.image)
    assert cold.digest == warm.digest
    assert torch.equal(cold.query_rows(["running"]), warm.query_rows(["running"]))


def test_a_cache_elsewhere_holds_the_same_numbers(tmp_path: Path) -> None:
    left = build_features(shop(), FROZEN, cache_dir=tmp_path / "left")
    right = build_features(shop(), FROZEN, cache_dir=tmp_path / "right")
    assert torch.equal(left.text, right.text)
    assert torch.equal(left.image, right.image)
    assert left.digest == right.digest


def test_a_changed_picture_is_encoded_alone(tmp_path: Path) -> None:
    before = build_features(shop(), TRAINED, cache_dir=tmp_path)
    catalog = shop()
    catalog.images.pixels[7] = catalog.images.pixels[7] // 2  # type: ignore[attr-defined]
    after = build_features(catalog, TRAINED, cache_dir=tmp_path)
    assert catalog.images.decoded == [2, 7]  # type: ignore[attr-defined]  # 2 could not be read, and is tried again
    changed = (before.image != after.image).flatten(1).any(1)
    assert changed.nonzero().flatten().tolist() == [7]
    assert before.digest != after.digest


def test_looks_are_kept_and_change_the_digest(tmp_path: Path) -> None:
    first, again = (build_features(shop(), FROZEN, cache_dir=tmp_path) for _ in range(2))
    assert first.looks.any()
    assert torch.equal(first.looks, again.looks)
    assert len(list((tmp_path / "features").glob("looks-*.npy"))) == 1
    without = build_features(shop(), replace(FROZEN, use_looks=False), cache_dir=tmp_path)
    assert not without.looks.any()
    assert without.digest != first.digest


def test_a_changed_title_changes_the_digest(tmp_path: Path) -> None:
    titles = list(shop().titles)
    titles[0] = "a new title"
    left = build_features(shop(), FROZEN, cache_dir=tmp_path)
    assert left.digest != build_features(shop(titles=titles), FROZEN, cache_dir=tmp_path).digest


def test_sizes_and_encoders_do_not_share_rows(tmp_path: Path) -> None:
    build_features(shop(), FROZEN, cache_dir=tmp_path)
    other = replace(FROZEN, image={"name": "histogram", "size": 24}, feature_dim=4)
    table = build_features(shop(), other, cache_dir=tmp_path)
    assert table.image.shape == table.text.shape == (N, 4)
    assert torch.equal(table.image, build_features(shop(), other, cache_dir=tmp_path / "fresh").image)


def written_bytes(folder: Path) -> bytes:
    return b"".join(path.name.encode() + path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


@pytest.mark.parametrize("model", [FROZEN, TRAINED, replace(FROZEN, text={"name": "hashing"})])
def test_no_query_nor_a_hash_of_one_reaches_the_disk(tmp_path: Path, model: ModelSettings) -> None:
    table = build_features(shop(), model, cache_dir=tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    before = written_bytes(tmp_path)
    query = "haemorrhoid cream 痔疮膏"
    rows = table.query_rows([query, "running shoes"])
    assert rows.shape[0] == 2
    build_features(shop(), model, cache_dir=tmp_path)
    assert written_bytes(tmp_path) == before
    assert set(files) == set(tmp_path.rglob("*"))
    hashes = [hashlib.new(name, query.encode()).digest() for name in ("sha256", "sha1", "md5", "blake2b")]
    assert not [found for found in (query.encode(), b"haemorrhoid", *hashes) if found in written_bytes(tmp_path)]
    assert query.encode() not in pickle.dumps(table)  # nor does it go to another process with the features


def test_query_rows_are_the_encoders_and_blank_ones_are_zero(tmp_path: Path) -> None:
    table = build_features(shop(), FROZEN, cache_dir=tmp_path)
    rows = table.query_rows(["跑步鞋", "", "  ", "running shoes", "跑步鞋"])
    np.testing.assert_array_equal(rows[3].numpy(), table.text_encoder.rows(["running shoes"])[0])
    assert torch.equal(rows[0], rows[4])
    assert not rows[1:3].any()
    assert table.query_rows([]).shape == (0, 8)
    best = (table.text @ rows[0]).topk(6).indices
    assert {int(index) % 4 for index in best} == {0}  # the shoes


def test_memory_of_queries_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmrank.features._QUERIES_KEPT", 3)
    table = build_features(shop(), FROZEN, cache_dir=tmp_path)
    many = [f"shoes {index}" for index in range(10)]
    expected = table.text_encoder.rows(many)
    np.testing.assert_array_equal(table.query_rows(many).numpy(), expected)
    assert len(table._queries._rows) == 3
    np.testing.assert_array_equal(table.query_rows(many[::-1]).numpy(), expected[::-1])


def test_a_side_switched_off_is_not_encoded(tmp_path: Path) -> None:
    catalog = shop()
    table = build_features(catalog, replace(FROZEN, use_text=False, use_image=False), cache_dir=tmp_path)
    assert catalog.images.decoded == []  # type: ignore[attr-defined]
    assert table.text.shape == table.image.shape == (N, 8)
    assert not table.text.any()
    assert not table.has_text.any()
    assert not table.has_image.any()
    assert not table.query_rows(["running shoes"]).any()
    assert not list(tmp_path.rglob("*.npy"))


def test_progress_names_each_side_and_ends_at_the_total(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    build_features(shop(), FROZEN, cache_dir=tmp_path, progress=lambda *step: seen.append(step))
    for name in ("text", "image"):
        steps = [(done, total) for side, done, total in seen if side == name]
        assert steps == sorted(steps)
        assert steps[-1] == (N, N)


def test_prices_are_standardised_logs_over_the_known_ones() -> None:
    prices = np.array([1.0, 10.0, 100.0, np.nan, -5.0, np.inf], np.float32)
    scaled, known = standardised_log_prices(prices)
    logs = np.log1p(prices[:3])
    np.testing.assert_allclose(scaled[:3], (logs - logs.mean()) / logs.std(), rtol=1e-5)
    assert known.tolist() == [True, True, True, False, False, False]
    assert scaled[3:].tolist() == [0, 0, 0]
    assert scaled.dtype == np.float32


def test_one_price_for_all_no_price_at_all_and_an_extreme_one() -> None:
    assert standardised_log_prices(np.full(4, 9.9, np.float32))[0].tolist() == [0, 0, 0, 0]
    assert standardised_log_prices(np.full(3, np.nan, np.float32))[0].tolist() == [0, 0, 0]
    extreme = np.ones(1000, np.float32)
    extreme[0] = 1e9
    assert standardised_log_prices(extreme)[0].max() == PRICE_LIMIT


def test_a_trainable_encoder_needs_end_to_end_towers() -> None:
    with pytest.raises(ConfigError, match=r"model.text=bilstm.*set model.towers=end_to_end"):
        text_encoder(ModelSettings(text={"name": "bilstm"}))
    with pytest.raises(ConfigError, match=r"model.image=cnn.*set model.towers=end_to_end"):
        image_encoder(ModelSettings(image={"name": "cnn"}))


def test_an_unknown_encoder_is_told_with_the_nearest_one() -> None:
    with pytest.raises(UnknownComponentError, match="Did you mean 'tfidf'"):
        text_encoder(ModelSettings(text={"name": "tfidff"}))


def test_an_empty_catalogue_has_features_of_no_item(tmp_path: Path) -> None:
    nothing = np.zeros(0, np.int64)
    empty = shop(item_ids=[], titles=[], prices=np.zeros(0, np.float32), merchants=nothing, categories=nothing)
    table = build_features(empty, FROZEN, cache_dir=tmp_path)
    assert table.text.shape == table.image.shape == (0, 8)
    assert not table.query_rows(["shoes"]).any()
