"""Every error that mmrank raises on purpose.

    MmrankError
    ├── ConfigError             a setting is unknown, of the wrong type, or out of its bounds
    │   └── UnknownComponentError   no module of that name in its family
    ├── DatasetError            a table, row or picture cannot be used
    ├── ProtocolError           a message is not what the protocol allows
    │   └── SecureSumError          a step of a secure sum would reveal more than the sum, or can't be trusted
    │       └── BelowThresholdError     too few clients are left to finish it
    ├── CheckpointError         a checkpoint is damaged or belongs to another configuration
    └── PrivacyError            the stated guarantee would not hold
        ├── BudgetExhaustedError    the next charge would pass the budget
        ├── OptedOutError           the person has withdrawn the data for good
        ├── LedgerRolledBackError   a ledger lacks charges that were acknowledged: a copy, or an older state
        └── UnsupportedModuleError  a layer has no per-unit gradient that can be trusted
            └── RoundingError           nor one in batches of that size, on this machine

Each message names the value, the bound and the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MmrankError(Exception):
    """Base of every error raised on purpose; the command line prints it and exits 2."""


class ConfigError(MmrankError):
    """A setting is unknown, of the wrong type, or out of its bounds."""


class UnknownComponentError(ConfigError):
    """No module of that name in its family."""


class DatasetError(MmrankError):
    """A table, row or picture cannot be used."""


class ProtocolError(MmrankError):
    """A message is not what the protocol allows."""


class SecureSumError(ProtocolError):
    """A step of a secure sum would reveal more than the sum, or can't be trusted; the round is thrown away."""


class BelowThresholdError(SecureSumError):
    """Too few clients are left to finish a secure sum."""


class CheckpointError(MmrankError):
    """A checkpoint is damaged or belongs to another configuration."""


class PrivacyError(MmrankError):
    """The stated guarantee would not hold."""


class BudgetExhaustedError(PrivacyError):
    """The next charge would pass the budget."""


class OptedOutError(PrivacyError):
    """The person has withdrawn the data for good."""


class LedgerRolledBackError(PrivacyError):
    """A ledger lacks charges that were acknowledged: a copy, or an older state."""


class UnsupportedModuleError(PrivacyError):
    """A layer has no per-unit gradient that can be trusted."""


class RoundingError(UnsupportedModuleError):
    """In batches of that size, on this machine, a unit's gradient is rounded by its company or its place."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known word, or nothing.

    >>> nearest("escii", ["esci", "hm"])
    " Did you mean 'esci'?"
    >>> nearest("zzz", ["esci", "hm"])
    ''
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{close[0]}'?" if close else ""
