"""At stake: a legal reader takes from the statement what holds and no more, and no simulation for a promise."""

from __future__ import annotations

import json
import math

import pytest

from simulations._folder import RunFolder, write_json
from simulations.report._meaning import belief_after, belief_before, detections, right_guesses
from simulations.report.statement import as_html, as_markdown, statement_of
from tests.simulations.test_cli import asked, refused
from tests.simulations.test_report import checked

SIMULATION = "THIS IS A SIMULATION: NO SUCH PROMISE WAS MADE TO ANYBODY."
NOTHING = "THIS RUN HAD NO DIFFERENTIAL PRIVACY: IT PROMISES NOTHING."


def told(result, **privacy) -> str:
    changed = {**result, "privacy": {**result["privacy"], **privacy}}
    return " ".join(" ".join(checked(as_html(statement_of(changed))).words).split())


def test_the_command_writes_both_files_and_they_say_the_same(finished, tmp_path):
    folder = RunFolder(tmp_path)
    write_json(folder.result, finished.result)  # from result.json alone
    found = asked("report", tmp_path, "--statement")
    html, text = ((tmp_path / name).read_text(encoding="utf-8") for name in ("statement.html", "statement.md"))
    assert found == {"statement": str(tmp_path / "statement.html"), "text": str(tmp_path / "statement.md")}
    page = checked(html)
    assert not {"script", "link", "img"} & set(page.names)
    words = " ".join(" ".join(page.words).split())
    for part in statement_of(finished.result).parts:
        assert part.heading in words
        assert f"## {part.heading}" in text
        for sentence in (*part.paragraphs, *part.points):
            assert sentence in words
    assert "one run with --statement" in refused("report", tmp_path, tmp_path, "--statement")
    assert "no finished run" in refused("report", tmp_path / "none", "--statement")


def test_a_private_run_says_who_is_protected_by_how_much_and_against_whom(finished):
    words = told(finished.result, epsilon_max=2.0, epsilon_server_view=2.0, epsilon_median=1.5, delta=1e-6)
    for phrase in (
        "one record (slate)",
        "which is here 2: moderate",
        "7.39 times as likely",
        "1 in 1,000,000",
        "add/remove one",
        "Poisson",
        "at most come to believe it with 88.1%",
        "and at least with 11.9%",
        "right at most 881 times",
        "rightly accuse at most 370 of every 1,000",
        "the merchant or device that holds the records",
        "2 models, one after each round",
        "the median client spent ε = 1.5",
        "may not be quoted as a person's",
        "What is not protected",
    ):
        assert phrase in words, phrase


def test_large_letters_stand_where_no_promise_was_made(finished):
    for ledger, noise, shouted in (
        ("throwaway", "secure", True),
        ("/var/ledger.sqlite", "seeded", True),
        ("/var/ledger.sqlite", "secure", False),
    ):
        words = told(finished.result, ledger=ledger, noise=noise)
        assert (SIMULATION in words) == shouted
        assert NOTHING not in words
    html = as_html(statement_of(finished.result))
    assert f'<p class="shout">{SIMULATION}</p>' in html
    assert f"> # {SIMULATION}" in as_markdown(statement_of(finished.result))


def test_a_run_without_privacy_promises_nothing(finished):
    infinite = {"epsilon_max": "inf", "epsilon_median": "inf", "epsilon_server_view": "inf", "budget": "inf"}
    words = told(finished.result, mechanism="no_privacy", unit="none", ledger="kept", noise="secure", **infinite)
    assert NOTHING in words
    assert SIMULATION not in words
    assert "Every record: nothing bounds" in words
    assert "A worked example" not in words
    assert "By how much" not in words


def test_central_noise_names_the_server_as_trusted_and_unprotected_against(finished):
    words = told(
        finished.result, mechanism="client_update", unit="client", noise_at="central", epsilon_server_view="inf",
        client_sampling_rate=0.05, adjacency="zero-out one client",
    )  # fmt: skip
    assert "the operator of the server infinite nobody, so nothing is promised" in words
    assert "keeps secret who took part in which round" in words
    assert "Anything against the operator of the server" in words
    assert "one device, which stands for one person" in words
    local = told(finished.result, mechanism="client_update", unit="client", noise_at="local")
    assert "the device that holds the records: it adds the noise itself" in local
    assert "Anything against the operator" not in local


def test_a_person_s_own_figures_are_told_where_the_run_has_them(finished):
    words = told(finished.result, person_with_slates={"5": 11.64, "10": 27.9})
    assert "ε = 11.7 for one with 5, and ε = 27.9 for one with 10" in words
    assert "At most 4 records of one person" in told(finished.result, unit="user", slates_per_user=4)


def test_noise_scaled_from_a_larger_cohort_is_no_promise_of_this_run(finished):
    words = told(finished.result, ledger="kept", noise="secure", noise_cohort_size=1000)
    assert SIMULATION in words
    assert "noise is that of rounds with 1,000 clients" in words


def test_a_run_s_name_is_text_and_not_markup(finished):
    named = {**finished.result, "run": "<b>bold</b> *name*\n# heading"}
    page = checked(as_html(statement_of(named)))
    assert any("<b>bold</b>" in word for word in page.words)
    first = as_markdown(statement_of(named)).splitlines()[0]
    assert first == "# Privacy statement: run".replace("run", r"\<b\>bold\</b\> \*name\* \# heading")


@pytest.mark.parametrize(("value", "delta"), [(0.1, 1e-6), (1.0, 1e-3), (4.0, 1e-5)])
def test_the_examples_hold_for_the_worst_mechanism_there_is(value, delta):
    """The game that every private release is a blurred copy of: tell with probability delta, else flip a biased "
    "coin."""
    right = math.exp(value) / (1 + math.exp(value))
    seen = {  # outcome: (probability where in, where out)
        "told in": (delta, 0.0), "told out": (0.0, delta),
        "coin in": ((1 - delta) * right, (1 - delta) * (1 - right)),
        "coin out": ((1 - delta) * (1 - right), (1 - delta) * right),
    }  # fmt: skip
    best = sum(max(pair) for pair in seen.values()) / 2
    assert right_guesses(value, delta) == pytest.approx(best, rel=1e-12)
    for prior in (0.01, 0.5, 0.9):
        inside, outside = seen["coin in"]
        assert belief_after(prior, value) == pytest.approx(prior * inside / (prior * inside + (1 - prior) * outside))
        inside, outside = seen["coin out"]
        assert belief_before(prior, value) == pytest.approx(prior * inside / (prior * inside + (1 - prior) * outside))
    alarm = 0.05
    accused, found = 0.0, 0.0  # accuse by falling odds until the false alarms are spent (Neyman and Pearson)
    for inside, outside in sorted(seen.values(), key=lambda pair: -pair[0] / max(pair[1], 1e-300)):
        share = 1.0 if outside == 0 else min(1.0, max(0.0, (alarm - accused) / outside))
        accused, found = accused + share * outside, found + share * inside
    assert detections(alarm, value, delta) == pytest.approx(found, rel=1e-9)


def test_an_epsilon_that_is_a_word_is_read(finished):
    written = json.loads(json.dumps(finished.result))
    assert statement_of(written).title == f"Privacy statement: {written['run']}"
