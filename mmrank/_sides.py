"""One side of a catalogue, its texts or its pictures, as rows: encoded or from the cache, reduced, and its style."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrank._pictures import PictureReader
from mmrank._row_cache import Encode, Report, RowCache, kept_arrays, keys_of, write_array
from mmrank._style import style_rows
from mmrank.catalog import Catalog
from mmrank.encoders._linear import Reduced, Stateful
from mmrank.encoders.image._pixels import TakesSquares

log = logging.getLogger(__name__)

TEXT_BATCH = 512
IMAGE_BATCH = 32
"""What a kill can lose, for each worker. Pictures are brought to the encoder's size one by one."""

_NAMED = 3
"""Pictures that a warning names."""


@dataclass(frozen=True)
class Work:
    """What encoding one side took.

    encoded: contents encoded by this call. cached: items whose row lay in the cache, or is another item's of the same
    content. seconds: of encoding and keeping them, by `workers` threads. per_second: contents, None where none was
    encoded.
    """

    encoded: int = 0
    cached: int = 0
    seconds: float = 0.0
    workers: int = 0

    @property
    def per_second(self) -> float | None:
        return self.encoded / self.seconds if self.encoded else None


@dataclass(frozen=True, eq=False)
class Side:
    """rows: [N, *row]. present: bool [N], which items have one. style: [N, style_dim]. key: what the rows depend on."""

    rows: Tensor
    present: np.ndarray
    style: Tensor
    key: str
    work: Work


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Where sides are kept and how they are made: `workers` threads, told to `progress` by name."""

    folder: Path
    category: np.ndarray
    style_dim: int
    workers: int
    progress: Callable[[str, int, int], None] | None

    def text(self, encoder: Any, titles: Sequence[str]) -> Side:
        """Of titles, blank ones absent; fits the encoder."""
        raw = encoder.encoder if isinstance(encoder, Reduced) else encoder
        keys, key = keys_of([title if title.strip() else None for title in titles]), raw.version
        written = [title if title.strip() else "" for title in titles]
        if isinstance(raw, Stateful):
            # what was learned from these titles belongs to them: so do the rows
            key = f"{key}|{hashlib.sha256(keys.tobytes()).hexdigest()}"
            path = _folder(self.folder, "text", raw, key) / "state.npz"
            raw.restore(kept_arrays(path, lambda: raw.fit(written).state()))
        else:
            raw.fit(written)

        def encode(positions: list[int]) -> tuple[np.ndarray, np.ndarray]:
            return raw.rows([written[position] for position in positions]), np.ones(len(positions), bool)

        cached = _Cached(_folder(self.folder, "text", raw, key), encoder, keys, self)
        return cached.side(encode, TEXT_BATCH, "text")

    def image(self, encoder: Any, catalog: Catalog) -> Side:
        """Of the catalogue's pictures; one that can't be read is absent, and a warning says which and why."""
        raw = encoder.encoder if isinstance(encoder, Reduced) else encoder
        digests = [catalog.images.digest(index) for index in range(len(catalog))]
        raw.fit([])
        read = PictureReader(catalog.images, digests, raw.size if isinstance(raw, TakesSquares) else None)

        def encode(positions: list[int]) -> tuple[np.ndarray, np.ndarray]:
            pictures = [read(position) for position in positions]
            return raw.rows(pictures), np.array([picture is not None for picture in pictures], bool)

        cached = _Cached(_folder(self.folder, "image", raw, raw.version), encoder, keys_of(digests), self)
        side = cached.side(encode, IMAGE_BATCH, "image")
        unreadable = sum(digest is not None for digest in digests) - int(side.present.sum())
        if unreadable:
            _warn(f"{unreadable} of {len(catalog)} pictures of {catalog.name} can't be read", read.unread)
        return side

    def nothing(self, encoder: Any, items: int) -> Side:
        """Zeros that take no memory, for a side that is switched off."""
        zero = torch.from_numpy(np.zeros((1, *encoder.row_shape), encoder.row_dtype))
        style = torch.zeros(1, self.style_dim).expand(items, -1)
        return Side(zero.expand(items, *encoder.row_shape), np.zeros(items, bool), style, "off", Work())


@dataclass(frozen=True)
class _Cached:
    """One side of the catalogue in its folder, by the items' keys [N]."""

    folder: Path
    encoder: Any
    keys: np.ndarray
    sides: Sides

    def side(self, encode: Encode, batch: int, name: str) -> Side:
        encoder = self.encoder
        raw = encoder.encoder if isinstance(encoder, Reduced) else encoder
        cache = RowCache(self.folder, row_shape=raw.row_shape, row_dtype=raw.row_dtype)
        report = _named(self.sides.progress, name)
        with _one_core_each(encode) as alone:
            table = cache.table(self.keys, alone, batch=batch, workers=self.sides.workers, progress=report)
        rows, present = table.rows, table.present
        key = f"{encoder.version}|{hashlib.sha256(self.keys.tobytes() + present.tobytes()).hexdigest()}"
        if encoder.trainable:
            style = torch.zeros(1, self.sides.style_dim).expand(len(rows), -1)
        else:
            style = torch.from_numpy(self._style(rows, present, key))
        if isinstance(encoder, Reduced):
            rows = self._reduced(encoder, rows, key)
        work = Work(table.encoded, int(present.sum()) - table.encoded, table.seconds, self.sides.workers)
        return Side(torch.from_numpy(rows), present, style, key, work)

    def _reduced(self, encoder: Reduced, raw: np.ndarray, key: str) -> np.ndarray:
        """The reduction fitted on these rows, and they reduced by it, both kept: each process would get the same."""
        stem = "reduced-" + hashlib.sha256(key.encode()).hexdigest()[:16]
        encoder.restore(kept_arrays(self.folder / f"{stem}.npz", lambda: encoder.fit_rows(raw).state()))
        return kept_rows(self.folder / f"{stem}.npy", lambda: encoder.reduce(raw))

    def _style(self, raw: np.ndarray, present: np.ndarray, key: str) -> np.ndarray:
        category, dim = self.sides.category, self.sides.style_dim
        groups = hashlib.sha256(category.tobytes()).hexdigest()
        stem = "style-" + hashlib.sha256(f"{key}|{groups}|{dim}".encode()).hexdigest()[:16]
        return kept_rows(self.folder / f"{stem}.npy", lambda: style_rows(raw, present, category, dim))


