"""At stake: noise from a seed can be subtracted by whoever knows the seed; no real client may ever draw it."""

import dataclasses
import typing

import numpy as np
import pytest

import client.vault
from client.vault import Vault
from mmrank.errors import ConfigError, PrivacyError
from mmrank.settings import UNITS, PrivacySettings, parse
from tests.client.shop import ToyDataset, toy_request, toy_settings, toy_workspace

REAL = {"noise": "secure", "ledger": "kept.sqlite", "budget_epsilon": 1000.0}
MECHANISMS = sorted(
    set(typing.get_args(typing.get_type_hints(PrivacySettings)["mechanism"])) - {"no_privacy"}
)  # a new one is tested on arrival


class Devices(ToyDataset):
    """The same shop, one person a client."""

    def kind(self, client_id):
        return "device"


def deployed(tmp_path, features, **changes):
    settings = toy_settings(**{**REAL, "ledger": str(tmp_path / "kept.sqlite"), **changes})
    dataset = Devices() if settings.privacy.unit == "client" else ToyDataset()
    return toy_workspace(tmp_path / "state", features, settings, dataset=dataset, deployment=True)


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_no_mechanism_takes_a_seed_in_a_deployment(tmp_path, features, mechanism):
    assert mechanism in MECHANISMS
    with pytest.raises(PrivacyError, match="privacy.noise: secure"):
        deployed(tmp_path, features, mechanism=mechanism, unit=UNITS[mechanism][0], noise="seeded")


@pytest.mark.parametrize("noise", ["Seeded", "seed", "", "0", None, 7])
def test_a_source_of_another_name_is_refused(noise):
    with pytest.raises(ConfigError):
        parse({"privacy": {"mechanism": "dp_sgd", "noise_multiplier": 1.0, "noise": noise}})


def test_the_source_is_secure_where_nothing_is_said():
    assert PrivacySettings().noise == "secure"
    assert parse({}).privacy.noise == "secure"


def test_settings_that_change_after_the_check_do_not_bring_the_seed_back(tmp_path, features):
    workspace = deployed(tmp_path, features)
    workspace.settings = dataclasses.replace(
        workspace.settings, privacy=dataclasses.replace(workspace.settings.privacy, noise="seeded")
    )
    request = dataclasses.replace(toy_request(workspace), config_sha256=workspace.settings.agreed_sha256)
    reply = Vault(workspace, "large").train(request)
    assert reply.code == "refused"
    assert not reply.update
    account = workspace.ledger.account(workspace.dataset.data_identity("large"), workspace.policy)
    assert account.events() == ()


def test_a_real_client_draws_from_the_secure_source_alone(tmp_path, features, monkeypatch):
    def planted(*names):
        raise AssertionError("a seeded source was made")

    monkeypatch.setattr(client.vault, "SeededNoise", planted)
    replies = []
    for place in ("a", "b"):
        workspace = deployed(tmp_path / place, features)
        replies.append(Vault(workspace, "large").train(toy_request(workspace)))
    assert [reply.code for reply in replies] == ["ok", "ok"]
    first, second = (np.concatenate([array.ravel() for array in reply.update.values()]) for reply in replies)
    assert not np.array_equal(first, second)
