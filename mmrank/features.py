"""The catalogue as numbers: each item's text, picture, price and category, encoded once and cached by content.

Only the public catalogue is ever written to disk. A query is encoded in memory, by the same fitted encoder, and
forgotten with the process.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrank import components
from mmrank._row_cache import Encode, Load, Report, RowCache, kept_arrays, keys_of, write_array
from mmrank._style import style_rows, text_looks
from mmrank.catalog import Catalog
from mmrank.encoders import ImageEncoder, TextEncoder
from mmrank.encoders._linear import Reduced, Stateful
from mmrank.errors import ConfigError
from mmrank.settings import ModelSettings

log = logging.getLogger(__name__)

Progress = Callable[[str, int, int], None]
"""Called with ("text" or "image", items done, items in all)."""

PRICE_LIMIT = 3.0
"""Standardised log prices are clipped to this many standard deviations."""

_TEXT_BATCH = 512
_IMAGE_BATCH = 32
"""Two batches of photos are in memory at once: 6 MB each at 1,200 x 1,800 pixels."""
_QUERIES_KEPT = 65_536


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureTable:
    """N items; everywhere an item is its index in the catalogue.

    text: [N, *text_row], image: [N, *image_row]: float32 [N, feature_dim] of unit length from frozen encoders, token
    ids or pixels from trainable ones; zeros where absent; may be memory-mapped: do not write to them.
    has_text, has_image, has_price: bool [N]. price: float32 [N], log1p of the price, standardised over the public
    catalogue, in [-PRICE_LIMIT, PRICE_LIMIT], 0 where absent. category: int64 [N].
    style: float32 [N, 2 * style_dim], text then image: what tells an item from its category, each half of unit length;
    zeros where a side is absent or its encoder is trained.
    looks: float32 [feature_dim, 2 * style_dim], from a text row to the style that the catalogue shows with such words;
    about of length 1 in each half; one row of zeros where the ranker has no such feature.
    missing: how many items lack a text, an image, a price. digest: changes with anything that changes a number here.
    """

    text: Tensor
    image: Tensor
    style: Tensor
    looks: Tensor
    has_text: Tensor
    has_image: Tensor
    has_price: Tensor
    price: Tensor
    category: Tensor
    text_encoder: TextEncoder = field(repr=False)
    digest: str
    missing: Mapping[str, int] = field(default_factory=dict)
    _queries: _QueryRows = field(default_factory=lambda: _QueryRows(_QUERIES_KEPT), repr=False)

    def __len__(self) -> int:
        return len(self.category)

    def query_rows(self, queries: Sequence[str]) -> Tensor:
        """[len(queries), *text_row], by the encoder of the titles; a blank query gives zeros.

        Queries are private: their rows are kept in memory alone (the last 65,536), never on disk.
        """
        if not len(queries):
            return torch.zeros((0, *self.text.shape[1:]), dtype=self.text.dtype)
        return torch.from_numpy(self._queries.rows(self.text_encoder, queries)).to(self.text.dtype)


class _QueryRows:
    """Rows of the last queries, in memory."""

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._rows: OrderedDict[str, np.ndarray] = OrderedDict()
        self._lock = threading.Lock()

    def rows(self, encoder: TextEncoder, queries: Sequence[str]) -> np.ndarray:
        with self._lock:
            new = list(dict.fromkeys(query for query in queries if query not in self._rows))
            if new:
                # one by one: an encoder that pads to the longest would let a query's row tell of its company
                self._rows.update((query, encoder.rows([query if query.strip() else ""])[0]) for query in new)
            found = np.stack([self._rows[query] for query in queries])
            for query in dict.fromkeys(queries):
                self._rows.move_to_end(query)
            while len(self._rows) > self._kept:
                self._rows.popitem(last=False)
            return found

    def __reduce__(self) -> tuple[Any, ...]:
        return (_QueryRows, (self._kept,))  # a copy in another process starts empty: queries stay where they were


def text_encoder(model: ModelSettings) -> TextEncoder:
    """The text encoder that the settings name, not fitted; its row_shape holds already.

    Raises ConfigError for unknown settings, and for a trainable encoder while towers are frozen.
    """
    return _encoder("text", model.text, model)


def image_encoder(model: ModelSettings) -> ImageEncoder:
    """The image encoder that the settings name; as `text_encoder`."""
    return _encoder("image", model.image, model)


def _encoder(kind: str, spec: Mapping[str, Any], model: ModelSettings) -> Any:
    extra: dict[str, Any] = {} if "feature_dim" in spec else {"feature_dim": model.feature_dim}
    encoder = components.build(f"mmrank.encoders.{kind}", spec, **extra)
    if encoder.trainable:
        if model.towers == "frozen":
            raise ConfigError(
                f"Expected a frozen encoder with model.towers=frozen, not model.{kind}={spec['name']}, which must be "
                "trained to be of use; set model.towers=end_to_end, or choose another encoder."
            )
        return encoder
    return encoder if encoder.row_shape == (model.feature_dim,) else Reduced(encoder, model.feature_dim)


def build_features(
    catalog: Catalog,
    model: ModelSettings,
    *,
    cache_dir: Path | str,
    device: str | torch.device = "cpu",
    progress: Progress | None = None,
) -> FeatureTable:
    """Encode the catalogue, or take what `cache_dir` (created where absent) holds of it.

    A killed call goes on where it was; a changed title or picture is encoded alone; processes may share the folder.
    A picture that can't be read counts as missing, with one warning that says how many.
    Raises ConfigError for settings that don't fit together or a package that is missing.
    """
    folder = Path(cache_dir).expanduser() / "features"
    titles = [title if title.strip() else None for title in catalog.titles]
    texts, images = text_encoder(model), image_encoder(model)
    for encoder in (texts, images):
        _place(encoder, device)
    category = np.array(catalog.categories, np.int64)
    if model.use_text:
        text, has_text, text_key, text_style = _text_rows(folder, texts, titles, category, model.style_dim, progress)
    else:
        text, has_text, text_key, text_style = _no_rows(texts, len(catalog), model.style_dim)
        texts.fit([])
    if model.use_image:
        image, has_image, image_key, image_style = _image_rows(
            folder, images, catalog, category, model.style_dim, progress
        )
    else:
        image, has_image, image_key, image_style = _no_rows(images, len(catalog), model.style_dim)
    price, has_price = standardised_log_prices(catalog.prices)
    flags = {"text": has_text, "image": has_image, "price": has_price}
    style = torch.cat([text_style, image_style], dim=1)
    parts = f"{catalog.digest}|{text_key}|{image_key}|style-{model.style_dim}|looks-{model.with_looks}"
    digest = hashlib.sha256(parts.encode()).hexdigest()
    looks = torch.zeros(1, style.shape[1])
    if model.with_looks:
        present = np.stack([has_text, has_text & has_image], axis=1)
        path = folder / f"looks-{digest[:16]}.npy"
        looks = torch.from_numpy(_kept_rows(path, lambda: text_looks(text.numpy(), style.numpy(), present)))
    return FeatureTable(
        text=text,
        image=image,
        style=style,
        looks=looks,
        has_text=torch.from_numpy(has_text),
        has_image=torch.from_numpy(has_image),
        has_price=torch.from_numpy(has_price),
        price=torch.from_numpy(price),
        category=torch.from_numpy(category),
        text_encoder=texts,
        digest=digest,
        missing={name: int((~flag).sum()) for name, flag in flags.items()},
    )


def standardised_log_prices(prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [N], bool [N]): z = (log1p(p) - mean) / std over the catalogue's known prices, clipped; 0 where absent.

    A price that is NaN, infinite or negative is absent.
    """
    known = np.isfinite(prices) & (np.nan_to_num(prices, nan=-1.0) >= 0)
    logs = np.log1p(np.where(known, prices, 0.0).astype(np.float64))
    mean, std = (logs[known].mean(), logs[known].std()) if known.any() else (0.0, 0.0)
    scaled = (logs - mean) / max(std, 1e-9)  # one price for all: every z is 0
    return np.where(known, scaled.clip(-PRICE_LIMIT, PRICE_LIMIT), 0.0).astype(np.float32), known


