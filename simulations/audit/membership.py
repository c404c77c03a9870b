"""Membership inference on a released model: which slates was it trained on, judged by their loss.

Two attacks: the loss alone (Yeom et al. 2018), and RMIA's likelihood ratio against reference models (Zarifzadeh, Liu
and Shokri 2024, arXiv 2312.03262). They show what an ordinary attacker gets; they bound no epsilon.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from client.datasets import Dataset, Split
from client.training import fit
from mmrank import components
from mmrank.errors import ConfigError
from mmrank.features import FeatureTable
from mmrank.privacy import inspection
from mmrank.privacy.ledger import SECONDS_A_DAY
from mmrank.randomness import numpy_generator
from mmrank.ranker import Ranker, build_ranker, gather, load_parameters
from mmrank.settings import Settings
from mmrank.slates import Slate, SlateBatch, collate
from server.rounds import draw_cohort

SLATES = 1000
"""Members, and as many non-members, that are attacked at most."""
ENOUGH = 100
"""Of each, from clients that were never asked, or held-out slates stand for the others."""
PAIRS = 2
"""Pairs of reference models; the two of a pair are trained on complementary halves, so each slate is out of one."""
EPOCHS = 3
FALSE_POSITIVE_RATE = 0.01


def membership(
    settings: Settings,
    *,
    dataset: Dataset,
    features: FeatureTable,
    parameters: Mapping[str, np.ndarray],
    seed: int,
    asked: Sequence[str] | None = None,
) -> dict[str, dict[str, object]]:
    """Both attacks on the model `parameters`, and as controls on the model before training, by name.

    asked: who took part, where the settings do not tell: under client_update a secret stream drew the cohorts.

    Members are training slates of clients that were asked. Non-members are training slates of clients of the same kind
    that never were, where there are enough: alike in all but membership. Else they are the asked clients' held-out
    slates, later in time and with longer histories: an attack finds that difference too, which is no leak (so does the
    control, in part). Each is {"auc", "tpr_at_1%_fpr"} with intervals, and says which non-members it had.
    Raises ConfigError where there are fewer than 2 of either.
    """
    slates, member, others = _slates(asked_clients(settings, dataset) if asked is None else asked, dataset, seed)
    ranker = build_ranker(settings.model, seed=settings.seed)
    batch = _collated(slates, settings)
    untrained = _losses(ranker, batch, features, settings)
    outside = _reference_losses(ranker, batch, features, settings, seed)
    load_parameters(ranker, parameters)
    losses = _losses(ranker, batch, features, settings)
    scores = {
        "loss": -losses,
        "loss, untrained": -untrained,
        "rmia": rmia_scores(losses, outside),
        "rmia, untrained": rmia_scores(untrained, outside),
    }
    return {name: attack_figures(values, member).to_dict() | {"others": others} for name, values in scores.items()}


@dataclass(frozen=True, kw_only=True)
class AttackFigures:
    """auc: P[a member's score is above a non-member's]. tpr: members found at the false positive rate; 95% each."""

    auc: float
    auc_ci95: tuple[float, float]
    tpr: float
    tpr_ci95: tuple[float, float]
    members: int
    others: int

    def to_dict(self) -> dict[str, object]:
        """For JSON, in the form of every measure."""
        return {
            "auc": {"mean": self.auc, "ci95": list(self.auc_ci95)},
            "tpr_at_1%_fpr": {"mean": self.tpr, "ci95": list(self.tpr_ci95)},
            "members": self.members,
            "non_members": self.others,
        }


def attack_figures(scores: np.ndarray, member: np.ndarray) -> AttackFigures:
    """Of scores [n], high for members, and the truth bool [n].

    The AUC's interval is DeLong's (DeLong, DeLong and Clarke-Pearson 1988); the rate's is Clopper and Pearson's, at the
    threshold that the non-members set.
    """
    inside, outside = scores[member], scores[~member]
    n, k = len(inside), len(outside)
    ranks = stats.rankdata(scores)
    # of each member: the share of non-members below it, ties half; of each non-member: the share of members above
    above = (ranks[member] - stats.rankdata(inside)) / k
    below = 1 - (ranks[~member] - stats.rankdata(outside)) / n
    auc = float(above.mean())
    spread = 1.96 * math.sqrt(above.var(ddof=1) / n + below.var(ddof=1) / k)
    threshold = np.quantile(outside, 1 - FALSE_POSITIVE_RATE, method="higher")
    found = int((inside > threshold).sum())
    interval = stats.binomtest(found, n).proportion_ci(0.95, method="exact")
    return AttackFigures(
        auc=auc,
        auc_ci95=(max(0.0, auc - spread), min(1.0, auc + spread)),
        tpr=found / n,
        tpr_ci95=(float(interval.low), float(interval.high)),
        members=n,
        others=k,
    )


def rmia_scores(losses: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """log of p(x | model) / p(x), of losses [n] and reference losses [references, n], NaN where trained on x.

    RMIA scores x by the share of other slates z whose ratio x passes by a factor gamma. Over one set of z that share
    grows with the ratio, so the ratio has the same ROC curve, without ties. p(x) is the mean over references that were
    not trained on x (their offline form with a = 1: a smaller a adds a constant, beside which p_out of a list of
    candidates is small).
    """
    p_out = np.nanmean(np.exp(-outside), axis=0)
    return -losses - np.log(np.maximum(p_out, 1e-300))


def asked_clients(settings: Settings, dataset: Dataset) -> list[str]:
    """The clients that the run's server drew in some round, in the registry's order."""
    clients = list(dataset.client_ids)
    merchants = frozenset(client for client in clients if dataset.kind(client) == "merchant")
    asked = {
        client
        for number in range(1, settings.federation.rounds + 1)
        for client in draw_cohort(clients, frozenset(), settings, number, merchants=merchants)
    }
    return [client for client in clients if client in asked]


def charged_clients(run: Path, settings: Settings, dataset: Dataset) -> list[str]:
    """The clients whose own ledger was charged, in the registry's order: which a simulation alone may know."""
    kept = settings.privacy.ledger
    path = run / "ledger.sqlite" if kept == "throwaway" else Path(kept).expanduser()
    if not path.is_file():
        return []
    with inspection.reading(path) as connection:
        charged = {found.key for found in inspection.look(connection, clock_days=time.time() / SECONDS_A_DAY)}
    return [client for client in dataset.client_ids if dataset.data_identity(client) in charged]


