"""The catalogue as numbers: each item's text, picture, price and category, encoded once and cached by content.

Only the public catalogue is ever written to disk. A query is encoded in memory, by the same fitted encoder, and
forgotten with the process.
"""

from __future__ import annotations

import hashlib
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
from mmrank._sides import Side, Sides, Work, kept_rows
from mmrank._style import text_looks
from mmrank._workers import count_workers
from mmrank.catalog import Catalog
from mmrank.encoders import ImageEncoder, TextEncoder
from mmrank.encoders._linear import Reduced, Stateful
from mmrank.errors import ConfigError
from mmrank.settings import ModelSettings

Progress = Callable[[str, int, int], None]
"""Called with ("text" or "image", items done, items in all)."""

PRICE_LIMIT = 3.0
"""Standardised log prices are clipped to this many standard deviations."""

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
    local: by part in use (text, image, style, looks, price), whether an item's numbers depend on that item alone, so
    that parties who know nothing of each other's catalogues get the same for the same item. work: by side, what was
    encoded, at what rate, and what was there.
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
    local: Mapping[str, bool] = field(default_factory=dict)
    work: Mapping[str, Work] = field(default_factory=dict)
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
    workers: int | None = None,
    progress: Progress | None = None,
) -> FeatureTable:
    """Encode the catalogue, or take what `cache_dir` (created where absent) holds of it.

    A killed call goes on where it was, less a batch a worker; a changed title or picture is encoded alone; processes
    may share the folder. workers: threads that decode and encode, by default one for each core; the numbers are the
    same for any. A picture that can't be read, or is too large to, counts as missing; one warning says how many,
    which, and why.

    Nothing but the folder is written, and nothing is sent: a merchant may keep the catalogue private and compute here.
    But numbers that are not `local` are fitted to the catalogue at hand, and one ranker can't read them of two
    catalogues. Local text needs `model.text: hashing`, `minilm` or a trainable encoder, and local pictures any encoder;
    a frozen one of either only where model.feature_dim is the length of its rows (384 of minilm, 236 of histogram, 1280
    of efficientnet with stages: [] and colours: false; hashing takes any), since other rows are reduced by components
    of this catalogue. Style, looks and prices are of a catalogue always: set model.use_looks and model.use_price to
    false, and model.towers: end_to_end, which has no style.

    Raises ConfigError for settings that don't fit together or a package that is missing.
    """
    folder = Path(cache_dir).expanduser() / "features"
    texts, images = text_encoder(model), image_encoder(model)
    for encoder in (texts, images):
        _place(encoder, device)
    category = np.array(catalog.categories, np.int64)
    sides = Sides(
        folder=folder,
        category=category,
        style_dim=model.style_dim,
        workers=count_workers(workers),
        progress=progress,
    )
    text = sides.text(texts, catalog.titles) if model.use_text else sides.nothing(texts.fit([]), len(catalog))
    image = sides.image(images, catalog) if model.use_image else sides.nothing(images, len(catalog))
    price, has_price = standardised_log_prices(catalog.prices)
    flags = {"text": text.present, "image": image.present, "price": has_price}
    style = torch.cat([text.style, image.style], dim=1)
    parts = f"{catalog.digest}|{text.key}|{image.key}|style-{model.style_dim}|looks-{model.with_looks}"
    digest = hashlib.sha256(parts.encode()).hexdigest()
    looks = torch.zeros(1, style.shape[1])
    if model.with_looks:
        looks = _looks(folder / f"looks-{digest[:16]}.npy", text, image, style)
    return FeatureTable(
        text=text.rows,
        image=image.rows,
        style=style,
        looks=looks,
        has_text=torch.from_numpy(text.present),
        has_image=torch.from_numpy(image.present),
        has_price=torch.from_numpy(has_price),
        price=torch.from_numpy(price),
        category=torch.from_numpy(category),
        text_encoder=texts,
        digest=digest,
        missing={name: int((~flag).sum()) for name, flag in flags.items()},
        local=_local(model, texts, images),
        work={"text": text.work, "image": image.work},
    )


def _looks(path: Path, text: Side, image: Side, style: Tensor) -> Tensor:
    present = np.stack([text.present, text.present & image.present], axis=1)
    return torch.from_numpy(kept_rows(path, lambda: text_looks(text.rows.numpy(), style.numpy(), present)))


def _local(model: ModelSettings, texts: TextEncoder, images: ImageEncoder) -> dict[str, bool]:
    """What has a state has learned it from the catalogue."""
    used = {"text": (model.use_text, texts), "image": (model.use_image, images)}
    local = {name: not isinstance(encoder, Stateful) for name, (in_use, encoder) in used.items() if in_use}
    fitted = {"style": model.towers == "frozen", "looks": model.with_looks, "price": model.use_price}
    return local | {name: False for name, in_use in fitted.items() if in_use}


def standardised_log_prices(prices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(float32 [N], bool [N]): z = (log1p(p) - mean) / std over the catalogue's known prices, clipped; 0 where absent.

    A price that is NaN, infinite or negative is absent.
    """
    known = np.isfinite(prices) & (np.nan_to_num(prices, nan=-1.0) >= 0)
    logs = np.log1p(np.where(known, prices, 0.0).astype(np.float64))
    mean, std = (logs[known].mean(), logs[known].std()) if known.any() else (0.0, 0.0)
    scaled = (logs - mean) / max(std, 1e-9)  # one price for all: every z is 0
    return np.where(known, scaled.clip(-PRICE_LIMIT, PRICE_LIMIT), 0.0).astype(np.float32), known


def _place(encoder: Any, device: str | torch.device) -> None:
    raw = encoder.encoder if isinstance(encoder, Reduced) else encoder
    if hasattr(raw, "device"):
        raw.device = device
