"""Local training: one client's round, from the server's parameters to what is added to them."""

from __future__ import annotations

import copy
import json
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from mmrank import components
from mmrank.errors import PrivacyError, RoundingError
from mmrank.features import FeatureTable
from mmrank.privacy._checks import Inputs, Losses
from mmrank.privacy.mechanism import LocalProblem, Mechanism
from mmrank.privacy.no_privacy import NoPrivacy
from mmrank.privacy.noise import Noise
from mmrank.privacy.per_unit import PerUnitGradients, build_per_unit
from mmrank.randomness import numpy_generator
from mmrank.ranker import Ranker, gather, load_parameters, parameters_of, row_bytes
from mmrank.settings import ModelSettings, TrainingSettings
from mmrank.slates import EVENT_TYPES, PADDING, SlateBatch

logger = logging.getLogger(__name__)

GATHER_LIMIT_BYTES = 256 * 2**20
"""A client whose gathered features are smaller is gathered once a round, not once a step."""
EXAMPLE_UNITS = 4

_prepared: weakref.WeakKeyDictionary[nn.Module, dict[tuple[str, ...], PerUnitGradients]] = weakref.WeakKeyDictionary()


def local_update(
    ranker: Ranker,
    start: Mapping[str, np.ndarray],
    batch: SlateBatch,
    features: FeatureTable,
    *,
    training: TrainingSettings,
    privacy: Mechanism,
    noise: Noise,
    shuffle: np.random.Generator,
    steps: int,
    clip: float = 0.0,
    proximal_mu: float = 0.0,
    device: torch.device | str = "cpu",
) -> dict[str, np.ndarray]:
    """What leaves the client after one round under `privacy`: float32 by name. The ranker's parameters are scratch.

    batch: all of the client's slates, any number. A client without slates gives zeros without a mechanism,
    and with one the same noise as any other. clip: this round's, where whole updates are clipped. proximal_mu:
    FedProx' mu (Li et al. 2020, Eq. 2); its gradient mu (w - start) is of public values, and is added after the noise.
    Raises PrivacyError where `steps` are not the ones that `privacy.event` charges.
    """
    if steps != privacy.steps:
        raise PrivacyError(
            f"Expected steps={steps} to be the {privacy.steps} that are charged; set training.local_steps."
        )
    gradients = prepare(ranker, features, training=training, privacy=privacy, device=device)
    model = ranker if gradients is None else gradients.model
    if next(model.parameters()).device != torch.device(device):  # moving what is there already costs a millisecond
        model = model.to(device)
    load_parameters(model, start)
    problem = _problem(
        model,
        ranker.model,
        batch,
        features,
        training,
        device=device,
        passes=privacy.event.sampling_rate * steps,
        gradients=gradients,
        proximal_mu=proximal_mu,
    )
    privacy.train(problem, noise=noise, shuffle=shuffle)
    after = parameters_of(model)
    update = {name: after[name] - np.asarray(start[name], dtype=np.float32) for name in after}
    return privacy.release(update, clip=clip, noise=noise)


def fit(
    ranker: Ranker,
    batch: SlateBatch,
    features: FeatureTable,
    *,
    training: TrainingSettings,
    steps: int,
    shuffle: np.random.Generator,
    device: torch.device | str = "cpu",
) -> None:
    """Train the ranker in place without privacy: what a simulation's centralised and local rows do."""
    passes = steps * training.batch_size / max(len(batch), 1)
    problem = _problem(ranker.to(device), ranker.model, batch, features, training, device=device, passes=passes)
    no_mechanism = NoPrivacy(steps=steps, batch_size=training.batch_size)
    no_mechanism.train(problem, noise=_NO_NOISE, shuffle=shuffle)


class _NoNoise:
    """Stands where no mechanism may draw."""

    def normal(self, shape: tuple[int, ...], std: float, *, dtype: torch.dtype = torch.float32) -> Tensor:
        raise PrivacyError("Training without privacy draws no noise; choose a mechanism and give it a source.")

    def uniform(self, n: int) -> np.ndarray:
        raise PrivacyError("Training without privacy draws no inclusion; choose a mechanism and give it a source.")


_NO_NOISE = _NoNoise()


def prepare(
    ranker: Ranker,
    features: FeatureTable,
    *,
    training: TrainingSettings,
    privacy: Mechanism,
    device: torch.device | str = "cpu",
) -> PerUnitGradients | None:
    """The per-unit gradients that `privacy` needs, kept for the ranker's life; None where it needs none.

    They own a copy of the ranker with hooks; it is made, and tried on public items, once a process. Where rounding
    tells of other units in batches of `privacy.micro_batch_size`, smaller ones are tried, down to a single unit's.
    Raises UnsupportedModuleError where the ranker has no per-unit gradient that can be trusted.
    """
    if privacy.grad_sample is None:
        return None
    kept = _prepared.setdefault(ranker, {})
    size, alone = privacy.micro_batch_size, privacy.slates_per_unit
    key = (privacy.grad_sample, str(device), json.dumps(dict(training.loss), sort_keys=True), str(size), str(alone))
    if key not in kept:
        slates = example_batch(features, ranker.model, training.slate_length)
        example = _tensors(slates, features, ranker.model, device)
        for smaller in _sizes(size, alone):
            model = copy.deepcopy(ranker).to(device)
            try:
                kept[key] = build_per_unit(
                    privacy.grad_sample, model, _losses(training), example=example, size=smaller, alone=alone
                )
                break
            except RoundingError as error:
                # of the machine's matrix products and the model's shape alone: it tells nothing of the data
                logger.info("Batches of %d are refused, a smaller size is tried: %s", smaller, error)
    return kept[key]