def _slates(asked: Sequence[str], dataset: Dataset, seed: int) -> tuple[list[Slate], np.ndarray, str]:
    """At most SLATES members and as many others, which is which, bool [n], and who the others are."""
    draw = numpy_generator(seed, "membership-slates")
    there = set(asked)
    never = [client for client in dataset.client_ids if client not in there]
    kinds = {dataset.kind(client) for client in never}
    alike = [client for client in asked if dataset.kind(client) in kinds]
    groups = [_some(dataset, clients, ("train",), draw) for clients in (alike, never)]
    others = "training slates of clients that were never asked"
    if min(map(len, groups)) < ENOUGH:
        groups = [_some(dataset, asked, splits, draw) for splits in (("train",), ("validation", "test"))]
        others = "held-out slates of the members' clients"
    inside, outside = groups
    if min(len(inside), len(outside)) < 2:
        raise ConfigError(
            f"Expected at least 2 members and 2 others to attack, not {len(inside)} and {len(outside)}; "
            "audit a run with more slates."
        )
    return inside + outside, np.arange(len(inside) + len(outside)) < len(inside), others


def _some(
    dataset: Dataset, clients: Sequence[str], splits: tuple[Split, ...], draw: np.random.Generator
) -> list[Slate]:
    """SLATES of those clients' slates at most, clients drawn until there are so many."""
    found: list[Slate] = []
    for place in draw.permutation(len(clients)):
        for split in splits:
            found += _relevant(dataset.slates(clients[place], split))
        if len(found) >= SLATES:
            break
    return [found[i] for i in draw.permutation(len(found))[:SLATES]]


def _relevant(slates: list[Slate]) -> list[Slate]:
    return [slate for slate in slates if len(slate.candidates) and (slate.relevance > 0).any()]


def _collated(slates: list[Slate], settings: Settings) -> SlateBatch:
    return collate(slates, history_length=settings.model.history_length, slate_length=settings.training.slate_length)


def _losses(ranker: Ranker, batch: SlateBatch, features: FeatureTable, settings: Settings) -> np.ndarray:
    """float64 [n], of the ranker as it is in training."""
    loss = components.build("mmrank.losses", settings.training.loss)
    ranker.train()
    found = []
    for start in range(0, len(batch), 256):
        part = batch.select(np.arange(start, min(start + 256, len(batch))))
        with torch.no_grad():
            scores = ranker(gather(part, features, settings.model))
            found.append(loss(scores, part.relevance, part.candidate_mask).double().numpy())
    return np.concatenate(found)


def _reference_losses(
    ranker: Ranker, batch: SlateBatch, features: FeatureTable, settings: Settings, seed: int
) -> np.ndarray:
    """[2 PAIRS, n], NaN where the reference was trained on the slate; trained without privacy from the same start."""
    found = []
    for pair in range(PAIRS):
        order = numpy_generator(seed, "membership-halves", pair).permutation(len(batch))
        halves = np.array_split(order, 2)
        for side, half in enumerate(halves):
            reference = copy.deepcopy(ranker)
            fit(
                reference,
                batch.select(half),
                features,
                training=settings.training,
                steps=max(1, EPOCHS * len(half) // settings.training.batch_size),
                shuffle=numpy_generator(seed, "membership-shuffle", pair, side),
            )
            losses = _losses(reference, batch, features, settings)
            losses[half] = np.nan
            found.append(losses)
    return np.stack(found)
