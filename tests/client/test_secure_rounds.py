"""At stake: a client that says two things in one round, or whose keys are another's: its masks would come off."""

import dataclasses
import os
import threading

import numpy as np
import pytest

from client import secure_keys
from client.secure_store import SecureStore
from client.vault import Vault
from client.workspace import make_workspace
from mmrank.errors import ConfigError, SecureSumError
from mmrank.privacy.accountant import epsilon
from mmrank.protocol import NO_HEAD, SumRequest
from mmrank.secure_sum import arrays
from mmrank.secure_sum.keys import Roster
from tests.engines.secure_federation import settings_of
from tests.federations import small_settings


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


class Cohort:
    """Vaults of eight devices, led step by step."""

    def __init__(self, folder, cache, **privacy):
        self.settings = settings_of(cache, **privacy)
        self.folder = folder
        self.restart()
        self.start = {name: array.copy() for name, array in self.workspace.shapes.items()}
        names = list(self.workspace.dataset.client_ids)
        self.names = names
        self.round_ = self.workspace.mechanism.shares.sum_round(run="run", round_number=1, cohort=names)

    def restart(self):
        """Another process over the same disk."""
        self.workspace = make_workspace(self.settings, state_dir=self.folder)

    def ask(self, client, step, given, **fields):
        values = {"run": "run", "round_number": 1, "config_sha256": self.settings.agreed_sha256, **fields}
        return Vault(self.workspace, client).take_part(SumRequest(step=step, arrays=given, **values))

    def advertise(self):
        given = arrays.cohort_to(self.names)
        return {name: arrays.advert_from(self.ask(name, "advertise", given).arrays) for name in self.names}

    def share(self, adverts):
        given = arrays.adverts_to(adverts, self.round_)
        return {name: arrays.shares_from(self.ask(name, "share", given).arrays, self.round_) for name in self.names}

    def inbox(self, shares, name, model=None):
        inbox = {sender: shares[sender].sealed[name] for sender in self.names if sender != name}
        return arrays.inbox_to(inbox, self.round_, model or self.start)

    def epsilon(self, client):
        identity = self.workspace.dataset.data_identity(client)
        return self.workspace.ledger.account(identity, self.workspace.policy).epsilon()


FIRST = "device-000000"


def same(one, other):
    return one.code == other.code and all(
        one.arrays[name].tobytes() == other.arrays[name].tobytes() for name in one.arrays
    )


def test_a_round_has_one_cohort(tmp_path, cache):
    cohort = Cohort(tmp_path, cache)
    first = cohort.ask(FIRST, "advertise", arrays.cohort_to(cohort.names))
    assert first.code == "ok"
    fewer = arrays.cohort_to(cohort.names[:-1])
    assert cohort.ask(FIRST, "advertise", fewer).code == "refused"
    cohort.restart()
    assert cohort.ask(FIRST, "advertise", fewer).code == "refused"
    assert same(cohort.ask(FIRST, "advertise", arrays.cohort_to(cohort.names)), first), "the same is answered as before"
    assert cohort.ask(FIRST, "advertise", fewer, round_number=2).code == "ok"
    assert cohort.ask(FIRST, "advertise", fewer, run="another").code == "ok"


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_each_step_is_answered_once_and_again_as_it_was(tmp_path, cache, noise):
    cohort = Cohort(tmp_path, cache, noise=noise)
    adverts = cohort.advertise()
    shares = cohort.share(adverts)
    cost = epsilon([cohort.workspace.mechanism.event], 1e-5)
    assert cohort.epsilon(FIRST) == 0.0, "keys and shares cost nothing"
    asked = cohort.inbox(shares, FIRST)
    masked = cohort.ask(FIRST, "mask", asked)
    assert (masked.code, masked.epsilon, cohort.epsilon(FIRST)) == ("ok", cost, cost)
    cohort.restart()
    assert same(cohort.ask(FIRST, "mask", asked), masked)
    other_model = {name: array + np.float32(0.5) for name, array in cohort.start.items()}
    assert cohort.ask(FIRST, "mask", cohort.inbox(shares, FIRST, other_model)).code == "refused"
    assert (
        cohort.ask(FIRST, "share", arrays.adverts_to(dict(list(adverts.items())[:6]), cohort.round_)).code == "refused"
    )
    assert cohort.epsilon(FIRST) == cost, "one mask, one charge"
    survivors = arrays.survivors_to(cohort.names, cohort.round_)
    signed = cohort.ask(FIRST, "confirm", survivors)
    assert same(cohort.ask(FIRST, "confirm", survivors), signed)
    assert cohort.ask(FIRST, "confirm", arrays.survivors_to(cohort.names[:6], cohort.round_)).code == "refused"
    assert cohort.ask(FIRST, "unmask", arrays.confirmations_to({FIRST: bytes(64)}, cohort.round_)).code == "refused"