def _sizes(largest: int, alone: int) -> Iterator[int]:
    """`largest` and smaller multiples of `alone`, down to a batch of one unit, where nobody else is to be told of."""
    size = largest
    while size > alone:
        yield size
        size = size // 2 // alone * alone
    yield alone


def example_batch(features: FeatureTable, model: ModelSettings, slate_length: int) -> SlateBatch:
    """EXAMPLE_UNITS slates that nobody was ever shown, over the public catalogue: what a model is tried on."""
    draw = numpy_generator(0, "example-slates")
    items, history_length, units = len(features.category), model.history_length, EXAMPLE_UNITS
    candidates = draw.integers(0, items, (units, slate_length))
    candidates[0, -1] = PADDING
    history = draw.integers(0, items, (units, history_length))
    history[0, : history_length // 2] = PADDING
    history[1] = PADDING
    relevance = draw.integers(0, 3, (units, slate_length)).astype(np.float32)
    relevance[:, 0] = 1.0
    relevance[candidates == PADDING] = 0.0
    return SlateBatch(
        query=tuple(("running shoes", "运动鞋", "", "red shirt")[row % 4] for row in range(units)),
        candidates=torch.from_numpy(candidates),
        candidate_mask=torch.from_numpy(candidates != PADDING),
        relevance=torch.from_numpy(relevance),
        position=torch.arange(slate_length).expand(units, -1),
        history=torch.from_numpy(history),
        history_mask=torch.from_numpy(history != PADDING),
        event_type=torch.from_numpy(draw.integers(0, len(EVENT_TYPES), (units, history_length))),
        age_days=torch.from_numpy(draw.uniform(0, 60, (units, history_length)).astype(np.float32)),
        user=torch.arange(units),
    )


def build_optimizer(parameters: list[nn.Parameter], training: TrainingSettings) -> torch.optim.Optimizer:
    """A fresh optimiser: its state never outlives the round, nor leaves it."""
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)


def _problem(
    model: nn.Module,
    settings: ModelSettings,
    batch: SlateBatch,
    features: FeatureTable,
    training: TrainingSettings,
    *,
    device: torch.device | str,
    passes: float,
    gradients: PerUnitGradients | None = None,
    proximal_mu: float = 0.0,
) -> LocalProblem:
    """passes: how often each unit is used, about; below 1 it is gathered when it is used."""
    model.train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return LocalProblem(
        model=model,
        size=len(batch),
        inputs=_inputs(
            batch, features, settings, device, passes=passes, size=0 if gradients is None else gradients.size
        ),
        losses=_losses(training),
        optimizer=build_optimizer(parameters, training),
        adjust=_proximal(parameters, proximal_mu) if proximal_mu else None,
        gradients=gradients,
        owners=batch.user.numpy(),
    )


def _inputs(
    batch: SlateBatch,
    features: FeatureTable,
    settings: ModelSettings,
    device: torch.device | str,
    *,
    passes: float,
    size: int = 0,
) -> Callable[[np.ndarray], Inputs]:
    """size: of the batches that slates are gathered in, where what a unit is must not depend on others; 0 for any."""

    def gathered(rows: np.ndarray) -> Inputs:
        if not size or not len(rows):
            return _tensors(batch.select(rows), features, settings, device)
        # A matrix product of one row rounds in another way than one of many: a batch that is not full is filled up.
        parts = []
        for start in range(0, len(rows), size):
            taken = rows[start : start + size]
            full = _tensors(batch.select(np.resize(taken, size)), features, settings, device)
            parts.append({name: tensor[: len(taken)] for name, tensor in full.items()})
        return parts[0] if len(parts) == 1 else {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    bytes_each = row_bytes(features, length=batch.candidates.shape[1], history=batch.history.shape[1])
    if passes < 1 or bytes_each * len(batch) > GATHER_LIMIT_BYTES:
        return gathered
    everything = gathered(np.arange(len(batch)))

    def select(rows: np.ndarray) -> Inputs:
        index = torch.from_numpy(rows).to(device)
        return {name: tensor.index_select(0, index) for name, tensor in everything.items()}

    return select


def _tensors(
    batch: SlateBatch, features: FeatureTable, settings: ModelSettings, device: torch.device | str
) -> dict[str, Tensor]:
    inputs = dict(gather(batch, features, settings))
    inputs["relevance"], inputs["candidate_mask"] = batch.relevance, batch.candidate_mask
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _losses(training: TrainingSettings) -> Losses:
    loss = components.build("mmrank.losses", training.loss)
    return lambda scores, inputs: loss(scores, inputs["relevance"], inputs["candidate_mask"])


def _proximal(parameters: list[nn.Parameter], mu: float) -> Callable[[object], None]:
    anchors = [parameter.detach().clone() for parameter in parameters]

    def add(optimizer: object) -> None:
        for parameter, anchor in zip(parameters, anchors, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter.detach() - anchor, alpha=mu)

    return add
