"""At stake: merchants and devices that join a real SuperLink, each with its own words, ledger and noise."""

import json

import numpy as np
import pytest
import yaml

from client.secure_keys import new_identity
from client.workspace import make_workspace
from mmrank.ranker import build_ranker, parameters_of
from server.checkpoint import read_model
from simulations._ledgers import show, verify
from tests.engines.deployment import bundle, deployed
from tests.engines.secure_federation import DISTRIBUTED
from tests.federations import PRIVATE, small_settings

pytestmark = pytest.mark.e2e


def agreed(settings, folder, client, **privacy):
    """What one node's operator agreed to, in a file of its own, with a ledger that is kept."""
    raw = settings.to_dict()
    raw["privacy"] |= {"ledger": str(folder / f"{client}.ledger.sqlite"), **privacy}
    path = folder / f"{client}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def finished(deployment, project, config, state, extra=""):
    status = deployment.run(project, f'config="{config}" state-dir="{state}" {extra}')
    assert status == "finished:completed", deployment.logs()
    return read_model(state / "model.safetensors")


def trained(settings, model):
    start = parameters_of(build_ranker(settings.model, seed=settings.seed))
    return any(np.any(model[name] != array) for name, array in start.items())


def test_merchants_train_over_a_superlink_and_keep_their_own_ledgers(tmp_path):
    settings = small_settings(
        tmp_path / "features",
        dataset={"clients": "merchants"},
        privacy={**PRIVATE, "noise": "secure", "budget_epsilon": 20.0},
        federation={"rounds": 2, "cohort_size": 2},
    )
    merchants = list(make_workspace(settings, state_dir=tmp_path / "none").dataset.client_ids)
    ledgers = {name: tmp_path / f"{name}.ledger.sqlite" for name in merchants}
    project = bundle(tmp_path / "project")
    with deployed(tmp_path / "flower") as deployment:
        for name in merchants:
            config = agreed(settings, tmp_path, name)
            deployment.supernode(name, {"config": config, "state-dir": tmp_path / name})
        server = agreed(settings, tmp_path, "server")
        model = finished(deployment, project, server, tmp_path / "server")
    assert trained(settings, model)
    assert not (tmp_path / "server.ledger.sqlite").exists()  # the server holds nobody's ledger
    for name, path in ledgers.items():
        (line,) = show(path)
        assert line["steps"] == 4, line  # two rounds of two local steps
        assert verify(path)["faults"] == []
        assert not (tmp_path / name / "client-errors.log").exists(), deployment.logs()
    assert len({show(path)[0]["epsilon"] for path in ledgers.values()}) == 1


def test_devices_sum_in_secret_over_a_superlink(tmp_path):
    devices = 4
    settings = small_settings(
        tmp_path / "features",
        dataset={"clients": "devices", "devices": devices},
        privacy={**DISTRIBUTED, "noise": "secure", "secure_threshold": 3, "budget_epsilon": 100.0},
        federation={"rounds": 1, "cohort_size": devices},
    )
    names = list(make_workspace(settings, state_dir=tmp_path / "none").dataset.client_ids)
    roster = tmp_path / "roster.json"
    roster.write_text(json.dumps({name: new_identity(tmp_path / f"{name}.identity") for name in names}))
    project = bundle(tmp_path / "project")
    with deployed(tmp_path / "flower") as deployment:
        for name in names:
            own = {"config": agreed(settings, tmp_path, name), "state-dir": tmp_path / name}
            deployment.supernode(name, own | {"identity": tmp_path / f"{name}.identity", "roster": roster})
        server = agreed(settings, tmp_path, "server")
        model = finished(deployment, project, server, tmp_path / "server", f'roster="{roster}"')
    assert trained(settings, model)
    for name in names:
        assert show(tmp_path / f"{name}.ledger.sqlite")[0]["steps"] == 1
        assert not (tmp_path / name / "client-errors.log").exists(), deployment.logs()
