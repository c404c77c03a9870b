"""At stake: a typing error in a configuration is found in a second, named, and never silently ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mmrank.errors import ConfigError, UnknownComponentError
from mmrank.settings import Settings, parse
from simulations.config import CONFIGS, dump, load, read_yaml, with_overrides

SHIPPED = sorted(CONFIGS.glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_configurations_are_the_documented_ones():
    names = {path.stem for path in SHIPPED}
    assert names == {"quickstart", "marketplace", "marketplace-devices", "marketplace-merchants", "hm", "hm-merchants"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads_and_promises_nothing_that_lasts(path):
    settings = load(path)
    assert settings.name == path.stem
    assert settings.privacy.ledger == "throwaway"


def test_quickstart_is_what_a_newcomer_is_promised():
    settings = load(CONFIGS / "quickstart.yaml")
    assert settings.dataset["name"] == "marketplace"
    assert settings.federation.rounds >= 10
    assert settings.privacy.mechanism == "dp_sgd"
    assert settings.privacy.noise == "seeded"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("federation: {rouns: 3}", r"config\.yaml: Unknown setting 'federation\.rouns'.*Did you mean 'rounds'"),
        ("privcy: {}", r"Did you mean 'privacy'"),
        ("seed: 1\nseed: 2", r"config\.yaml: not YAML: the key 'seed' is given twice"),
        ("model:\n  dim: 8\n  dim: 9", r"'dim' is given twice"),
        ("dataset: {name: marketplce}", r"No 'marketplce' in client\.datasets.*Did you mean 'marketplace'"),
        ("dataset: {name: marketplace, itmes: 5}", r"Unknown setting 'itmes' for dataset.*Did you mean 'items'"),
        ("training: {loss: {name: softmax, sigma: 2}}", r"Unknown setting 'sigma' for training\.loss"),
        ("federation: {aggregation: fedavgg}", r"No 'fedavgg' in server\.aggregation"),
        ("engine: inlne", r"No 'inlne' in simulations\.engines.*Did you mean 'inline'"),
        ("evaluation: {rows: [oracel]}", r"No row 'oracel'.*Did you mean 'oracle'"),
        ("seed: many", r"Expected seed='many' to be of type int"),
        ("- seed", r"expected a table of settings, found list"),
        ("seed: [", r"not YAML"),
        ("federation: {rounds: 0}", r"Expected federation\.rounds=0 in \[1, 1000000\]; set federation\.rounds"),
    ],
)
def test_a_mistake_is_named_with_file_and_remedy(tmp_path, text, told):
    with pytest.raises(ConfigError, match=f"(?s){told}") as caught:
        load(written(tmp_path, text))
    assert "config.yaml" in str(caught.value)


def test_the_kind_of_error_survives_the_name_of_the_file(tmp_path):
    with pytest.raises(UnknownComponentError):
        load(written(tmp_path, "model: {fusion: addition}"))


def test_a_missing_file_names_the_shipped_ones(tmp_path):
    with pytest.raises(ConfigError, match=r"no such file.*quickstart\.yaml"):
        load(tmp_path / "quick.yaml")


def test_a_folder_is_no_configuration(tmp_path):
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("training.learning_rate=1e-3", 0.001),
        ("training.learning_rate=0.5", 0.5),
        ("federation.rounds=7", 7),
        ("model.use_text=false", False),
        ("privacy.budget_epsilon=null", None),
        ("evaluation.rows=[random, oracle]", ("random", "oracle")),
        ("name=a=b", "a=b"),
    ],
)
def test_an_override_is_read_as_yaml(tmp_path, override, value):
    found = load(written(tmp_path, "seed: 0"), [override])
    for key in override.partition("=")[0].split("."):
        found = getattr(found, key)
    assert found == value


@pytest.mark.parametrize("text", ["", "dataset: marketplace", "dataset: {name: marketplace, seed: 3}"])
def test_an_override_of_a_component_keeps_its_name(tmp_path, text):
    settings = load(written(tmp_path, text), ["dataset.items=2000"])
    assert settings.dataset["name"] == "marketplace"
    assert settings.dataset["items"] == 2000
    assert settings.dataset.get("seed") == (3 if "seed" in text else None)


def test_an_override_may_name_another_component(tmp_path):
    path = written(tmp_path, "federation: {aggregation: {name: fedavg}}")
    assert load(path, ["federation.aggregation.name=fedadam"]).federation.aggregation == {"name": "fedadam"}
    assert load(path, ["federation.aggregation=fedadam"]).federation.aggregation == {"name": "fedadam"}
    assert load(path, ["training.loss.name=bce"]).training.loss == {"name": "bce"}


@pytest.mark.parametrize("override", ["rounds", "=3", "federation.=3", "seed.more=3", "seed=["])
def test_an_override_that_can_not_be_is_refused(tmp_path, override):
    with pytest.raises(ConfigError, match="--set"):
        load(written(tmp_path, "seed: 1"), [override])


def test_overrides_leave_the_file_s_table_alone():
    raw = {"model": {"dim": 8}}
    assert with_overrides(raw, ["model.dim=9"]) == {"model": {"dim": 9}}
    assert raw == {"model": {"dim": 8}}


def test_a_relative_place_is_taken_from_the_file_and_in_an_override_from_here(tmp_path, monkeypatch):
    path = written(tmp_path, "dataset: {name: hm, root: data}\nprivacy: {ledger: spent.sqlite}")
    assert load(path).dataset["root"] == str(tmp_path / "data")
    assert load(path).privacy.ledger == str(tmp_path / "spent.sqlite")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load(path, ["dataset.root=../hm"]).dataset["root"] == str(tmp_path / "hm")
    assert load(path, ["dataset.root=/data/hm"]).dataset["root"] == "/data/hm"
    assert load(written(tmp_path, "seed: 1")).privacy.ledger == "throwaway"


def test_what_is_dumped_is_read_back_also_by_plain_yaml(tmp_path):
    settings = load(
        written(
            tmp_path, "name: 商店\nprivacy: {mechanism: dp_sgd, epsilon: 2, delta: 1e-7}\nmodel: {image: histogram}"
        )
    )
    path = tmp_path / "resolved.yaml"
    dump(settings, path)
    assert load(path) == settings
    assert parse(yaml.safe_load(path.read_text(encoding="utf-8"))).sha256 == settings.sha256
    assert "商店" in path.read_text(encoding="utf-8")


def test_an_empty_file_is_the_default_run(tmp_path):
    assert load(written(tmp_path, "# nothing\n")) == Settings()
    assert read_yaml(written(tmp_path, "")) == {}
