"""Whether the promise that is asked for fits the data: small clients, and people with more than the bound."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from client.datasets import Dataset
from client.datasets._reading.findings import Findings
from client.promises import check_unit
from client.retention import check_calendar
from mmrank.errors import PrivacyError
from mmrank.settings import Settings
from simulations.data_check.facts import quantiles

CLIENTS = 500
FEW_A_STEP = 1.0
"""Of fewer sampled units a step, most steps of a client are noise alone."""


def check_units(
    dataset: Dataset, settings: Settings, findings: Findings, facts: dict[str, Any], counts: np.ndarray
) -> None:
    """Warn of clients too small for the unit, and of contributions above K; an error for a unit that can't be promised.

    Counts are of the training part, of at most CLIENTS clients.
    """
    privacy = settings.privacy
    try:
        check_unit(settings, dataset)
        check_calendar(privacy, dataset)
    except PrivacyError as error:
        findings.add("error", "unit", dataset.name, str(error))
        return
    if len(dataset.client_ids) == 1:
        findings.add(
            "note", "one_client", dataset.name, "there is one client: nothing to federate but with others' nodes"
        )
    if privacy.mechanism != "dp_sgd":
        return
    units = counts[:, 0] if privacy.unit == "slate" else _people(dataset, settings, findings, facts)
    expected = units * privacy.sampling_rate
    small = int((expected < FEW_A_STEP).sum())
    facts["units_of_a_client"] = quantiles(units)
    if small:
        need = int(np.ceil(FEW_A_STEP / privacy.sampling_rate))
        findings.add(
            "warning",
            "small_clients",
            dataset.name,
            f"{small} of {len(units)} clients have fewer than {need} units ({privacy.unit}) in training: at sampling "
            f"rate {privacy.sampling_rate:g} most of their steps are noise alone; group them, or take client_update",
        )
    if privacy.unit == "slate" and settings.model.use_behaviour:
        _histories(dataset, settings.model.history_length, findings, facts)
    if expected.size and np.median(expected) > 4 * privacy.expected_batch_size:
        findings.add(
            "note",
            "expected_batch_size",
            dataset.name,
            f"a step of the median client expects {np.median(expected):.0f} units, and privacy.expected_batch_size is "
            f"{privacy.expected_batch_size:g}: the noise is divided by less than it could be",
        )


def _histories(dataset: Dataset, length: int, findings: Findings, facts: dict[str, Any]) -> None:
    """In how many slates' histories one event stands: epsilon of an event is stated for `length` of them.

    There are more where a person has many slates of one moment, or sees much and chooses little.
    """
    counts: list[int] = []
    for client in dataset.client_ids[:CLIENTS]:
        stands: Counter[tuple[int, int, float]] = Counter()
        for slate in dataset.slates(client, "train"):
            times = slate.time_days - slate.age_days[-length:].astype(np.float64)
            items = slate.history[-length:].tolist()
            # a second is 1e-5 days, and ages are float32
            stands.update(
                {(slate.user, item, round(time, 2)) for item, time in zip(items, times.tolist(), strict=True)}
            )
        counts += stands.values()
    if not counts:
        return
    facts["histories_of_an_event"] = quantiles(counts)
    above = float(np.mean(np.array(counts) > length))
    if above:
        findings.add(
            "warning",
            "histories",
            dataset.name,
            f"{above:.1%} of events stand in more than {length} histories (model.history_length), one in "
            f"{max(counts)}: epsilon as a report states it, for an event in {length} histories, is not theirs",
        )


def _people(dataset: Dataset, settings: Settings, findings: Findings, facts: dict[str, Any]) -> np.ndarray:
    """How many people each client has in training."""
    found, contributions = [], []
    for client in dataset.client_ids[:CLIENTS]:
        users = np.array([slate.user for slate in dataset.slates(client, "train")], np.int64)
        _, counts = np.unique(users, return_counts=True)
        found.append(len(counts))
        contributions += counts.tolist()
    bound = settings.privacy.slates_per_user
    above = np.array(contributions) > bound
    facts["slates_of_a_person"] = quantiles(contributions)
    if above.any():
        findings.add(
            "note",
            "above_bound",
            dataset.name,
            f"{above.mean():.0%} of people have more than {bound} slates (privacy.slates_per_user): a step takes at "
            "most that many of theirs",
        )
    return np.array(found)
