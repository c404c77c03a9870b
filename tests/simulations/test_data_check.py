"""At stake: a merchant learns what is wrong with the shop's own tables before a run does, and in words."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from mmrank.errors import ConfigError
from simulations.cli import app
from simulations.config import load
from simulations.data_check import check
from simulations.data_check.facts import scripts
from simulations.data_check.guess import guess
from simulations.data_check.page import page
from tests.client.datasets import shops


def run(*arguments):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("shop")
    shops.write_shop(root)
    return root


@pytest.fixture
def shop(written, tmp_path):
    """A shop's folder that a test may harm."""
    return shutil.copytree(written, tmp_path / "shop")


def config(shop, **dataset):
    path = shop.parent / "shop.yaml"
    tables = {"items": shops.ITEMS, "events": shops.EVENTS}
    path.write_text(yaml.safe_dump({"dataset": {"name": "tables", "root": str(shop), **tables, **dataset}}))
    return path


def checked(shop, *overrides, **dataset):
    return check(load(config(shop, **dataset), overrides, only=("dataset",)))


def codes(found, level="warning"):
    return {finding.code for finding in found.findings.of(level)}


def test_a_sound_shop_is_counted_and_can_be_used(shop):
    found = checked(shop)
    assert found.usable
    facts = found.to_dict()
    assert (facts["items"], facts["people"], facts["clients"]) == (150, 40, 40)
    assert facts["rows"]["events.csv"] == facts["events"]["all"]
    slates = sum(len(found.dataset.slates(client, "train")) for client in found.dataset.client_ids)
    assert abs(facts["parts"]["train"] - slates) <= 0.1 * slates, "a day with two queries is two slates"
    assert facts["languages"]["Latin letters"] == 1.0
    assert 0 < facts["languages"]["Chinese characters"] < 1
    assert facts["pictures"] | {"examples": []} == {
        "read": 20,
        "missing": 130,
        "unreadable": 0,
        "duplicate": 0,
        "examples": [],
    }
    assert codes(found) == {"pictures_missing"}
    assert facts["errors"] == []


def test_rows_that_do_not_join_and_pictures_that_do_not_open_are_named(shop):
    with (shop / "events.csv").open("a", newline="") as file:
        csv.writer(file).writerows([["u1", "unknown", shops.FIRST, "click", ""], ["u1", "00001", "soon", "click", ""]])
    (shop / "images" / "00003.png").write_bytes((shop / "images" / "00003.png").read_bytes()[:60])
    shutil.copy(shop / "images" / "00004.png", shop / "images" / "00005.png")
    Image.new("1", (10_000, 6_000)).save(shop / "images" / "00006.png")
    found = checked(shop)
    said = {finding.code: str(finding) for finding in found.findings}
    last = len((shop / "events.csv").read_text().splitlines())
    assert said["item_join"].startswith(f"events.csv, line {last - 1}: column item_id")
    assert said["time"].startswith(f"events.csv, line {last}: column timestamp: no time")
    assert "00003" in said["pictures_unreadable"]
    assert "10000 x 6000 pixels" in said["pictures_unreadable"]
    assert found.facts["pictures"]["duplicate"] == 2
    assert found.usable


