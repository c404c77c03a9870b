"""At stake: whoever trusts the server with updates is promised an epsilon: charged, sampled, noised, always."""

import logging

import numpy as np
import pytest

from mmrank.errors import ConfigError, PrivacyError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.client_update import CLIP
from mmrank.settings import parse
from server.population import check_server, open_population
from simulations._facts import privacy_facts
from simulations._federation import epsilons
from tests.server.test_rounds import INITIAL, Room, honest, same, train

PRIVACY = {
    "mechanism": "client_update",
    "unit": "client",
    "noise": "seeded",
    "noise_multiplier": 1.0,
    "sampling_rate": 0.5,
    "max_grad_norm": 10.0,
    "delta": 1e-5,
}


def configuration(federation=None, **privacy):
    return parse(
        {
            "federation": {"rounds": 3, "cohort_size": 4, **(federation or {})},
            "privacy": {**PRIVACY, **privacy},
            "seed": 7,
        }
    )


def spent(tmp_path, settings):
    return open_population(settings, state_dir=tmp_path).account.events()


def test_every_round_is_charged_once_amplified_and_reported(tmp_path):
    settings = configuration()
    _, reports = train(tmp_path / "checkpoint", Room(), settings)
    event = Event(sampling_rate=0.5, noise_multiplier=1.0, steps=3)
    assert spent(tmp_path, settings) == (event,)
    assert reports[-1].epsilon_max == reports[-1].epsilon_median == epsilon([event], 1e-5)


def test_the_reported_mean_is_what_moved_the_model(tmp_path):
    _, reports = train(tmp_path / "checkpoint", Room(), configuration())
    before = INITIAL
    for report in reports:
        for name, mean in report.noisy_mean.items():
            np.testing.assert_allclose(report.parameters[name], before[name] + mean, rtol=1e-6)
        before = report.parameters


def test_under_local_noise_no_mean_is_reported_apart(tmp_path):
    _, reports = train(tmp_path / "checkpoint", Room(), configuration(noise_at="local", sampling_rate=1.0))
    assert [report.noisy_mean for report in reports] == [None] * 3


def test_the_charge_stands_before_anybody_is_drawn_or_asked(tmp_path):
    settings, seen = configuration(), []

    class Watching(Room):
        def exchange(self, clients, request, timeout_seconds, acknowledged=None):
            seen.append(sum(event.steps for event in spent(tmp_path, settings)))
            return super().exchange(clients, request, timeout_seconds)

    train(tmp_path / "checkpoint", Watching(), settings)
    assert seen == [1, 2, 3]


def test_a_round_without_a_single_reply_releases_noise_all_the_same(tmp_path):
    silent = {f"client-{i}": lambda client, request: None for i in range(6)}
    model, reports = train(tmp_path / "checkpoint", Room(answers=silent), configuration())
    assert [report.aggregated for report in reports] == [True] * 3
    assert all(np.abs(model[name] - INITIAL[name]).min() > 0 for name in INITIAL)


def test_each_client_enters_a_round_with_the_rate_that_is_charged_and_alone(tmp_path):
    room = Room(clients=60)
    train(tmp_path / "checkpoint", room, configuration({"rounds": 80}, sampling_rate=0.2, noise_multiplier=9.0))
    taken = np.array([[name in asked for name in room.names] for _, asked in room.asked])
    assert abs(taken.mean() - 0.2) < 4 * np.sqrt(0.16 / taken.size)
    sizes = taken.sum(1)
    assert 0.5 * 60 * 0.16 < sizes.var() < 2 * 60 * 0.16  # a fixed cohort has no variance


def test_the_budget_ends_the_run_and_keeps_its_model(tmp_path, caplog):
    two = epsilon([Event(sampling_rate=0.5, noise_multiplier=1.0, steps=2)], 1e-5)
    with caplog.at_level(logging.WARNING):
        _, reports = train(tmp_path / "checkpoint", Room(), configuration(budget_epsilon=two))
    assert len(reports) == 2
    assert "Stopping before round 3" in caplog.text


def test_a_second_run_over_the_same_people_pays_on_top_of_the_first(tmp_path):
    settings = configuration(ledger=str(tmp_path / "kept.sqlite"))
    for name in ("one", "two"):
        train(tmp_path / name / "checkpoint", Room(), settings)
    # seeded runs of one name are one run: it is the same charge. Another seed is another run.
    assert spent(tmp_path, settings)[0].steps == 3
    other = parse({**settings.to_dict(), "seed": 8})
    train(tmp_path / "three" / "checkpoint", Room(), other)
    assert spent(tmp_path, other)[0].steps == 6


