"""What may be promised over a data set, and what a deployment refuses: by public facts, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from client.datasets import Dataset
from mmrank.errors import PrivacyError
from mmrank.settings import Settings

FIRST_CLIENTS = 1000
"""Of a registry, how many are looked at for their kind: merchants come first, and a registry may be lazy."""


def check_unit(settings: Settings, dataset: Dataset) -> None:
    """Raise PrivacyError where one person's data stand in another's slates, and the unit is the person."""
    privacy = settings.privacy
    if privacy.mechanism == "no_privacy" or privacy.unit == "slate":
        return
    if dataset.simulation_only is not None:
        raise PrivacyError(
            f"privacy.unit={privacy.unit} can't be promised over data set {dataset.name}: {dataset.simulation_only} "
            "Draw candidates from the catalogue (dataset.candidates_from: catalogue, where the data set has it), or "
            "set privacy.unit: slate."
        )
    if privacy.unit == "client":
        merchants = [client for client in dataset.client_ids[:FIRST_CLIENTS] if dataset.kind(client) == "merchant"]
        if merchants:
            raise PrivacyError(
                f"privacy.unit=client means one person, and client {merchants[0]} of data set {dataset.name} is a "
                "merchant with many; set dataset.clients: devices, or dp_sgd with privacy.unit: user."
            )


def check_deployment(settings: Settings, dataset: Dataset) -> None:
    """Raise PrivacyError for what only a simulation may do."""
    for reason in (dataset.simulation_only, getattr(dataset, "stand_in", None)):
        if reason is not None:
            raise PrivacyError(
                f"Data set {dataset.name} is for simulations only: {reason} Choose another for a deployment."
            )
    if getattr(dataset, "bad_rows", 1.0) < 1.0:
        raise PrivacyError(
            f"dataset.bad_rows={dataset.bad_rows:g} stops a client whose rows are worse: that it does not answer would "  # type: ignore[attr-defined]
            "tell of them; set dataset.bad_rows: 1, and look with mmrank data check."
        )
    privacy = settings.privacy
    if not Path(privacy.ledger).expanduser().is_absolute():
        raise PrivacyError(
            f"privacy.ledger={privacy.ledger} may be forgotten, with what earlier runs spent; "
            "set privacy.ledger to the absolute path of a file that is kept."
        )
    if privacy.mechanism == "no_privacy":
        return
    if privacy.noise == "seeded":
        raise PrivacyError(
            "privacy.noise=seeded can be subtracted by who knows the seed: epsilon is inf; set privacy.noise: secure."
        )
    if privacy.noise_cohort_size is not None:
        raise PrivacyError(
            f"privacy.noise_cohort_size={privacy.noise_cohort_size} draws less noise than is accounted, for a "
            "simulation that stands for a larger cohort; leave it out."
        )
    if privacy.epsilon is None and privacy.budget_epsilon is None:
        raise PrivacyError(
            "Expected privacy.budget_epsilon beside privacy.noise_multiplier: without a budget nothing ends what a "
            "server may ask for; set privacy.budget_epsilon."
        )