def test_a_ledger_that_lost_what_was_acknowledged_enters_no_sum(tmp_path, cache):
    cohort = Cohort(tmp_path, cache)
    ahead = {"ledger_count": 1, "ledger_head": "0" * 64}
    refused = cohort.ask(FIRST, "advertise", arrays.cohort_to(cohort.names), **ahead)
    assert (refused.code, refused.head) == ("refused", NO_HEAD)
    shares = cohort.share(cohort.advertise())
    asked = cohort.inbox(shares, FIRST)
    assert cohort.ask(FIRST, "mask", asked, **ahead).code == "refused"
    assert cohort.epsilon(FIRST) == 0.0
    masked = cohort.ask(FIRST, "mask", asked)
    account = cohort.workspace.ledger.account(cohort.workspace.dataset.data_identity(FIRST), cohort.workspace.policy)
    assert masked.head == account.head() != NO_HEAD
    cohort.restart()
    assert cohort.ask(FIRST, "mask", asked).head == masked.head, "the kept answer, head and all"


def test_a_share_that_does_not_open_costs_nothing(tmp_path, cache):
    cohort = Cohort(tmp_path, cache)
    shares = cohort.share(cohort.advertise())
    spoiled = cohort.inbox(shares, FIRST)
    spoiled["inbox/rows"][2, 5] ^= 1
    assert cohort.ask(FIRST, "mask", spoiled).code == "refused"
    assert cohort.epsilon(FIRST) == 0.0
    assert cohort.ask(FIRST, "mask", cohort.inbox(shares, FIRST)).code == "ok"