def _text_rows(
    folder: Path,
    encoder: Any,
    titles: Sequence[str | None],
    category: np.ndarray,
    style_dim: int,
    progress: Progress | None,
) -> _Rows:
    raw = encoder.encoder if isinstance(encoder, Reduced) else encoder
    keys, key = keys_of(titles), raw.version
    written = [title or "" for title in titles]
    if isinstance(raw, Stateful):
        # what was learned from these titles belongs to them: so do the rows
        key = f"{key}|{hashlib.sha256(keys.tobytes()).hexdigest()}"
        path = _folder(folder, "text", raw, key) / "state.npz"
        raw.restore(kept_arrays(path, lambda: raw.fit(written).state()))
    else:
        raw.fit(written)

    def load(positions: Sequence[int]) -> list[str]:
        return [written[position] for position in positions]

    def encode(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        return raw.rows(texts), np.ones(len(texts), bool)

    at = _folder(folder, "text", raw, key)
    cache = _Cached(at, encoder, keys, category, style_dim)
    return cache.rows(load, encode, _TEXT_BATCH, _named(progress, "text"))


def _image_rows(
    folder: Path, encoder: Any, catalog: Catalog, category: np.ndarray, style_dim: int, progress: Progress | None
) -> _Rows:
    raw = encoder.encoder if isinstance(encoder, Reduced) else encoder
    digests = [catalog.images.digest(index) for index in range(len(catalog))]
    raw.fit([])

    def load(positions: Sequence[int]) -> list[np.ndarray | None]:
        return [catalog.images(position) for position in positions]

    def encode(pictures: Sequence[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
        return raw.rows(pictures), np.array([picture is not None for picture in pictures], bool)

    at = _folder(folder, "image", raw, raw.version)
    cache = _Cached(at, encoder, keys_of(digests), category, style_dim)
    rows = cache.rows(load, encode, _IMAGE_BATCH, _named(progress, "image"))
    unreadable = sum(digest is not None for digest in digests) - int(rows[1].sum())
    if unreadable:
        log.warning(
            "%d of %d pictures of %s can't be read; they count as missing.", unreadable, len(catalog), catalog.name
        )
    return rows


_Rows = tuple[Tensor, np.ndarray, str, Tensor]
"""Rows by item, which items have one, what the rows depend on, and the style rows."""


@dataclass(frozen=True)
class _Cached:
    """One side of the catalogue in its folder: keys [N] and categories [N] of the items."""

    folder: Path
    encoder: Any
    keys: np.ndarray
    category: np.ndarray
    style_dim: int

    def rows(self, load: Load, encode: Encode, batch: int, report: Report | None) -> _Rows:
        encoder = self.encoder
        raw = encoder.encoder if isinstance(encoder, Reduced) else encoder
        cache = RowCache(self.folder, row_shape=raw.row_shape, row_dtype=raw.row_dtype)
        rows, present = cache.table(self.keys, load, encode, batch=batch, progress=report)
        key = f"{encoder.version}|{hashlib.sha256(self.keys.tobytes() + present.tobytes()).hexdigest()}"
        if encoder.trainable:
            style = torch.zeros(1, self.style_dim).expand(len(rows), -1)
        else:
            style = torch.from_numpy(self._style(rows, present, key))
        if isinstance(encoder, Reduced):
            rows = self._reduced(encoder, rows, key)
        return torch.from_numpy(rows), present, key, style

    def _reduced(self, encoder: Reduced, raw: np.ndarray, key: str) -> np.ndarray:
        """The reduction fitted on these rows, and they reduced by it, both kept: each process would get the same."""
        stem = "reduced-" + hashlib.sha256(key.encode()).hexdigest()[:16]
        encoder.restore(kept_arrays(self.folder / f"{stem}.npz", lambda: encoder.fit_rows(raw).state()))
        return _kept_rows(self.folder / f"{stem}.npy", lambda: encoder.reduce(raw))

    def _style(self, raw: np.ndarray, present: np.ndarray, key: str) -> np.ndarray:
        groups = hashlib.sha256(self.category.tobytes()).hexdigest()
        stem = "style-" + hashlib.sha256(f"{key}|{groups}|{self.style_dim}".encode()).hexdigest()[:16]
        return _kept_rows(self.folder / f"{stem}.npy", lambda: style_rows(raw, present, self.category, self.style_dim))


def _kept_rows(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    if not path.exists():
        write_array(path, make())
    return np.load(path, mmap_mode="c", allow_pickle=False)


def _no_rows(encoder: Any, items: int, style_dim: int) -> _Rows:
    """Zeros that take no memory, for a side that is switched off."""
    zero = torch.from_numpy(np.zeros((1, *encoder.row_shape), encoder.row_dtype))
    style = torch.zeros(1, style_dim).expand(items, -1)
    return zero.expand(items, *encoder.row_shape), np.zeros(items, bool), "off", style


def _folder(folder: Path, kind: str, encoder: Any, key: str) -> Path:
    """One for each encoder version; `about.json` tells a person what it holds."""
    name = re.split(r"[^a-z0-9]", encoder.version)[0]
    digest = hashlib.sha256(f"{key}|{encoder.row_shape}|{encoder.row_dtype}".encode()).hexdigest()
    at = folder / f"{kind}-{name}-{digest[:16]}"
    about = at / "about.json"
    if not about.exists():
        at.mkdir(parents=True, exist_ok=True)
        about.write_text(json.dumps({"encoder": encoder.version, "row": encoder.row_shape, "dtype": encoder.row_dtype}))
    return at


def _named(progress: Progress | None, name: str) -> Report | None:
    return None if progress is None else lambda done, total: progress(name, done, total)


def _place(encoder: Any, device: str | torch.device) -> None:
    raw = encoder.encoder if isinstance(encoder, Reduced) else encoder
    if hasattr(raw, "device"):
        raw.device = device
