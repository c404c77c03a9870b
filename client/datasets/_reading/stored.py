"""Events that a client keeps in its own store, beside its tables: interactions and impressions, as columns."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from client.datasets._reading.behaviour import RELEVANCE, Parts, Vocabulary
from client.datasets._reading.files import within
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import Items
from client.datasets._reading.values import Names
from client.datasets._source import NONE, Events, Lists, lists_of
from client.event_store import SHOWN, EventStore, LoggedEvent
from mmrank.errors import DatasetError
from mmrank.slates import EVENT_TYPES

BATCH = 65_536


def read_store(
    root: Path, file: str, items: Items, names: Vocabulary, *, findings: Findings
) -> tuple[Events | None, Lists | None]:
    """(what people did, what they were shown and chose of it) of the store `file` under root; None where there is none.

    Acts upon an impression are in its list and not among the events. A store that is not there yet is empty. Raises
    DatasetError for one that is damaged or leads out of the root.
    """
    path = within(root, file)
    if path is None:
        raise DatasetError(f"{file}: leads out of {root}; a data set reads its own folder alone.")
    store = EventStore(path)
    if not store.exists():
        findings.add("note", "store_absent", file, "no event was ever kept in it")
        return None, None
    apart, listed = Parts(names), Parts(names, own=(own := Names()))
    rows = iter(store.events())
    found = [False, False]
    while batch := list(islice(rows, BATCH)):
        findings.rows[file] += len(batch)
        item = items.codes(pa.array([event.item for event in batch], pa.string()))
        unknown = int((item < 0).sum())
        if unknown:
            text = f"events of items that {items.file} lacks, left out"
            findings.add("warning", "item_join", file, text, count=unknown, lost=True)
        inside = np.array([bool(event.slate) for event in batch], bool)
        for place, (parts, where) in enumerate(((apart, ~inside), (listed, inside))):
            kept = where & (item >= 0)
            found[place] = found[place] or bool(kept.any())
            parts.add(kept, **_columns(batch, item, lists=place == 1))
    events = Events(**apart.joined(file)) if found[0] else None
    return events, _lists(listed.joined(file), own.names()) if found[1] else None


def _columns(batch: list[LoggedEvent], item: np.ndarray, *, lists: bool) -> dict[str, object]:
    kind = np.array([EVENT_TYPES.index(event.type) if event.type != SHOWN else NONE for event in batch], np.int8)
    found: dict[str, object] = {
        "user": _encoded([event.user for event in batch]),
        "item": item.astype(np.int32),
        "time": np.array([event.time_days for event in batch], np.float64),
        "relevance": np.where(kind >= 0, RELEVANCE[np.maximum(kind, 0)], 0.0).astype(np.float32),
        "query": _encoded([event.query for event in batch]),
        "group": None,
    }
    if not lists:
        return found | {"kind": kind}
    return found | {
        "own": _encoded([f"{event.user}\x1f{event.slate}" for event in batch]),
        "shown": kind == NONE,
        "position": np.array([event.position for event in batch], np.int32),
        "propensity": np.array([event.propensity or np.nan for event in batch], np.float32),
    }


def _encoded(texts: list[str]) -> pa.DictionaryArray:
    return pa.array(texts, pa.string()).dictionary_encode()


def _lists(rows: dict[str, np.ndarray], ids: object) -> Lists:
    """One list an impression: what was shown in its order, each with the most that was done with it."""
    key = rows["own"].astype(np.int64) * (int(rows["item"].max()) + 1) + rows["item"]
    order = np.lexsort((~rows["shown"], key))  # the row that says where it was shown stands for the item
    first = np.flatnonzero(np.r_[True, np.diff(key[order]) != 0])
    relevance = np.maximum.reduceat(rows["relevance"][order], first)
    chosen = order[first]
    position = rows["position"][chosen]
    place = np.lexsort((chosen, np.where(position < 0, np.iinfo(np.int32).max, position), rows["own"][chosen]))
    chosen, relevance = chosen[place], relevance[place]
    own = rows["own"][chosen]
    begins = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
    head = chosen[begins]
    return lists_of(
        judged=False,
        start=np.r_[begins, len(own)].astype(np.int64),
        user=rows["user"][head],
        query=rows["query"][head],
        time=np.minimum.reduceat(rows["time"][chosen], begins),
        item=rows["item"][chosen],
        relevance=relevance,
        position=rows["position"][chosen],
        propensity=rows["propensity"][chosen],
    )
