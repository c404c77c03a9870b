"""At stake: two engines that train two models, and Ray processes that outlive a simulation."""

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from mmrank.errors import CheckpointError
from server.checkpoint import load_checkpoint
from simulations.engines import flower, inline
from tests.engines.secure_federation import settings_of
from tests.federations import PRIVATE, small_settings, write_config

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def rays(monkeypatch):
    """Folders of the Rays that the test starts: others may run on the machine, and come and go."""
    made, make = [], tempfile.TemporaryDirectory

    def noted(**options):
        folder = make(**options)
        made.append(folder.name)
        return folder

    monkeypatch.setattr(flower.tempfile, "TemporaryDirectory", noted)
    return made


def ended(*names):
    """Whether no process names one of them: soon, since who was killed is there until the kernel comes round to it."""
    deadline = time.monotonic() + 10
    while found := [line for name in names for line in processes_naming(name)]:
        if time.monotonic() > deadline:
            raise AssertionError(found)
        time.sleep(0.05)
    return True


def processes_naming(text):
    """Command lines of the machine's processes in which `text` stands."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, NotADirectoryError):
            continue
        if entry.name.isdigit() and text in line and int(entry.name) != os.getpid():
            found.append(line)
    return found


def test_both_engines_train_the_same_model(tmp_path, cache, rays):
    privacy = {**PRIVATE, "metrics": {"noise_multiplier": 5.0, "every": 2}}
    settings = small_settings(cache, privacy=privacy, federation={"rounds": 2, "aggregation": {"name": "fedadam"}})
    models, reports, clients = {}, {}, []
    for engine in (inline, flower):
        folder = tmp_path / engine.__name__
        seen = reports.setdefault(engine, [])
        models[engine] = engine.federate(
            settings,
            config_path=write_config(settings, folder),
            state_dir=folder / "state",
            on_round=seen.append,
            on_client=lambda done, total: clients.append((done, total)),
        )
    for name, array in models[inline].items():
        np.testing.assert_allclose(models[flower][name], array, rtol=0, atol=1e-5, err_msg=name)
    for one, other in zip(reports[inline], reports[flower], strict=True):
        assert (one.round_number, one.codes, one.dropped) == (other.round_number, other.codes, other.dropped)
        assert one.epsilon_max == other.epsilon_max
        assert (one.measured is None) == (other.measured is None) == (one.round_number == 1)
    kept = [
        load_checkpoint(tmp_path / engine.__name__ / "state/checkpoint", config_sha256=settings.sha256)
        for engine in models
    ]
    assert len({tuple(sorted((client, head[0]) for client, head in each.heads.items())) for each in kept}) == 1
    assert clients[:8] == clients[8:]
    assert len(rays) == 1
    assert ended(str(tmp_path), *rays)

    folder, seen = tmp_path / flower.__name__, []
    again = flower.federate(
        settings, config_path=folder / "config.yaml", state_dir=folder / "state", resume=True, on_round=seen.append
    )
    assert seen == []
    np.testing.assert_equal(again, models[flower])


def test_the_apps_errors_come_through_and_everything_is_ended(tmp_path, cache):
    settings = small_settings(cache, federation={"rounds": 1})
    config, state = write_config(settings, tmp_path), tmp_path / "state"
    inline.federate(settings, config_path=config, state_dir=state)
    with pytest.raises(CheckpointError, match="already holds a run; resume it"):
        flower.federate(settings, config_path=config, state_dir=state)
    assert ended(str(tmp_path))


def test_a_caller_that_stops_ends_the_simulation(tmp_path, cache, rays):
    settings, alive = small_settings(cache, federation={"rounds": 1000}), []

    def stop(report):
        alive.extend(processes_naming(rays[0]))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flower.federate(
            settings, config_path=write_config(settings, tmp_path), state_dir=tmp_path / "state", on_round=stop
        )
    assert alive, "Ray's processes name the folder"
    assert ended(str(tmp_path), *rays)


def test_both_engines_end_in_the_same_secure_sum(tmp_path, cache):
    settings, models = settings_of(cache), []
    for engine in (inline, flower):
        folder, seen = tmp_path / engine.__name__, []
        models.append(
            engine.federate(
                settings,
                config_path=write_config(settings, folder),
                state_dir=folder / "state",
                on_round=seen.append,
            )
        )
        assert [report.codes for report in seen] == [{"ok": 8}] * 2
    for name, array in models[0].items():
        np.testing.assert_allclose(models[1][name], array, rtol=0, atol=1e-4, err_msg=name)
