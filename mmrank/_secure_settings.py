"""What settings of distributed noise must say: the fewest and the most clients of a round, and nothing that masks hide.

A masked sum excludes whatever looks at one update: another rule than the mean, a bit for an adaptive clip.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mmrank.errors import ConfigError, SecureSumError
from mmrank.secure_sum.sum_round import check_threshold

if TYPE_CHECKING:
    from mmrank.settings import FederationSettings, PrivacySettings

RULES_ON_THE_MEAN = ("fedadam", "fedavg", "fedprox")
"""Rules that need nothing but the mean update; a sum gives that, and nothing else."""
DEVIATIONS = 4
"""A Poisson cohort is larger than its mean by more than so many standard deviations once in 30,000 rounds."""


def check_distributed(privacy: PrivacySettings) -> None:
    """Raise ConfigError for what distributed noise excludes, and for its settings where there is none."""
    if not privacy.distributed:
        for name, plain in (("secure_threshold", None), ("secure_cohort", None), ("colluders", 0)):
            if getattr(privacy, name) != plain:
                raise ConfigError(
                    f"Expected privacy.{name}={getattr(privacy, name)} with privacy.noise_at: distributed alone; "
                    f"leave privacy.{name} out with noise_at={privacy.noise_at} and mechanism={privacy.mechanism}."
                )
        return
    if privacy.clipping != "fixed":
        raise ConfigError(
            f"Expected privacy.clipping={privacy.clipping} to be fixed with privacy.noise_at: distributed: the plan "
            "of the noise holds for one clip; set privacy.clipping: fixed, or noise_at: central."
        )
    if privacy.noise_cohort_size is not None:
        raise ConfigError(
            f"Expected privacy.noise_cohort_size={privacy.noise_cohort_size} to be left out with privacy.noise_at: "
            "distributed: each device adds the share that is charged."
        )
    if privacy.colluders < 0:
        raise ConfigError(f"Expected privacy.colluders={privacy.colluders} to be at least 0; set privacy.colluders.")


def check_secure_cohorts(privacy: PrivacySettings, federation: FederationSettings) -> None:
    """Raise ConfigError for a rule that a sum can't feed, or a threshold that the largest cohort does not bear."""
    rule = federation.aggregation["name"]
    if rule not in RULES_ON_THE_MEAN:
        raise ConfigError(
            f"Expected federation.aggregation={rule} to be one of {', '.join(RULES_ON_THE_MEAN)} with "
            "privacy.noise_at: distributed: the server sees a sum, and no update of its own; set one of them, or "
            "noise_at: local."
        )
    cohort = largest_cohort(privacy, federation)
    if cohort < federation.cohort_size:
        raise ConfigError(
            f"Expected privacy.secure_cohort={cohort} to be at least federation.cohort_size="
            f"{federation.cohort_size}, the expected cohort; raise privacy.secure_cohort."
        )
    try:
        check_threshold(cohort=cohort, threshold=secure_threshold(privacy, federation), colluders=privacy.colluders)
    except SecureSumError as error:
        raise ConfigError(
            f"{error} Set privacy.secure_threshold={privacy.secure_threshold}, or privacy.secure_cohort="
            f"{privacy.secure_cohort}, which is {cohort} here."
        ) from error


def largest_cohort(privacy: PrivacySettings, federation: FederationSettings) -> int:
    """The most clients that a round may ask: privacy.secure_cohort, or the mean and DEVIATIONS of a Poisson draw."""
    if privacy.secure_cohort is not None:
        return privacy.secure_cohort
    mean = federation.cohort_size
    return mean + math.ceil(DEVIATIONS * math.sqrt(mean * (1 - privacy.sampling_rate)))


def secure_threshold(privacy: PrivacySettings, federation: FederationSettings) -> int:
    """The fewest survivors: privacy.secure_threshold, or the smallest that the largest cohort allows."""
    if privacy.secure_threshold is not None:
        return privacy.secure_threshold
    return (largest_cohort(privacy, federation) + privacy.colluders) // 2 + 1
