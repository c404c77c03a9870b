"""Data sets, one a file: `dataset: hm` loads client.datasets.hm and calls its `load(**settings)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from mmrank.catalog import Catalog
from mmrank.slates import Slate

Split = Literal["train", "validation", "test"]
Kind = Literal["merchant", "device"]


class Dataset(Protocol):
    """What `load` returns: the public catalogue and registry, and a door to one client's private slates.

    name, version: what stands in result.json; the version changes with whatever changes a slate.
    synthetic: True where no real person is behind it. simulation_only: a sentence that says why its
    slates can't be had in a deployment (candidates drawn from other people's purchases), or None.
    epoch_days: the day of time_days=0, in days since 1970-01-01 UTC, where the data have a calendar; without one
    nothing can be dropped by its age, so no budget may be renewed.
    stand_in, where a data set has it: a sentence that says why its clients are no real ones, or None; refused in a
    deployment alone. client_ids: the public registry; may be lazy, and holds 100,000 names without cost.

    Where a data set has them: split_by, `time` or what else its parts are cut by; brought_rows, names of its slates'
    `scores`; slate_counts(), int64 [clients, 3], without making slates; left_out(client, split), by reason; notes, what
    its files said; bad_rows, from which share of bad rows on it stops, which a deployment wants to be 1.
    """

    name: str
    version: str
    synthetic: bool
    simulation_only: str | None
    epoch_days: float | None
    catalog: Catalog
    client_ids: Sequence[str]

    def kind(self, client_id: str) -> Kind:
        """Public: whether the client holds many people's behaviour (merchant) or one person's (device)."""
        ...

    def data_identity(self, client_id: str) -> str:
        """Names the client's data: the key of its privacy ledger, the same in every run over that data."""
        ...

    def slates(self, client_id: str, split: Split) -> list[Slate]:
        """Private: that client's slates in that part, by time. May be empty. Repeatable."""
        ...
