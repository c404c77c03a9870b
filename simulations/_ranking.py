"""`mmrank rank`: a run's model asked for one client, beside that client's data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from client.vault import Vault
from client.workspace import make_workspace
from mmrank.catalog import Catalog
from mmrank.errors import ConfigError
from mmrank.ranking import parse_event
from mmrank.settings import Settings
from server.checkpoint import read_model
from simulations._folder import RunFolder


def rank_for(
    run: Path, *, query: str, client: str, top: int, events: Sequence[str], pictures: bool
) -> list[dict[str, Any]]:
    """The `top` products, best first: rank, item_id, title, score, price, merchant, picture.

    events: "type:item_id", the newest last; they count as having just happened. pictures: those that are rendered on
    demand are saved under the run's folder, so that each line has a path.
    Raises ConfigError for a folder without a model, or an unknown event; DatasetError for an unknown client.
    """
    folder = RunFolder(run)
    settings: Settings = folder.settings()
    if not folder.model.exists():
        raise ConfigError(f"{run} has no model yet; finish it with mmrank simulate ... --out {run} --resume.")
    workspace = make_workspace(settings, state_dir=run)
    dataset, catalog = workspace.dataset, workspace.dataset.catalog
    dataset.kind(client)  # an unknown client is an error of its own, before anything is computed
    last = max(
        (slate.time_days for split in ("train", "validation", "test") for slate in dataset.slates(client, split)),  # type: ignore[arg-type]
        default=0.0,
    )
    happened = [parse_event(text, catalog, time_days=last) for text in events]
    answer = Vault(workspace, client).rank(read_model(folder.model), query, top=top, events=happened)
    return [
        {
            "rank": place,
            "item_id": catalog.item_ids[line.item],
            "title": catalog.titles[line.item],
            "score": line.score,
            "price": price if math.isfinite(price := float(catalog.prices[line.item])) else None,
            "merchant": catalog.merchant_names[int(catalog.merchants[line.item])],
            "picture": picture_path(catalog, line.item, folder.pictures if pictures else None),
        }
        for place, line in enumerate(answer, 1)
    ]


def picture_path(catalog: Catalog, item: int, folder: Path | None) -> str | None:
    """Where the item's picture is, rendered into `folder` where it is not a file; None where it has none."""
    stored = catalog.images.path(item)
    if stored is not None or folder is None:
        return stored
    path = folder / f"{catalog.item_ids[item]}.png"
    if not path.exists():
        pixels = catalog.images(item)
        if pixels is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return str(path)
