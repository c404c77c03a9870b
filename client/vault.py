"""The only door to a client's private side: enrol, train and release_metrics for the wire, evaluate and rank for its
owner."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch

from client.datasets import Split
from client.measures import slate_values
from client.personal import personalised
from client.secure_rounds import SecureRounds, round_hash
from client.training import local_update, prepare
from client.workspace import Workspace
from mmrank.errors import BudgetExhaustedError, PrivacyError, SecureSumError
from mmrank.metrics import METRICS, slate_metrics
from mmrank.privacy.accountant import Event as AccountedEvent
from mmrank.privacy.client_update import CLIP, CLIP_BOUNDS
from mmrank.privacy.distributed_update import VALUES, DistributedUpdate
from mmrank.privacy.ledger import Account, charge_id
from mmrank.privacy.mechanism import Mechanism
from mmrank.privacy.metrics_release import MetricRelease
from mmrank.privacy.noise import Noise, SecureNoise, SeededNoise
from mmrank.protocol import (
    METRIC_SUM,
    NO_HEAD,
    Code,
    Enrolment,
    EvaluateReply,
    EvaluateRequest,
    Head,
    Request,
    SumReply,
    SumRequest,
    TrainReply,
    TrainRequest,
    check_update,
)
from mmrank.randomness import numpy_generator
from mmrank.ranker import Ranker, build_ranker, gather, load_parameters
from mmrank.ranking import Event, Ranked, history_of
from mmrank.secure_sum.arrays import model_from
from mmrank.secure_sum.sum_round import SumRound
from mmrank.slates import collate
from mmrank.wire import input_hash

logger = logging.getLogger(__name__)

EVALUATION_BATCH = 256
PARAMETER_LIMIT = 1e3
"""A trained parameter is a few units in size. One of 1e12 makes a rounding error as large as a gradient, and
rounding is not one slate's own: what it depends on could be read off the update."""