def test_columns_that_look_personal_and_are_not_needed_are_named(shop):
    rows = list(csv.reader((shop / "events.csv").read_text().splitlines()))
    with (shop / "events.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*rows[0], "phone", "note"])
        writer.writerows([*row, "555-0101", f"u{number}@example.org"] for number, row in enumerate(rows[1:]))
    found = checked(shop)
    said = {finding.code: finding.text for finding in found.findings.of("warning")}
    assert "nothing reads it" in said["personal_phone"]
    assert "e-mail addresses" in said["personal_note"]
    assert not {code for code in said if code.startswith("personal_")} - {"personal_phone", "personal_note"}


def test_a_promise_that_does_not_fit_is_an_error_and_small_clients_a_warning(shop):
    dp = ("privacy.mechanism=dp_sgd", "privacy.epsilon=4", "privacy.sampling_rate=0.02")
    found = checked(shop, *dp)
    assert "small_clients" in codes(found)
    assert found.usable
    people = checked(shop, *dp, "privacy.unit=user")
    assert "unit" in codes(people, "error")
    assert not people.usable
    public = {"split": {"validation_from": "2024-02-01", "test_from": "2024-02-20"}, "candidates": "catalogue"}
    bounded = checked(shop, *dp, "privacy.unit=user", "privacy.slates_per_user=2", **public)
    assert "above_bound" in codes(bounded, "note")
    assert bounded.facts["slates_of_a_person"][-1] > 2


def test_an_event_that_stands_in_more_histories_than_is_stated_is_said(shop):
    """Somebody who clicks once, and is shown a lot afterwards."""
    dp = ("privacy.mechanism=dp_sgd", "privacy.epsilon=4", "model.history_length=3")
    rows = [json.loads(line) for line in (shop / "impressions.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows):
        row |= {"user": "u0", "time": shops.FIRST + number * 3600, "clicked": [int(number == 0)] + [0] * 9}
    (shop / "impressions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = checked(shop, *dp, events=None, impressions=shops.IMPRESSIONS)
    assert "histories" in codes(found)
    assert found.facts["histories_of_an_event"][-1] > 100


def test_labels_that_popularity_explains_are_said(shop):
    """One item is all that anybody ever takes, and candidates are any of the catalogue."""
    rows = [
        [f"u{person}", "00001", shops.FIRST + day * shops.DAY, "click", ""] for person in range(9) for day in range(9)
    ]
    shops.write_csv(shop / "events.csv", ["user_id", "item_id", "timestamp", "event_type", "query"], rows)
    found = checked(shop, candidates="catalogue")
    assert "popularity" in codes(found)
    assert found.facts["labels"]["ndcg@10 by popularity"] == 1.0


def test_what_stands_in_training_and_test_alike_is_said(shop):
    judged = [["a query", f"{item:05d}", item % 3, part] for part in ("train", "test") for item in range(8)]
    shops.write_csv(shop / "judged.csv", ["query", "item", "grade", "part"], judged)
    columns = {"file": "judged.csv", "query": "query", "item": "item", "grade": "grade", "split": "part"}
    with (shop / "judged.csv").open("a", newline="") as file:
        csv.writer(file).writerows([["another", f"{item:05d}", item % 2, "train"] for item in range(9)])
    found = checked(shop, events=None, judgments=columns | {"query_id": None}, clients="all")
    assert (
        found.findings.of("error") or {"leakage", "query_in_both"} & codes(found) or len(found.dataset.client_ids) == 1
    )


def test_what_cannot_be_used_exits_1_and_says_why(shop):
    (shop / "events.csv").write_text("user_id,item,timestamp,event_type,query\n")
    result = run("check", config(shop), "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["usable"] is False
    assert "no column 'item_id'" in answer["errors"][0]["text"]
    assert {"items", "people", "clients", "slates", "errors", "warnings"} <= answer.keys()


def test_the_page_shows_figures_findings_and_pictures(shop, tmp_path):
    result = run("check", config(shop), "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert "It can be used." in result.stdout
    text = (tmp_path / "page.html").read_text()
    assert "data:image/jpeg;base64," in text
    assert "items without a picture (130 times)" in text
    assert "<svg" in text
    assert page(checked(shop)).count("<h2>") >= 5


def test_any_data_set_can_be_checked():
    found = check(load("simulations/configs/quickstart.yaml", only=("dataset",)), pictures=False)
    assert found.usable
    assert found.facts["clients"] == len(found.dataset.client_ids)
    assert sum(found.facts["parts"].values()) == found.facts["slates"] > 0


def test_a_guessed_map_reads_the_shop_as_one_written_by_hand(written, tmp_path):
    for other in ("impressions.jsonl", "judgments.tsv"):
        assert (written / other).exists()
    spec, said = guess(written)
    assert spec["items"] == shops.ITEMS
    assert spec["events"] == shops.EVENTS
    assert spec["judgments"] == shops.JUDGMENTS
    assert {
        role: spec["impressions"][role] for role in ("items", "clicked", "user", "time", "query", "propensity")
    } == {role: shops.IMPRESSIONS[role] for role in ("items", "clicked", "user", "time", "query", "propensity")}
    assert any(line.startswith("items.csv: items") for line in said)


def test_init_writes_what_check_reads_and_nothing_twice(shop, tmp_path):
    target = tmp_path / "guessed.yaml"
    assert run("init", shop, "--out", target).exit_code == 0
    assert run("check", target, "--no-pictures").exit_code == 0
    again = run("init", shop, "--out", target)
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_a_folder_without_items_is_refused(tmp_path):
    shops.write_csv(tmp_path / "notes.csv", ["text"], [["a"], ["a"]])
    with pytest.raises(ConfigError, match="no table of items"):
        guess(tmp_path)


def test_pictures_in_folders_by_their_first_letters_are_found(tmp_path):
    for name in ("10001", "10002", "20001"):
        (tmp_path / "images" / name[:2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / name[:2] / f"{name}.jpg")
    shops.write_csv(tmp_path / "items.csv", ["sku", "title"], [[name, "shoe"] for name in ("10001", "10002", "20001")])
    assert guess(tmp_path)[0]["items"]["image"] == "images/{sku:.2}/{sku}.jpg"


def test_scripts_are_told_apart():
    assert scripts(["кроссовки", "スニーカー", "운동화", "鞋 shoe"]) == {
        "Cyrillic": 0.25,
        "Japanese": 0.25,
        "Korean": 0.25,
        "Chinese characters": 0.25,
        "Latin letters": 0.25,
    }


def test_one_product_in_two_shops_is_listed_with_both_titles(tmp_path):
    pixels = Image.linear_gradient("L").convert("RGB").resize((32, 32))
    rows = []
    for number, word in enumerate(("lamp", "kettle", "tent", "ladder", "violin", "globe")):
        rows.append([f"a{number}", f"red {word} with steel frame", "acme"])
        rows.append([f"b{number}", f"{word} stone garden {number}" if number else "steel frame red lamp with", "bolt"])
    for row in rows:
        (tmp_path / "images").mkdir(exist_ok=True)
        shift = 0 if row[0] in ("a0", "b0") else 37 * rows.index(row)
        pixels.rotate(shift).save(tmp_path / "images" / f"{row[0]}.png")
    shops.write_csv(tmp_path / "items.csv", ["item_id", "title", "brand"], rows)
    items = {
        "file": "items.csv",
        "id": "item_id",
        "title": "title",
        "merchant": "brand",
        "image": "images/{item_id}.png",
    }
    model = {"text": "hashing", "image": "histogram", "feature_dim": 64}
    config = tmp_path / "shop.yaml"
    spec = {"dataset": {"name": "tables", "root": ".", "items": items}, "model": model}
    config.write_text(yaml.safe_dump(spec | {"features_cache": str(tmp_path / "cache")}))
    answer = json.loads(run("same", config, "--json").stdout)
    assert {(pair["item"], pair["other"]) for pair in answer["pairs"]} >= {("a0", "b0")}
    assert answer["products"] == answer["items"] - len(answer["pairs"])


@pytest.mark.slow
def test_a_strangers_tables_go_from_folder_to_report_without_code(shop, tmp_path):
    """Ids as text, prices missing, two languages, most pictures absent and one broken."""
    (shop / "images" / "00003.png").write_bytes(b"no picture")
    target = tmp_path / "shop.yaml"
    assert run("init", shop, "--out", target).exit_code == 0
    assert run("check", target).exit_code == 0
    quick = ("federation.rounds=2", "evaluation.seeds=1", "evaluation.bootstrap=50", "evaluation.centralised_epochs=1")
    chosen = ("model.image=histogram", "evaluation.rows=[random,content,production,federated]")
    sets = [part for setting in (*quick, *chosen) for part in ("--set", setting)]
    out = tmp_path / "run"
    result = CliRunner().invoke(app, ["simulate", str(target), "--out", str(out), *sets])
    assert result.exit_code == 0, result.output
    answer = json.loads((out / "result.json").read_text())
    assert set(answer["metrics"]) == {"random", "content", "production", "federated"}
    assert 0 < answer["off_policy"]["production"]["snips"]["mean"] < 1
    assert "If it had been shown" in (out / "report.html").read_text()
