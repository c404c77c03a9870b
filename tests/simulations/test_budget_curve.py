"""At stake: what a promise is worth is measured by the real simulation, and no point is recommended by luck."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest

from mmrank.errors import CheckpointError, ConfigError
from simulations.budget._curve_page import page
from simulations.budget._measured import measured, recommend
from simulations.budget._plots import draw_curve
from simulations.budget.curve import BASE, clients_of, curve, parse_epsilons, runs_of
from simulations.config import load
from tests.simulations.test_cli import asked, refused
from tests.simulations.test_report import checked

QUICK = ("federation.rounds=1", "evaluation.bootstrap=200", "evaluation.clients=8")


def point(epsilon: float, share: float, *, give: float = 0.01) -> dict:
    measure = {"mean": share, "ci95": [share - give, share + give]}
    return {
        "epsilon": epsilon, "epsilon_spent": epsilon, "noise_multiplier": 1.0, "ndcg@10": measure,
        "gain_ratio": measure,
        "share_of_non_private": measure, "retained_over_unpersonalised": None,
    }  # fmt: skip


def test_the_smallest_epsilon_whose_interval_keeps_nine_tenths_is_recommended():
    points = [point(1, 0.5), point(2, 0.905), point(4, 0.95), point(8, 0.99), point(math.inf, 1.0, give=0)]
    found = recommend(points)
    assert found["epsilon"] == 4  # 2 keeps nine tenths on average, and not surely
    assert "95% [94%, 96%]" in found["why"]
    assert "lower end of the 95% interval" in found["rule"]


def test_where_none_keeps_enough_the_knee_is_recommended_or_nothing():
    bent = [point(0.5, 0.1), point(1, 0.55), point(2, 0.62), point(4, 0.66)]
    assert recommend(bent)["epsilon"] == 1
    straight = [point(0.5, 0.1), point(1, 0.2), point(2, 0.3), point(4, 0.4)]
    assert recommend(straight)["epsilon"] is None
    assert "no knee" in recommend(straight[:2])["why"]
    none = [{**point(1, 0.5), "share_of_non_private": None}]
    assert "no sure gain" in recommend(none)["why"]


def test_measures_of_a_point_are_paired_by_client_and_say_why_they_are_absent():
    draw = np.random.default_rng(0)
    content = draw.uniform(0.2, 0.6, 200)
    base = {
        "content": content,
        "unpersonalised": content + 0.02,
        "federated": content + 0.08,
        "centralised": content + 0.1,
    }
    found, told = measured(content + 0.05, base, samples=200, seed=0)
    assert told == []
    for name, value in (("gain_ratio", 0.5), ("share_of_non_private", 0.625), ("retained_over_unpersonalised", 0.5)):
        assert found[name]["mean"] == pytest.approx(value)
        assert found[name]["ci95"] == pytest.approx([value, value])
    found, told = measured(content, {**base, "federated": content}, samples=200, seed=0)
    assert found["share_of_non_private"] is None
    assert any("federated - content is not surely above 0" in line for line in told)


def test_a_grid_is_numbers_above_zero_with_one_finite():
    assert parse_epsilons("8, 0.5,inf,0.5") == [0.5, 8.0, math.inf]
    for text in ("", "inf", "1,x", "0,1", "-1", "nan"):
        with pytest.raises(ConfigError, match="--epsilons"):
            parse_epsilons(text)


def test_each_point_is_the_same_run_but_for_its_promise(tiny):
    settings = load(tiny)
    runs = runs_of(settings, [1.0, 4.0, math.inf], seeds=3)
    assert list(runs) == [BASE, "epsilon-1", "epsilon-4"]
    assert runs[BASE].privacy.mechanism == "no_privacy"
    assert runs["epsilon-4"].privacy.epsilon == 4.0
    assert runs["epsilon-4"].privacy.noise_multiplier is None
    for run in runs.values():
        assert run.evaluation.seeds == 3
        assert (run.seed, run.dataset, run.model, run.training, run.federation) == (
            settings.seed, settings.dataset, settings.model, settings.training, settings.federation,
        )  # fmt: skip


def test_a_curve_needs_a_mechanism_and_spends_no_ledger_that_lasts(tiny, tmp_path):
    out = ("--out", tmp_path / "curve")
    assert "privacy.mechanism=no_privacy" in refused(
        "budget", "curve", tiny, "--set", "privacy.mechanism=no_privacy", *out
    )
    lasting = ("--set", f"privacy.ledger={tmp_path / 'ledger.sqlite'}")
    assert "to be throwaway in a curve" in refused("budget", "curve", tiny, *lasting, *out)
    (tmp_path / "curve").mkdir()
    (tmp_path / "curve" / "notes.txt").write_text("mine")
    assert "add --resume" in refused("budget", "curve", tiny, *out)
    assert not (tmp_path / "ledger.sqlite").exists()


def test_the_page_needs_nothing_else_and_shows_every_point():
    points = [point(1, 0.5), point(4, 0.95), point(math.inf, 1.0, give=0)]
    found = {
        "name": "<b>shop</b>", "seeds": 3, "promise": "Each epsilon is for one slate.", "points": points,
        "notes": ["A note."],
        "dataset": {"name": "marketplace", "clients": 8}, "levels": {"content": 0.4}, "recommended": recommend(points),
    }  # fmt: skip
    html = page(found, draw_curve(points, found["levels"], 4.0))
    parsed = checked(html)
    words = " ".join(parsed.words)
    assert "script" not in parsed.names
    assert all(address.startswith("#") for address in parsed.addresses)
    assert not re.search(r"url\((?!#)", html)
    for told in ("<b>shop</b>", "ε = 4", "Simulation only", "Each epsilon is for one slate.", "∞", "A note.", "0.9500"):
        assert told in words, told
    assert html.count("<svg") == 2


@pytest.mark.slow
def test_a_curve_runs_resumes_and_takes_more_points(tiny, tmp_path):
    settings, out = load(tiny, QUICK), tmp_path / "curve"
    first = curve(settings, epsilons=[2.0, math.inf], seeds=1, jobs=2, out=out)
    kept = {name: (out / name / "result.json").stat().st_mtime_ns for name in (BASE, "epsilon-2")}
    options = [word for change in QUICK for word in ("--set", change)]
    command = ("budget", "curve", tiny, *options, "--epsilons", "2,8,inf", "--seeds", 1, "--jobs", 2, "--out", out)
    found = asked(*command, "--resume")
    assert {name: (out / name / "result.json").stat().st_mtime_ns for name in kept} == kept
    assert [entry["epsilon"] for entry in found["points"]] == [2.0, 8.0, "inf"]
    assert found["points"][0] == first["points"][0]
    assert json.loads((out / "curve.json").read_text(encoding="utf-8")) == found
    assert (out / "curve.png").read_bytes().startswith(b"\x89PNG")
    checked((out / "curve.html").read_text(encoding="utf-8"))
    for entry, name in zip(found["points"], ("epsilon-2", "epsilon-8", BASE), strict=True):
        result = json.loads((out / name / "result.json").read_text(encoding="utf-8"))
        reported = clients_of(out / name)[result["reported"]]
        assert entry["ndcg@10"]["mean"] == pytest.approx(np.nanmean(reported))
        assert float(entry["epsilon"]) >= float(entry["epsilon_spent"]) or name == BASE
    assert (out / "epsilon-8.log").read_text(encoding="utf-8")
    assert "add --resume" in refused(*command)
    assert "another configuration or of 1 seeds" in refused(*command, "--resume", "--set", "seed=5")
    (out / "plan.json").unlink()
    with pytest.raises(CheckpointError, match="another configuration"):
        curve(load(tiny, [*QUICK, "seed=5"]), epsilons=[2.0], seeds=1, jobs=1, out=out, resume=True)
