"""The lists of MIND's behaviors.tsv, and its column of history as clicks of their own."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from client.datasets._reading import values
from client.datasets._reading.behaviour import DAY, Parts, Rows, Vocabulary
from client.datasets._reading.blocks import Block
from client.datasets._reading.findings import Findings
from client.datasets._reading.items import Items
from client.datasets._reading.values import Names, Texts
from client.datasets._source import Events, Lists, events_of, lists_of
from mmrank.errors import DatasetError

BEHAVIORS, NEWS = "behaviors.tsv", "news.tsv"
COLUMNS = ("impression", "user", "time", "history", "shown")
STEP = 3600 / DAY
"""Between the clicks of a history, which have no times: an hour, so that the last is not taken for a moment ago."""
_LABELLED = r"^.+-[01]$"


class Shown:
    """Rows of behaviors.tsv as they come: lists, and which history each has."""

    def __init__(
        self, items: Items, names: Vocabulary, histories: Names, findings: Findings, now_days: float | None
    ) -> None:
        self._items, self._findings = items, findings
        self._rows = Rows(items, findings, now_days=now_days)
        self._parts = Parts(names, own=histories)
        self._ids: list[pa.Array] = []
        self._item: list[np.ndarray] = []
        self._clicked: list[np.ndarray] = []

    def take(self, folder: str, block: Block) -> None:
        """A block of a folder: its name is part of the lists' names, since each counts from 1."""
        kept = np.ones(len(block), bool)
        user = self._rows.people(block, "user", kept)
        time = self._rows.times(block, "time", kept)
        row, item, clicked = self._entries(block, kept)
        stays = kept[row]
        length = np.bincount(row, minlength=len(block))
        self._parts.add(kept, user=user, time=time, own=values.encoded(block["history"]), length=length)
        ids = values.text(block["impression"]).filter(pa.array(kept))
        self._ids.append(pc.binary_join_element_wise(Path(folder).name or "all", ids, "-"))
        self._item.append(item[stays].astype(np.int32))
        self._clicked.append(clicked[stays].astype(np.float32))

    def _entries(self, block: Block, kept: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(row of the block, item, whether it was clicked) of all that was shown; `kept` loses rows without any."""
        lists = pc.utf8_split_whitespace(values.text(block["shown"]))
        written = pc.list_flatten(lists)
        row = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False).astype(np.int64)
        labelled = pc.match_substring_regex(written, _LABELLED).to_numpy(zero_copy_only=False)
        text = "nothing shown that says whether it was clicked, as N1-0 or N1-1 does; the row is left out"
        none = np.bincount(row, weights=labelled, minlength=len(block)) == 0
        self._rows.leave(block, "unlabelled", text, none, kept)
        self._say(block, "label", "neither N1-0 nor N1-1; left out of its list", row[~labelled & kept[row]])
        item = self._items.codes(pc.utf8_slice_codeunits(written, 0, -2))
        text = f"news that {NEWS} lacks, left out of its list"
        self._say(block, "item_join", text, row[labelled & (item < 0) & kept[row]])
        good = labelled & (item >= 0)
        clicked = pc.ends_with(written, "-1").to_numpy(zero_copy_only=False)
        row, item, clicked = row[good], item[good], clicked[good]
        text = f"no news of it stands in {NEWS}; the row is left out"
        self._rows.leave(block, "empty", text, np.bincount(row, minlength=len(block)) == 0, kept)
        return row, item, clicked

    def _say(self, block: Block, code: str, text: str, rows: np.ndarray) -> None:
        if len(rows):
            self._findings.add("warning", code, block.file, text, count=len(rows), lines=block.rows[rows])

    def lists(self) -> tuple[Lists, np.ndarray]:
        """(the lists, int32 [L] their histories)."""
        rows: dict[str, Any] = self._parts.joined(BEHAVIORS)
        if not len(rows["length"]):
            raise DatasetError(f"{BEHAVIORS}: no list in it that can be used; mmrank data check says why.")
        lists = lists_of(
            judged=False,
            query_id=Texts(pa.concat_arrays(self._ids)),
            start=np.r_[0, np.cumsum(rows["length"])].astype(np.int64),
            user=rows["user"],
            time=rows["time"],
            item=np.concatenate(self._item),
            relevance=np.concatenate(self._clicked),
        )
        return lists, rows["own"]


def clicked_before(lists: Lists, history: np.ndarray, texts: Sequence[str], items: Items, findings: Findings) -> Events:
    """What people had clicked before their first list, and whatever later histories have more of.

    history: int32 [L], of each list an index into `texts`, which are ids with spaces between, or NONE. What is new in a
    history, neither in an earlier one nor clicked of an earlier list, lies before its list, an hour apart or less, and
    after the person's list before that one. The relevance is 0: such times are made up, and must not move the parts.
    """
    order = np.lexsort((lists.time, lists.user))
    user, time, own = lists.user[order], lists.time[order], history[order]
    begins = np.ones(len(order), bool)
    begins[1:] = user[1:] != user[:-1]
    other = begins.copy()
    other[1:] |= own[1:] != own[:-1]
    first = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    index_of = items.catalog.index_of
    users, clicked, times = array("i"), array("i"), array("d")
    known: set[int] = set()
    until, missing = -1, 0
    for place in np.flatnonzero(other & (own >= 0)).tolist():
        start = int(first[place])
        if start > until:
            known, until = set(), start
        for row in order[until:place].tolist():
            rows = slice(lists.start[row], lists.start[row + 1])
            known.update(lists.item[rows][lists.relevance[rows] > 0].tolist())
        until = place
        found = [index_of.get(name, -1) for name in texts[int(own[place])].split()]
        new = [item for item in found if item >= 0 and item not in known]
        missing += found.count(-1)
        known.update(new)
        at = float(time[place])
        step = min(STEP, (at - float(time[place - 1])) / (len(new) + 1)) if place > start else STEP
        users.extend([int(user[place])] * len(new))
        clicked.extend(new)
        times.extend(at - step * left for left in range(len(new), 0, -1))
    if missing:
        text = f"news of histories that {NEWS} lacks, left out of them"
        findings.add("warning", "history_join", BEHAVIORS, text, count=missing, by_row=False)
    return events_of(
        user=np.array(users, np.int32),
        item=np.array(clicked, np.int32),
        time=np.array(times, np.float64),
        relevance=np.zeros(len(users), np.float32),
    )
