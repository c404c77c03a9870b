"""At stake: a run of days that is lost, or goes on from half a model and nobody notices."""

import logging

import numpy as np
import pytest

from mmrank.errors import CheckpointError
from server.checkpoint import (
    Checkpoint,
    has_begun,
    load_checkpoint,
    read_model,
    run_identity,
    save_checkpoint,
    write_model,
)


def checkpoint(round_number, config="aaa"):
    return Checkpoint(
        run="run-1",
        config_sha256=config,
        round_number=round_number,
        parameters={"w": np.full((2, 3), round_number, np.float32)},
        state={"v/w": np.full((2, 3), 1e-300, np.float64)},
        exhausted=frozenset({"shop-2", "shop-1"}),
        epsilon={"shop-1": 1.25, "shop-3": float("inf")},
        kept_rounds=1,
    )


def test_everything_comes_back(tmp_path):
    save_checkpoint(tmp_path, checkpoint(3))
    stored = load_checkpoint(tmp_path, config_sha256="aaa")
    for name in ("run", "config_sha256", "round_number", "exhausted", "epsilon", "kept_rounds"):
        assert getattr(stored, name) == getattr(checkpoint(3), name)
    np.testing.assert_array_equal(stored.parameters["w"], checkpoint(3).parameters["w"])
    np.testing.assert_array_equal(stored.state["v/w"], checkpoint(3).state["v/w"])
    assert stored.state["v/w"].dtype == np.float64


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path / "absent", config_sha256="aaa") is None
    assert not has_begun(tmp_path)


def test_equal_rounds_give_equal_bytes(tmp_path):
    paths = [save_checkpoint(tmp_path / name, checkpoint(3)) for name in ("one", "two")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path):
    for number in (9, 10, 11):
        save_checkpoint(tmp_path, checkpoint(number))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "round-0000010.safetensors",
        "round-0000011.safetensors",
    ]
    assert load_checkpoint(tmp_path, config_sha256="aaa").round_number == 11


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-5])


def damage_flip(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def damage_header(path):
    """Still JSON, and as long as before: only the checksum can tell."""
    data = path.read_bytes()
    assert b"1.25" in data
    path.write_bytes(data.replace(b"1.25", b"0.25"))


def damage_empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [damage_cut, damage_flip, damage_header, damage_empty])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage, caplog):
    save_checkpoint(tmp_path, checkpoint(1))
    damage(save_checkpoint(tmp_path, checkpoint(2)))
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(tmp_path, config_sha256="aaa").round_number == 1
    assert "round-0000002.safetensors is damaged" in caplog.text


def test_nothing_but_damage_is_an_error(tmp_path):
    damage_flip(save_checkpoint(tmp_path, checkpoint(1)))
    with pytest.raises(CheckpointError, match="All 1 checkpoints"):
        load_checkpoint(tmp_path, config_sha256="aaa")


def test_another_configuration_is_refused_with_both_hashes(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1, config="aaa"))
    with pytest.raises(CheckpointError, match=r"belongs to configuration aaa, not bbb; resume with"):
        load_checkpoint(tmp_path, config_sha256="bbb")


def test_a_half_written_file_bears_no_checkpoints_name(tmp_path):
    save_checkpoint(tmp_path, checkpoint(1))
    (tmp_path / ".round-0000002.safetensors.writing").write_bytes(b"half")
    assert load_checkpoint(tmp_path, config_sha256="aaa").round_number == 1
    save_checkpoint(tmp_path, checkpoint(2))
    assert load_checkpoint(tmp_path, config_sha256="aaa").round_number == 2


def test_a_runs_id_is_the_first_one_given(tmp_path):
    assert run_identity(tmp_path, config_sha256="aaa", fresh="first") == "first"
    assert run_identity(tmp_path, config_sha256="aaa", fresh="second") == "first"
    with pytest.raises(CheckpointError, match="belongs to configuration aaa, not bbb"):
        run_identity(tmp_path, config_sha256="bbb", fresh="third")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        run_identity(tmp_path, config_sha256="aaa", fresh="third")


def test_a_model_is_written_without_a_time_and_read_back(tmp_path):
    model = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.ones(1, np.float32)}
    write_model(tmp_path / "one.safetensors", model)
    write_model(tmp_path / "two.safetensors", dict(reversed(model.items())))
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    np.testing.assert_array_equal(read_model(tmp_path / "one.safetensors")["w"], model["w"])
    with pytest.raises(CheckpointError, match="can't be read"):
        read_model(tmp_path / "three.safetensors")