class Vault:
    """One client. Cheap to make: no slate, ledger or outbox is touched until a call needs it."""

    def __init__(self, workspace: Workspace, client_id: str) -> None:
        self.workspace, self.client_id = workspace, client_id

    def enrol(self) -> Enrolment:
        """What the client says of itself: public, and the same whatever data it holds."""
        workspace, policy = self.workspace, self.workspace.policy
        if workspace.settings.privacy.distributed:
            _ = workspace.secure_keys  # who can't sign can't take part
        return Enrolment(
            client=self.client_id,
            kind=workspace.dataset.kind(self.client_id),
            mechanism=policy.mechanism,
            unit=workspace.settings.privacy.unit,
            delta=policy.delta,
            budget_epsilon=policy.budget_epsilon,
        )

    def train(self, request: TrainRequest) -> TrainReply:
        """One round, charged before it trains; a code in place of an update where that can't be.

        Asked again, the same request gets the same bytes and costs nothing more. Another input in the same round is
        another charge with other noise. What is wrong with the client's data or disk is raised.
        """
        reason = self._fault(request)
        if reason is not None:
            logger.info("A request was turned away with code %s.", reason)
            return self._without_update(request, reason)
        try:
            return self._train(request)
        except BudgetExhaustedError:
            return self._without_update(request, "exhausted", self._account())
        except PrivacyError as error:
            logger.error("The client's policy refuses to train: %s", error)
            return self._without_update(request, "refused")

    def personalise(self, parameters: Mapping[str, np.ndarray], *, steps: int) -> Ranker:
        """The ranker at the finished shared `parameters` with this client's own parts. LOCAL, never sent."""
        workspace = self.workspace
        return personalised(
            build_ranker(workspace.settings.model, seed=workspace.settings.seed),
            parameters,
            workspace.batch(self.client_id, "train"),
            workspace.features,
            training=workspace.settings.training,
            steps=steps,
            shuffle=numpy_generator(workspace.settings.seed, "personal", self.client_id),
            device=workspace.device,
        )

    def take_part(self, request: SumRequest) -> SumReply:
        """One step of a secure sum; a code in place of an answer where that can't be. See client.secure_rounds.

        Its third step is `train` under noise_at: distributed: charged first, and the update leaves under masks alone.
        """
        mechanism = self.workspace.mechanism
        code: Code | None = self._fault(self._in_sum(request), model=request.step == "mask")
        if code is None and not isinstance(mechanism, DistributedUpdate):
            code = "bad_request"
        if code is not None or not isinstance(mechanism, DistributedUpdate):
            logger.info("A step of a secure sum was turned away with code %s.", code)
            return self._without_arrays(request, code or "bad_request")
        try:
            return SecureRounds(
                client=self.client_id,
                mechanism=mechanism,
                keys=self.workspace.secure_keys,
                store=self.workspace.secure_store,
                affords=lambda: self._account().affords(mechanism.event, acknowledged=request.acknowledged),
                contribute=self._contribute,
            ).answer(request)
        except BudgetExhaustedError:
            return self._without_arrays(request, "exhausted", self._account())
        except (SecureSumError, PrivacyError) as error:
            logger.error("The client refuses a step of a secure sum: %s", error)
            return self._without_arrays(request, "refused")

    def release_metrics(self, request: EvaluateRequest) -> EvaluateReply:
        """The noised sum of measures of the client's validation slates, charged before any is read; or a code.

        A client without a slate answers with noise on zeros. Asked again, it is as `train`.
        """
        reason = self._fault(request) or self._untimely(request)
        if reason is not None:
            logger.info("A request was turned away with code %s.", reason)
            return self._without_metrics(request, reason)
        try:
            return self._release(request)
        except BudgetExhaustedError:
            return self._without_metrics(request, "exhausted", self._account())
        except PrivacyError as error:
            logger.error("The client's policy refuses to release measures: %s", error)
            return self._without_metrics(request, "refused")

    def evaluate(
        self, parameters: Mapping[str, np.ndarray], split: Split, *, ranker: Ranker | None = None
    ) -> dict[str, float]:
        """Exact means over the client's slates, in full length. LOCAL: for the owner or a simulation, never sent.

        ranker: a personalised one in place of the shared `parameters`. Keys: each of METRICS (NaN where no slate
        counts), `slates` that counted, and `left_out` for those with nothing relevant.
        """
        workspace = self.workspace
        slates = workspace.dataset.slates(self.client_id, split)
        if ranker is None:
            ranker = workspace.ranker.to(workspace.device).eval()
            load_parameters(ranker, parameters)
        values: dict[str, list[np.ndarray]] = {name: [] for name in METRICS}
        for start in range(0, len(slates), EVALUATION_BATCH):
            batch = collate(slates[start : start + EVALUATION_BATCH], history_length=ranker.model.history_length)
            inputs = gather(batch, workspace.features, ranker.model)
            with torch.inference_mode():
                scores = ranker({name: tensor.to(workspace.device) for name, tensor in inputs.items()}).cpu().numpy()
            measured = slate_metrics(scores, batch.relevance.numpy(), batch.candidate_mask.numpy())
            for name in METRICS:
                values[name].append(measured[name])
        joined = {name: np.concatenate([*parts, np.empty(0)]) for name, parts in values.items()}
        counted = ~np.isnan(joined[METRICS[0]])
        means = {name: float(value[counted].mean()) if counted.any() else math.nan for name, value in joined.items()}
        return {**means, "slates": float(counted.sum()), "left_out": float((~counted).sum())}

    def rank(
        self,
        parameters: Mapping[str, np.ndarray],
        query: str,
        *,
        top: int = 10,
        events: Sequence[Event] = (),
        user: int | None = None,
    ) -> list[Ranked]:
        """The catalogue's best items for `query` with a person's newest behaviour, best first. LOCAL.

        events: what the person did since, added to what the slates tell. user: whose behaviour, within the client;
        the one of the newest slate by default.
        """
        splits: tuple[Split, ...] = ("train", "validation", "test")
        slates = [slate for split in splits for slate in self.workspace.dataset.slates(self.client_id, split)]
        if user is None and slates:
            user = max(slates, key=lambda slate: slate.time_days).user
        history, now = history_of([slate for slate in slates if slate.user == user])
        now = max([now, *(event.time_days for event in events)])
        return self.workspace.index(parameters).rank(query, [*history, *events], now_days=now, top=top)

    def _untimely(self, request: EvaluateRequest) -> Code | None:
        """The code for measures that nobody planned for."""
        metrics = self.workspace.settings.privacy.metrics
        return "bad_request" if metrics is None or request.round_number % metrics.every else None

    def _fault(self, request: Request, *, model: bool = True) -> Code | None:
        """The code for a request that can't be served, before anything private is touched. model: it brings one."""
        settings = self.workspace.settings
        if request.config_sha256 != settings.agreed_sha256:
            return "config_mismatch"
        if not 1 <= request.round_number <= settings.federation.rounds:
            return "bad_request"  # the noise was planned for that many rounds
        if not model:
            return None if not request.parameters else "bad_request"
        if check_update(request.parameters, self.workspace.shapes) is not None:
            return "bad_request"
        clip = request.parameters.get(CLIP)
        if clip is not None and not CLIP_BOUNDS[0] <= clip.item() <= CLIP_BOUNDS[1]:
            return "bad_request"
        trained = (array for name, array in request.parameters.items() if name != CLIP)
        if any(np.abs(array).max(initial=0.0) > PARAMETER_LIMIT for array in trained):
            return "bad_request"
        return None

    def _in_sum(self, request: SumRequest) -> TrainRequest:
        """The train request that a secure sum's step carries; without a model but for `mask`."""
        return TrainRequest(
            run=request.run,
            round_number=request.round_number,
            config_sha256=request.config_sha256,
            parameters=model_from(request.arrays),
            ledger_count=request.ledger_count,
            ledger_head=request.ledger_head,
        )

    def _contribute(self, request: SumRequest, round_: SumRound) -> tuple[np.ndarray, float, Head]:
        """(this device's residues with its share of the noise, epsilon, head): charged, then trained, as `_train`."""
        workspace, mechanism, asked = self.workspace, self.workspace.mechanism, self._in_sum(request)
        if not isinstance(mechanism, DistributedUpdate):
            raise PrivacyError("A secure sum is for privacy.noise_at: distributed alone.")
        digest, now = round_hash(asked.parameters, round_), workspace.now_days()
        noise: Noise = SecureNoise()
        if workspace.settings.privacy.noise == "seeded":
            epsilon, noise = self._seeded(asked, digest, mechanism.event)
        else:
            # a charge without a kept answer belongs to a training that was cut short, whose mask was never used
            epsilon = self._claim(asked, digest, mechanism.event)
        return self._update(asked, noise, mechanism.for_round(round_), now)[VALUES], epsilon, self._head()

    def _train(self, request: TrainRequest) -> TrainReply:
        workspace, mechanism = self.workspace, self.workspace.mechanism
        if isinstance(mechanism, DistributedUpdate):
            raise PrivacyError("Under privacy.noise_at: distributed an update leaves the client in a secure sum alone.")
        # what could refuse does so before the charge
        prepare(
            workspace.ranker,
            workspace.features,
            training=workspace.settings.training,
            privacy=mechanism,
            device=workspace.device,
        )
        digest, now = input_hash(request.parameters), workspace.now_days()
        if workspace.settings.privacy.mechanism == "no_privacy":
            return self._compute(request, self._unprotected(request, digest), SeededNoise(0), now)
        if workspace.settings.privacy.noise == "seeded":
            return self._repeatable(request, digest)
        kept = workspace.outbox.get(
            TrainReply, run=request.run, client=self.client_id, round_number=request.round_number, input_hash=digest
        )
        if kept is not None:
            return kept
        # A charge without a kept reply belongs to a training that was cut short, or to another process: its noise
        # may have been seen.
        epsilon = self._claim(request, digest, mechanism.event)
        reply = self._compute(request, epsilon, SecureNoise(), now)
        return workspace.outbox.put(reply, run=request.run, input_hash=digest)

    def _repeatable(self, request: TrainRequest, digest: str) -> TrainReply:
        """With seeded noise, training anew gives the same bytes: one draw of noise, so one charge, however often asked.

        The noise is bound to the data's identity, the client, the run, the round and the input: another of them meets
        other noise. It needs data that do not change under their name, which a simulation has; a deployment refuses
        the seed.
        """
        epsilon, noise = self._seeded(request, digest, self.workspace.mechanism.event)
        return self._compute(request, epsilon, noise)

    def _seeded(self, request: Request, digest: str, event: AccountedEvent) -> tuple[float, Noise]:
        """(epsilon with the charge, the noise that belongs to it)."""
        settings, identity = self.workspace.settings, self._identity()
        if self.workspace.deployment:
            raise PrivacyError("Noise from a seed is for simulations only; set privacy.noise: secure.")
        epsilon = self._charge(request, digest, event)
        names = (identity, self.client_id, request.run, request.round_number, digest)
        return epsilon, SeededNoise(settings.seed, *names, *(("evaluate",) if kind_of(request) == "evaluate" else ()))

    def _release(self, request: EvaluateRequest) -> EvaluateReply:
        workspace, release = self.workspace, self._metric_release()
        digest, now = input_hash(request.parameters), workspace.now_days()
        if workspace.settings.privacy.noise == "seeded":
            return self._measured(request, *self._seeded(request, digest, release.event))
        kept = workspace.outbox.get(
            EvaluateReply, run=request.run, client=self.client_id, round_number=request.round_number, input_hash=digest
        )
        if kept is not None:
            return kept
        epsilon = self._claim(request, digest, release.event)
        reply = self._measured(request, epsilon, SecureNoise(), now)
        return workspace.outbox.put(reply, run=request.run, input_hash=digest)

    def _measured(
        self, request: EvaluateRequest, epsilon: float, noise: Noise, charged_days: float | None = None
    ) -> EvaluateReply:
        workspace, release = self.workspace, self._metric_release()
        entries, head = self._head()
        slates = workspace.slates(self.client_id, "validation", charged_days=charged_days)
        with workspace.training:
            load_parameters(workspace.ranker, request.parameters)
            values = slate_values(workspace.ranker, workspace.features, slates, device=workspace.device)
        owner = np.array([slate.user for slate in slates], np.int64)
        return EvaluateReply(
            code="ok",
            client=self.client_id,
            round_number=request.round_number,
            metrics={METRIC_SUM: release.release(values, noise, owner=owner)},
            epsilon=epsilon,
            ledger_count=entries,
            ledger_head=head,
        )

    def _metric_release(self) -> MetricRelease:
        release = self.workspace.release
        if release is None:
            raise PrivacyError("Nothing is released of this client's measures; set privacy.metrics.")
        return release

    def _unprotected(self, request: TrainRequest, digest: str) -> float:
        """Epsilon inf; written into a ledger that is kept, so that nobody promises anything about this data later."""
        if not self.workspace.throwaway:
            self._charge(request, digest, self.workspace.mechanism.event)
        return math.inf

    def _compute(
        self, request: TrainRequest, epsilon: float, noise: Noise, charged_days: float | None = None
    ) -> TrainReply:
        update = self._update(request, noise, self.workspace.mechanism, charged_days)
        entries, head = self._head()
        return TrainReply(
            code="ok",
            client=self.client_id,
            round_number=request.round_number,
            update=update,
            epsilon=epsilon,
            ledger_count=entries,
            ledger_head=head,
        )

    def _update(
        self, request: TrainRequest, noise: Noise, mechanism: Mechanism, charged_days: float | None = None
    ) -> dict[str, np.ndarray]:
        workspace, settings = self.workspace, self.workspace.settings
        with workspace.training:
            return local_update(
                workspace.ranker,
                request.parameters,
                workspace.batch(self.client_id, "train", charged_days=charged_days),
                workspace.features,
                training=settings.training,
                privacy=mechanism,
                noise=noise,
                shuffle=numpy_generator(settings.seed, "shuffle", self.client_id, request.round_number),
                steps=settings.training.local_steps,
                clip=request.parameters[CLIP].item() if CLIP in request.parameters else settings.privacy.max_grad_norm,
                proximal_mu=settings.federation.proximal_mu,
                device=workspace.device,
            )

    def _charge(self, request: Request, digest: str, event: AccountedEvent) -> float:
        """See Account.charge."""
        charge = next(self._charges(request, digest))
        return self._account().charge(charge, event, plan=self.workspace.plan, acknowledged=request.acknowledged)

    def _claim(self, request: Request, digest: str, event: AccountedEvent) -> float:
        """See Account.claim."""
        return self._account().claim(
            self._charges(request, digest), event, plan=self.workspace.plan, acknowledged=request.acknowledged
        )

    def _charges(self, request: Request, digest: str) -> Iterator[str]:
        """The ids of this request's charges: the first, and one for each attempt after it."""
        identity, kind = self._identity(), kind_of(request)
        for attempt in count():
            yield charge_id(identity, request.run, request.round_number, self.client_id, digest, attempt, kind=kind)

    def _head(self) -> Head:
        """Where the ledger stands, for the server to acknowledge; a run that writes none has none."""
        if self.workspace.throwaway and self.workspace.settings.privacy.mechanism == "no_privacy":
            return NO_HEAD
        return self._account().head()

    def _identity(self) -> str:
        return self.workspace.dataset.data_identity(self.client_id)

    def _account(self) -> Account:
        return self.workspace.ledger.account(self._identity(), self.workspace.policy)

    def _without_update(self, request: TrainRequest, code: Code, account: Account | None = None) -> TrainReply:
        """account: that of the client where the code says how it stands."""
        return TrainReply(
            code=code, client=self.client_id, round_number=request.round_number, update={}, **_standing(account)
        )

    def _without_arrays(self, request: SumRequest, code: Code, account: Account | None = None) -> SumReply:
        return SumReply(
            code=code,
            client=self.client_id,
            round_number=request.round_number,
            step=request.step,
            arrays={},
            **_standing(account),
        )

    def _without_metrics(self, request: EvaluateRequest, code: Code, account: Account | None = None) -> EvaluateReply:
        return EvaluateReply(
            code=code, client=self.client_id, round_number=request.round_number, metrics={}, **_standing(account)
        )


def kind_of(request: Request) -> str:
    """What a request asks for: a part of its charge's name, of its noise's and of its reply's place."""
    return "evaluate" if isinstance(request, EvaluateRequest) else "train"


def _standing(account: Account | None) -> dict[str, Any]:
    """epsilon and head; nothing where the ledger was not asked."""
    entries, head = NO_HEAD if account is None else account.head()
    epsilon = 0.0 if account is None else account.epsilon()
    return {"epsilon": epsilon, "ledger_count": entries, "ledger_head": head}
