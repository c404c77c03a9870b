"""Rounds of clients that nobody sampled: correlated noise for the whole run, charged once before its first round.

No amplification is claimed, so it does not matter who chose the cohorts or who knows them. What matters is that no
client takes part too often or too soon, and that a round's noise meets one sum only. Both are written beside the ledger
before anything is asked or released: a run's folder that is copied or put back must not forget them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from mmrank.errors import PrivacyError
from mmrank.privacy.client_update import ClientUpdate, sum_of
from mmrank.privacy.correlated import CorrelatedNoise, digest_of
from mmrank.privacy.database import Database
from mmrank.privacy.ledger import Account, charge_id
from mmrank.privacy.noise import Noise, SecureNoise, SeededNoise
from mmrank.privacy.noise_file import NoiseFile
from mmrank.privacy.participation import Participation
from mmrank.protocol import TrainRequest
from mmrank.settings import Settings

logger = logging.getLogger(__name__)

SECRET = "noise.secret"
"""The state of the noise, in the run's folder, its owner's alone: whoever reads it can subtract the noise."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS participations (run TEXT PRIMARY KEY, state TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS sums (
    run TEXT NOT NULL, round INTEGER NOT NULL, digest TEXT NOT NULL, released INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, round)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS releases (
    run TEXT NOT NULL, round INTEGER NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (run, round)) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The server's half of `client_update` with `cohorts: stream`. store: what must not be forgotten of a run."""

    settings: Settings
    mechanism: ClientUpdate
    account: Account
    store: Database
    secret: Path
    fewest: ClassVar[int] = 1

    def asks(self, parameters: Mapping[str, np.ndarray], clip_norm: float) -> dict[str, np.ndarray]:
        """What the cohort is sent: the model."""
        return dict(parameters)

    def charge(self, request: TrainRequest) -> None:
        """Charge the whole run, once. Raises BudgetExhaustedError where it can't be paid."""
        name = self.account.key
        self.account.charge(charge_id(name, request.run, 0, name, "stream", 0), self.mechanism.population_event)

    def draw(self, clients: Sequence[str], request: TrainRequest) -> list[str]:
        """At most cohort_size of those who may take part now; the same cohort where the round was begun before.

        Nobody for a round that lies behind what was begun: it is given up, and its participations count.
        """
        with self.store.write() as connection:
            row = connection.execute("SELECT state FROM participations WHERE run = ?", (request.run,)).fetchone()
            begun = Participation.of(self._plan)
            begun = begun if row is None else begun.restored(json.loads(row[0]))
            if begun.round_number >= request.round_number:
                there = set(clients)
                again = begun.round_number == request.round_number
                return [c for c in begun.cohort_of(request.round_number) if c in there] if again else []
            able = begun.eligible(clients, request.round_number)
            order = np.argsort(self._noise("cohort", request).uniform(len(able)), kind="stable")
            cohort = sorted(able[row] for row in order[: self.mechanism.cohort_size].tolist())
            state = json.dumps(begun.admit(cohort, request.round_number).to_dict())
            connection.execute("INSERT OR REPLACE INTO participations (run, state) VALUES (?, ?)", (request.run, state))
        return cohort

    def aggregate(
        self,
        updates: Mapping[str, Mapping[str, np.ndarray]],
        parameters: Mapping[str, np.ndarray],
        clip_norm: float,
        request: TrainRequest,
    ) -> tuple[dict[str, np.ndarray] | None, float]:
        """(the noisy mean update float64, the clip); no mean where the round's noise belongs to another sum already."""
        total = sum_of(updates, parameters)
        flat = np.concatenate([total[name].ravel() for name in sorted(total)])
        with self._noise_of(request, size=len(flat)) as kept:
            if not self._bound(request, digest_of(flat)):
                logger.warning(
                    "Round %d is given up: its noise was bound to another sum, which may have been released.",
                    request.round_number,
                )
                if kept.round_number < request.round_number:  # the rounds after it need it behind them
                    kept.release(flat, self._noise("sum", request), round_number=request.round_number)
                return None, clip_norm
            noisy = kept.release(flat, self._noise("sum", request), round_number=request.round_number)
            if not self._released(request, digest_of(noisy)):
                logger.warning("Round %d is given up: its sum left with another noise.", request.round_number)
                return None, clip_norm
        mean, start = {}, 0
        for name in sorted(total):
            size = total[name].size
            mean[name] = noisy[start : start + size].reshape(total[name].shape) / self.mechanism.cohort_size
            start += size
        return mean, clip_norm

    @property
    def _plan(self) -> CorrelatedNoise:
        if self.mechanism.stream is None:
            raise PrivacyError("Expected a mechanism with privacy.cohorts: stream.")
        return self.mechanism.stream

    def _bound(self, request: TrainRequest, digest: str) -> bool:
        """Whether the round's noise is this sum's: written before the noise is drawn, once and for all."""
        key = (request.run, request.round_number)
        with self.store.write() as connection:
            connection.execute("INSERT OR IGNORE INTO sums (run, round, digest) VALUES (?, ?, ?)", (*key, digest))
            row = connection.execute("SELECT digest FROM sums WHERE run = ? AND round = ?", key).fetchone()
        return row[0] == digest

    def _released(self, request: TrainRequest, digest: str) -> bool:
        """Whether the round's sum leaves with this noise: written before it does, once and for all.

        Another copy of the folder may be at the same round, or may have been while this one was stopped.
        """
        key = (request.run, request.round_number)
        with self.store.write() as connection:
            connection.execute("INSERT OR IGNORE INTO releases (run, round, digest) VALUES (?, ?, ?)", (*key, digest))
            row = connection.execute("SELECT digest FROM releases WHERE run = ? AND round = ?", key).fetchone()
            connection.execute("UPDATE sums SET released = 1 WHERE run = ? AND round = ?", key)
        return row[0] == digest

    def _noise_of(self, request: TrainRequest, *, size: int) -> NoiseFile:
        """The run's noise. Raises PrivacyError where its file is lost or older than what was released."""
        with self.store.read() as connection:
            begun, last = connection.execute(
                "SELECT COUNT(*), COALESCE(MAX(round * released), 0) FROM sums WHERE run = ?", (request.run,)
            ).fetchone()
        if begun == 0 and not self.secret.exists():
            return NoiseFile.begin(self.secret, self._plan, size=size, run=request.run)
        kept = NoiseFile.resume(self.secret, self._plan, size=size, run=request.run)
        if kept.round_number < last:
            at = kept.round_number
            kept.close()
            raise PrivacyError(
                f"{self.secret} stands at round {at}, and round {last} was released: it was put back, and would draw a "
                "second noise. Restore the newest state, or begin and charge a new run in another folder."
            )
        return kept

    def _noise(self, purpose: str, request: TrainRequest) -> Noise:
        if self.settings.privacy.noise == "secure":
            return SecureNoise()
        return SeededNoise(self.settings.seed, "stream", purpose, request.run, request.round_number)


def open_stream(settings: Settings, *, mechanism: ClientUpdate, account: Account, state_dir: Path) -> Stream:
    """The server's half of a run whose cohorts nobody sampled; what must not be forgotten lies beside the ledger."""
    ledger = account.ledger
    path = ledger.path.with_name(ledger.path.name + ".streams")
    return Stream(
        settings=settings,
        mechanism=mechanism,
        account=account,
        store=Database(path, _SCHEMA, durable=settings.privacy.ledger != "throwaway"),
        secret=state_dir / SECRET,
    )
