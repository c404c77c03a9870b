"""At stake: a report that needs nothing else, tells the truth of its run, and hides what real people asked."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest

from mmrank.errors import ConfigError
from simulations._folder import RunFolder, write_json
from simulations.report import compare, read_result, thumbnail, write_report
from simulations.report.compare import lines

VOID = {"meta", "br", "img", "path", "use", "rect", "circle", "line", "hr"}


class Checker(HTMLParser):
    """Collects text and addresses, and checks that every element is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.names: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def checked(html: str) -> Checker:
    parser = Checker()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


@pytest.fixture
def copied(finished, tmp_path) -> RunFolder:
    """A run whose folder may be written."""
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished.folder, folder.path)
    return folder


def test_the_report_needs_nothing_else(finished):
    page = checked((finished.folder / "report.html").read_text(encoding="utf-8"))
    assert "script" not in page.names
    assert "link" not in page.names
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not re.search(r"url\((?!#)", (finished.folder / "report.html").read_text(encoding="utf-8"))


def test_the_report_says_what_was_promised_and_reached(finished):
    words = " ".join(checked((finished.folder / "report.html").read_text(encoding="utf-8")).words)
    result = finished.result
    for told in (
        f"{result['metrics']['federated_dp']['ndcg@10']['mean']:.3f}",
        f"ε = {result['privacy']['epsilon_max']:.3g}",
        "0.0001",
        "add/remove one slate",
        "Poisson, of slates in each step",
        "A person has more than one slate",
        "throwaway",
        "Simulation only",
        "The noise came from a seed",
        result["dataset"]["version"],
        *result["metrics"],
    ):
        assert told in words, told


def test_every_plot_is_there_for_desktop_and_phone(finished):
    html = (finished.folder / "report.html").read_text(encoding="utf-8")
    plots = re.findall(r'<div class="plot" role="img" aria-label="([^"]+)">', html)
    assert plots == ["Rows with intervals", "Learning curve", "Epsilon by round", "Distribution over clients"]
    assert html.count("<svg") == 2 * len(plots)


def test_queries_with_pictures_are_shown_before_and_after(finished):
    stored = json.loads((finished.folder / "debug" / "examples.json").read_text(encoding="utf-8"))["examples"]
    page = checked((finished.folder / "report.html").read_text(encoding="utf-8"))
    words = " ".join(page.words)
    assert len(stored) >= 3
    assert sum(name == "img" for name in page.names) > 20
    assert all(example["query"] in words for example in stored)
    assert all(len(example["before"]) == len(example["after"]) > 0 for example in stored)


def test_real_people_s_queries_go_to_debug_only(copied):
    examples = json.loads(copied.examples.read_text(encoding="utf-8"))
    for example in examples["examples"]:
        example["query"] = "a query of somebody"
    write_json(copied.examples, examples)
    result = read_result(copied.path)
    result["dataset"]["synthetic"] = False
    write_json(copied.result, result)
    write_report(copied.path)
    shown = copied.report.read_text(encoding="utf-8")
    hidden = (copied.debug / "report-debug.html").read_text(encoding="utf-8")
    assert "a query of somebody" not in shown
    assert examples["examples"][0]["client"] not in shown
    assert "data:image/jpeg" not in shown
    assert "a query of somebody" in hidden
    assert "queries and histories of real people" in hidden
    checked(hidden)


def test_what_people_wrote_is_text_and_not_markup(copied):
    result = read_result(copied.path)
    result["run"] = "<b>bold & brave</b>"
    result["skipped"] = {"bm25": "<script>alert(1)</script>"}
    write_json(copied.result, result)
    page = checked(write_report(copied.path).read_text(encoding="utf-8"))
    assert "script" not in page.names
    assert any("<b>bold & brave</b>" in word for word in page.words)


def test_the_same_run_gives_the_same_report(copied):
    first = write_report(copied.path).read_bytes()
    assert write_report(copied.path).read_bytes() == first


def test_a_run_without_privacy_says_so(copied):
    result = read_result(copied.path)
    result["privacy"] |= {"mechanism": "no_privacy", "epsilon_max": "inf", "epsilon_median": "inf", "budget": "inf"}
    write_json(copied.result, result)
    words = " ".join(checked(write_report(copied.path).read_text(encoding="utf-8")).words)
    assert "No differential privacy" in words
    assert "What privacy it cost" not in words


def test_a_comparison_has_a_line_a_run_and_one_plot(finished):
    other = json.loads(json.dumps(finished.result))
    other["reported"] = "federated"
    html = compare({"private": finished.result, "plain": other})
    page = checked(html)
    words = " ".join(page.words)
    assert "2 runs compared" in words
    assert [line["row"] for line in lines({"private": finished.result, "plain": other})] == [
        "federated_dp",
        "federated",
    ]
    assert html.count("<svg") == 2
    assert "different data" not in words
    other["dataset"]["version"] = "another"
    assert "different data" in compare({"private": finished.result, "plain": other})


def test_an_unfinished_run_has_no_report(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no finished run.*--resume"):
        write_report(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        read_result(tmp_path)


def test_a_thumbnail_is_small_and_absent_where_there_is_no_picture():
    assert thumbnail(None) is None
    address = thumbnail(np.full((500, 300, 3), 200, np.uint8))
    assert address is not None
    assert address.startswith("data:image/jpeg;base64,")
    assert len(address) < 4000
