"""At stake: a part that is fitted without noise must leave no trace in anything that is shared."""

import numpy as np
import pytest
import torch

from client.personal import personalised
from client.vault import Vault
from mmrank.errors import ConfigError
from mmrank.randomness import numpy_generator
from mmrank.ranker import build_ranker, parameters_of
from mmrank.settings import Settings
from tests.client.shop import toy_request, toy_settings, toy_workspace
from tests.toys import toy_model

OWN = ("user_head", "style")


def settings(**privacy) -> Settings:
    base = toy_settings(**privacy)
    return Settings(**{**vars(base), "model": toy_model(personal=OWN)})


def bits(update):
    return {name: array.tobytes() for name, array in update.items()}


@pytest.mark.parametrize("privacy", [{}, {"mechanism": "no_privacy"}], ids=["dp_sgd", "no_privacy"])
def test_no_request_and_no_reply_holds_a_personal_part(tmp_path, features, privacy):
    workspace = toy_workspace(tmp_path, features, settings(**privacy))
    assert not any(name.startswith(OWN) for name in workspace.shapes)
    reply = Vault(workspace, "large").train(toy_request(workspace))
    assert reply.code == "ok"
    assert set(reply.update) == set(workspace.shapes)


@pytest.mark.parametrize("privacy", [{}, {"mechanism": "no_privacy"}], ids=["dp_sgd", "no_privacy"])
def test_what_was_fitted_at_home_changes_no_bit_of_what_is_sent(tmp_path, features, privacy):
    plain = toy_workspace(tmp_path / "plain", features, settings(**privacy))
    fitted = toy_workspace(tmp_path / "fitted", features, settings(**privacy))
    request = toy_request(plain)
    Vault(fitted, "large").personalise(request.parameters, steps=20)
    first, second = (Vault(workspace, "large").train(request) for workspace in (plain, fitted))
    assert bits(first.update) == bits(second.update)


def test_the_shared_part_stays_as_it_was_and_the_personal_one_moves(tmp_path, features):
    workspace = toy_workspace(tmp_path, features, settings())
    shared = {name: array + np.float32(0.01) for name, array in workspace.shapes.items()}
    mine = Vault(workspace, "large").personalise(shared, steps=20)
    for name, array in shared.items():
        assert np.array_equal(mine.state_dict()[name].numpy(), array), name
    began = build_ranker(workspace.settings.model, seed=workspace.settings.seed).state_dict()
    assert all(not torch.equal(mine.state_dict()[name], began[name]) for name in began if name.startswith(OWN))
    assert Vault(workspace, "large").evaluate(shared, "test", ranker=mine)["slates"] > 0


def test_a_client_without_slates_keeps_its_parts_as_they_began(tmp_path, features):
    workspace = toy_workspace(tmp_path, features, settings())
    mine = Vault(workspace, "empty").personalise(workspace.shapes, steps=20)
    began = build_ranker(workspace.settings.model, seed=workspace.settings.seed).state_dict()
    assert all(torch.equal(mine.state_dict()[name], began[name]) for name in began if name.startswith(OWN))


@pytest.mark.parametrize("trainable", ["user_head", "user_head.weight", "user"])
def test_a_part_that_is_both_shared_and_personal_is_refused(trainable):
    with pytest.raises(ConfigError, match="would show in what is shared"):
        toy_model(personal=("user_head",), trainable=(trainable, "prior"))


def test_nothing_personal_is_nothing_to_fit(tmp_path, features):
    workspace = toy_workspace(tmp_path, features)
    with pytest.raises(ConfigError, match="model.personal"):
        personalised(
            workspace.ranker,
            parameters_of(workspace.ranker),
            workspace.batch("large", "train"),
            features,
            training=workspace.settings.training,
            steps=1,
            shuffle=numpy_generator(0, "personal"),
        )
    with pytest.raises(ConfigError, match="personal='heads'"):
        build_ranker(toy_model(personal=("heads",)), seed=0)