def test_a_resumed_run_ends_in_the_same_model_and_pays_once(tmp_path):
    settings = configuration({"rounds": 5})
    whole, _ = train(tmp_path / "whole" / "checkpoint", Room(), settings)

    class Killed(Room):
        def exchange(self, clients, request, timeout_seconds, acknowledged=None):
            if request.round_number == 3:
                raise KeyboardInterrupt
            return super().exchange(clients, request, timeout_seconds)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed" / "checkpoint", Killed(), settings)
    model, _ = train(tmp_path / "killed" / "checkpoint", Room(), settings, resume=True)
    assert same(model, whole)
    assert spent(tmp_path / "killed", settings)[0].steps == 5


def test_an_update_longer_than_the_clip_is_left_out(tmp_path):
    settings = configuration(max_grad_norm=0.01, sampling_rate=1.0)
    _, reports = train(tmp_path / "checkpoint", Room(), settings)
    assert all(reason.startswith("its norm") for reason in reports[0].dropped.values())
    assert len(reports[0].dropped) == 6


def test_an_adaptive_clip_travels_with_the_model_and_survives_a_resume(tmp_path):
    asked = []

    def short(client, request):
        asked.append(float(request.parameters[CLIP][0]))
        reply = honest(client, request)
        update = {name: array * np.float32(1e-6) for name, array in reply.update.items()}
        reply.update.clear()
        reply.update.update({**update, CLIP: np.ones(1, np.float32)})
        return reply

    settings = configuration({"rounds": 4}, clipping="adaptive", clip_count_noise=1.0, sampling_rate=1.0)
    room = Room(answers={f"client-{i}": short for i in range(6)})
    train(tmp_path / "checkpoint", room, settings)
    clips = list(dict.fromkeys(asked))
    assert clips[0] == 10.0
    assert len(clips) == 4
    again, _ = train(tmp_path / "checkpoint", room, settings, resume=True)
    assert CLIP not in again


@pytest.mark.parametrize(
    "federation", [{"min_replies": 2}, {"merchants_per_round": 1}, {"merchant_weight": 2.0}], ids=str
)
def test_what_would_make_the_cohort_no_poisson_sample_is_refused(federation):
    with pytest.raises(ConfigError, match="each client enters a round alone"):
        configuration(federation)


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ({}, "seeded"),
        ({"noise": "secure"}, "may be forgotten"),
        ({"noise": "secure", "ledger": "/var/lib/mmrank/ledger.sqlite"}, "budget_epsilon"),
    ],
)
def test_a_server_that_promises_must_keep_a_ledger_a_secret_and_a_budget(privacy, said):
    with pytest.raises(PrivacyError, match=said):
        check_server(configuration(**privacy))


def test_a_server_with_all_three_may_promise():
    check_server(configuration(noise="secure", ledger="/var/lib/mmrank/ledger.sqlite", budget_epsilon=4.0))
    check_server(configuration(noise="secure", noise_at="local"))


def test_local_noise_is_the_devices_own_affair(tmp_path):
    settings = configuration(noise_at="local", sampling_rate=1.0)
    model, reports = train(tmp_path / "checkpoint", Room(), settings)
    assert open_population(settings, state_dir=tmp_path).account is None
    assert not (tmp_path / "population.sqlite").exists()
    assert reports[-1].epsilon_max == 1.5  # what the clients say of their own ledgers
    assert model["w"].max() > 0


def test_with_renewal_a_run_reports_what_a_datum_paid_over_its_periods(tmp_path):
    """The budget is for one period; the promise to somebody whose data lived through two is for both."""
    settings = configuration(noise="secure", retention_days=30, renew_every_days=30, budget_epsilon=20.0)
    account = open_population(settings, state_dir=tmp_path).account
    event, now = open_population(settings, state_dir=tmp_path).mechanism.population_event, account.ledger.clock_days()
    for days, charge in ((30, "before"), (0, "now")):
        account.ledger.clock_days = lambda days=days: now - days
        account.charge(charge, event)
    account.ledger.close()
    both = epsilon([event, event], 1e-5)
    assert account.standing().epsilon == epsilon([event], 1e-5) < both
    assert epsilons(tmp_path, settings) == (both, both)
    assert privacy_facts(settings, tmp_path)["epsilon_max"] == both