def test_a_training_that_was_cut_short_is_charged_again_and_its_mask_was_never_used(tmp_path, cache, monkeypatch):
    cohort = Cohort(tmp_path, cache, noise="secure")
    shares = cohort.share(cohort.advertise())
    asked = cohort.inbox(shares, FIRST)

    def full(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(SecureStore, "advance", full)
        with pytest.raises(OSError, match="no space"):
            cohort.ask(FIRST, "mask", asked)
    cohort.restart()
    assert cohort.ask(FIRST, "mask", asked).code == "ok"
    assert cohort.epsilon(FIRST) == epsilon([cohort.workspace.mechanism.event] * 2, 1e-5)


def test_two_processes_that_are_asked_at_once_send_one_vector(tmp_path, cache):
    cohort = Cohort(tmp_path, cache, noise="secure")
    shares = cohort.share(cohort.advertise())
    asked, answers = cohort.inbox(shares, FIRST), []
    others = [make_workspace(cohort.settings, state_dir=tmp_path) for _ in range(2)]
    gate = threading.Barrier(2)

    def ask(workspace):
        gate.wait()
        request = SumRequest(
            run="run", round_number=1, config_sha256=cohort.settings.agreed_sha256, step="mask", arrays=asked
        )
        answers.append(Vault(workspace, FIRST).take_part(request))

    threads = [threading.Thread(target=ask, args=(workspace,)) for workspace in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    vectors = {answer.arrays["masked"].tobytes() for answer in answers if answer.code == "ok"}
    assert len(vectors) == 1
    assert {answer.code for answer in answers} <= {"ok", "refused"}


def test_who_opted_out_makes_no_key(tmp_path, cache):
    cohort = Cohort(tmp_path, cache)
    workspace = cohort.workspace
    workspace.ledger.account(workspace.dataset.data_identity(FIRST), workspace.policy).opt_out()
    assert cohort.ask(FIRST, "advertise", arrays.cohort_to(cohort.names)).code == "refused"


def test_an_update_leaves_in_a_sum_alone_and_a_sum_is_for_distributed_noise_alone(tmp_path, cache):
    cohort = Cohort(tmp_path / "one", cache)
    with pytest.raises(Exception, match="secure sum alone"):
        cohort.workspace.mechanism.release(cohort.start, clip=0.5, noise=None)
    with pytest.raises(Exception, match="clip=9.0"):
        cohort.workspace.mechanism.for_round(cohort.round_).release(cohort.start, clip=9.0, noise=None)
    plain = small_settings(cache, dataset={"clients": "devices"})
    workspace = make_workspace(plain, state_dir=tmp_path / "two")
    request = SumRequest(
        run="run",
        round_number=1,
        config_sha256=plain.agreed_sha256,
        step="advertise",
        arrays=arrays.cohort_to(cohort.names),
    )
    assert Vault(workspace, FIRST).take_part(request).code == "bad_request"


def test_a_row_goes_forward_only_and_secrets_end_with_the_round(tmp_path, cache):
    cohort = Cohort(tmp_path, cache)
    cohort.advertise()
    store = cohort.workspace.secure_store
    row = store.find("run", FIRST, 1)
    assert (row.stage, row.cohort) == ("advertised", tuple(sorted(cohort.names)))
    assert store.database.path.stat().st_mode & 0o077 == 0
    assert "state" not in repr(row)
    reply = cohort.ask(FIRST, "advertise", arrays.cohort_to(cohort.names))
    request = SumRequest(run="run", round_number=1, config_sha256="", step="share", arrays={})
    with pytest.raises(SecureSumError, match="no longer masked"):
        store.advance("masked", "confirmed", b"", request, reply)
    with pytest.raises(SecureSumError, match="entered round 1 before"):
        store.enter(cohort.round_, "advertised", b"", dataclasses.replace(request, step="advertise"), reply)
    assert store.find("run", FIRST, 1) == row


def test_of_older_rounds_the_refusal_stays_and_no_secret(tmp_path, cache):
    cohort = Cohort(tmp_path, cache)
    given = arrays.cohort_to(cohort.names)
    assert cohort.ask(FIRST, "advertise", given).code == "ok"
    secret = cohort.workspace.secure_store.find("run", FIRST, 1).state
    for run in ("b", "c"):
        assert cohort.ask(FIRST, "advertise", given, run=run).code == "ok"
    store = cohort.workspace.secure_store
    assert [bool(store.find(run, FIRST, 1).state) for run in ("run", "b", "c")] == [False, True, True]
    for step, asked in (("advertise", given), ("share", {})):
        assert cohort.ask(FIRST, step, asked).code == "refused"
    store.database.close()
    files = list(tmp_path.glob("secure-sums.sqlite*"))
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    assert not any(secret in path.read_bytes() for path in files)


def test_an_identity_is_a_file_of_its_owner_and_never_overwritten(tmp_path):
    path = tmp_path / "identity"
    public = secure_keys.new_identity(path)
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="never overwritten"):
        secure_keys.new_identity(path)
    assert secure_keys.read_identity(path).public.hex() == public
    os.chmod(path, 0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        secure_keys.read_identity(path)
    os.chmod(path, 0o600)
    path.write_text("no key")
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        secure_keys.read_identity(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["identity"]


@pytest.mark.parametrize("seed", [7, None])
def test_a_simulations_identities_are_the_same_for_every_process(tmp_path, seed):
    one = secure_keys.simulated_keys(tmp_path, ["a", "b"], seed=seed)
    other = secure_keys.simulated_keys(tmp_path, ["a", "b"], seed=seed)
    assert one.identity("a").public == other.identity("a").public == one.roster.identities["a"]
    assert one.identity("a").public != one.identity("b").public
    elsewhere = secure_keys.simulated_keys(tmp_path / "else", ["a", "b"], seed=seed)
    assert (elsewhere.roster == one.roster) == (seed == 7)


def test_a_real_node_brings_its_identity_and_roster(tmp_path, cache):
    settings = settings_of(cache, noise="secure", ledger=str(tmp_path / "kept.sqlite"), budget_epsilon=10.0)
    with pytest.raises(ConfigError, match="identity and roster in the node's configuration"):
        make_workspace(settings, state_dir=tmp_path / "state", deployment=True)
    public = secure_keys.new_identity(tmp_path / "identity")
    Roster({FIRST: bytes.fromhex(public)}).write(tmp_path / "roster.json")
    workspace = make_workspace(
        settings,
        state_dir=tmp_path / "state",
        deployment=True,
        identity=tmp_path / "identity",
        roster=tmp_path / "roster.json",
    )
    assert Vault(workspace, FIRST).enrol().client == FIRST
    assert not (tmp_path / "state" / "identities.secret").exists()
    names = [f"device-{row:06d}" for row in range(8)]
    request = SumRequest(
        run="run",
        round_number=1,
        config_sha256=settings.agreed_sha256,
        step="advertise",
        arrays=arrays.cohort_to(names),
    )
    assert Vault(workspace, FIRST).take_part(request).code == "ok"
    assert Vault(workspace, "device-000001").take_part(request).code == "refused", "it is not this node's name"