@contextmanager
def _one_core_each(encode: Encode) -> Iterator[Encode]:
    """`encode`, with PyTorch on one core in whichever thread calls it.

    Two threads that each ask for all cores wait for each other, and a sum that cores share is rounded by how many.
    """
    threads = torch.get_num_threads()

    def alone(positions: list[int]) -> tuple[np.ndarray, np.ndarray]:
        torch.set_num_threads(1)
        return encode(positions)

    try:
        yield alone
    finally:
        torch.set_num_threads(threads)  # a thread's choice becomes that of threads to come


def kept_rows(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array in the .npy file `path`, memory-mapped; made and kept where it is absent."""
    if not path.exists():
        write_array(path, make())
    return np.load(path, mmap_mode="c", allow_pickle=False)


def _warn(what: str, unread: dict[int, str]) -> None:
    """One line; which and why is known of those that this call tried to read."""
    named = [unread[index] for index in sorted(unread)[:_NAMED]]
    if len(unread) > _NAMED:
        named.append(f"and {len(unread) - _NAMED} more")
    log.warning("%s; they count as missing%s.", what, ": " * bool(named) + "; ".join(named))


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


def _named(progress: Callable[[str, int, int], None] | None, name: str) -> Report | None:
    return None if progress is None else lambda done, total: progress(name, done, total)
