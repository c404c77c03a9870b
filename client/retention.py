"""What a client may still train on and measure: nothing older than it promised to keep, nothing from the future.

Now is the public calendar's, never the newest slate's day: that would be private, and a client whose people stay away
would keep their data for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from client.datasets import Dataset
from mmrank.errors import PrivacyError
from mmrank.settings import PrivacySettings
from mmrank.slates import Slate


def check_calendar(privacy: PrivacySettings, dataset: Dataset) -> None:
    """Raise PrivacyError where data are to be dropped by their age and the data set does not say when they were."""
    if privacy.retention_days is None or dataset.epoch_days is not None:
        return
    raise PrivacyError(
        f"privacy.retention_days={privacy.retention_days:g} can't be kept over data set {dataset.name}: its times "
        "count from a first day that it does not name, so nothing tells how old a slate is; leave "
        "privacy.retention_days and privacy.renew_every_days out, or take a data set with dates."
    )


def kept(slates: Sequence[Slate], *, epoch_days: float, oldest: float, newest: float) -> list[Slate]:
    """The slates shown in [oldest, newest], each without the events of its history that were before.

    In days since 1970-01-01 UTC, as epoch_days, the day of time_days=0.
    """
    result = []
    for slate in slates:
        shown = epoch_days + slate.time_days
        if oldest <= shown <= newest:
            result.append(_younger(slate, shown - oldest))
    return result


def _younger(slate: Slate, age_days: float) -> Slate:
    young = slate.age_days <= age_days
    if young.all():
        return slate
    return replace(
        slate, history=slate.history[young], event_type=slate.event_type[young], age_days=slate.age_days[young]
    )
