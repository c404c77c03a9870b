"""What a client promises its people, and the public calendar that the promise follows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmrank.errors import PrivacyError
from mmrank.privacy.accountant import check_delta


@dataclass(frozen=True, kw_only=True)
class Policy:
    """The promise that stands over a ledger: recorded when the ledger begins, and kept.

    budget_epsilon: where the ledger refuses; inf for no limit. unit: what one event protects.
    renew_every_days: the budget holds for each period of that length on the public calendar (days since 1970-01-01
    UTC), not for all time; only together with retention_days: data older than that are dropped before training.
    Raises PrivacyError for a delta, budget or period that can't be promised.
    """

    mechanism: str
    unit: str
    delta: float
    budget_epsilon: float
    renew_every_days: float | None = None
    retention_days: float | None = None

    def __post_init__(self) -> None:
        check_delta(self.delta)
        if math.isnan(self.budget_epsilon) or self.budget_epsilon <= 0:
            raise PrivacyError(f"Expected budget_epsilon={self.budget_epsilon} above 0; set privacy.budget_epsilon.")
        for name in ("renew_every_days", "retention_days"):
            days = getattr(self, name)
            if days is not None and not 1 <= days < math.inf:
                raise PrivacyError(f"Expected {name}={days} to be finite and at least 1 day; set privacy.{name}.")
        if self.renew_every_days is not None and self.retention_days is None:
            raise PrivacyError(
                f"Expected retention_days={self.retention_days} beside renew_every_days={self.renew_every_days}: a "
                "budget may be renewed only where older data are dropped; set privacy.retention_days, or leave "
                "privacy.renew_every_days out."
            )

    def period(self, clock_days: float) -> int:
        """The index of the period that `clock_days` (days since 1970-01-01 UTC) lies in; 0 without renewal."""
        return 0 if self.renew_every_days is None else math.floor(clock_days / self.renew_every_days)

    @property
    def lifetime_periods(self) -> int:
        """The most consecutive periods that one datum can be charged in: it lives retention_days, from any moment on.

        >>> quarter = {"mechanism": "dp_sgd", "unit": "user", "delta": 1e-6, "budget_epsilon": 1.0}
        >>> Policy(**quarter, renew_every_days=90, retention_days=90).lifetime_periods
        2
        """
        if self.renew_every_days is None or self.retention_days is None:
            return 1
        return math.ceil(self.retention_days / self.renew_every_days) + 1
