"""At stake: a budget that renews over data that were never dropped promises one epsilon and costs another each year."""

from dataclasses import replace

import numpy as np
import pytest

from client.retention import kept
from client.vault import Vault
from mmrank.errors import ConfigError, PrivacyError
from mmrank.privacy.accountant import epsilon
from mmrank.settings import MetricsSettings, parse
from tests.client.shop import ToyDataset, toy_request, toy_settings, toy_workspace
from tests.client.test_release_metrics import question
from tests.toys import toy_slates

TODAY = 20_000.0
AGING = {"noise": "secure", "retention_days": 30.0, "renew_every_days": 30.0}


class Dated(ToyDataset):
    """Its slates, by their place one day each, end on `last`; the day 0 is TODAY - 100."""

    def __init__(self, last=100.0):
        super().__init__(epoch_days=TODAY - 100)
        self.last = last

    def slates(self, client_id, split):
        slates = super().slates(client_id, split)
        return [replace(slate, time_days=self.last - place) for place, slate in enumerate(slates)]


class Clock:
    days = TODAY

    def __call__(self):
        return self.days


def make(tmp_path, features, dataset=None, clock=None, **privacy):
    dataset = dataset or Dated()
    workspace = toy_workspace(tmp_path, features, toy_settings(**{**AGING, **privacy}), dataset=dataset)
    workspace.ledger.clock_days = clock or Clock()
    return workspace


def test_what_is_too_old_or_not_yet_there_is_dropped_with_the_old_events_of_a_history():
    base = next(slate for slate in toy_slates(20, seed=1) if len(slate.history) >= 2)
    ages = np.linspace(0, 20, len(base.history), dtype=np.float32)[::-1]
    slates = [replace(base, time_days=day, age_days=ages) for day in (9.0, 10.0, 25.0, 40.0, 40.5)]
    left = kept(slates, epoch_days=100.0, oldest=110.0, newest=140.0)
    assert [slate.time_days for slate in left] == [10.0, 25.0, 40.0]
    for slate in left:
        assert len(slate.history) == len(slate.event_type) == len(slate.age_days)
        assert (100 + slate.time_days - slate.age_days >= 110).all()
    assert len(left[2].history) == len(base.history) > len(left[0].history) == 1


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize("wrong", [{"time_days": "yesterday"}, {"age_days": np.full(1, 90.0, np.float32)}], ids=str)
def test_a_slate_that_is_none_neither_stops_nor_shows_where_old_ones_are_dropped(tmp_path, features, split, wrong):
    class Odd(Dated):
        def slates(self, client_id, split):
            found = super().slates(client_id, split)
            longest = max(found, key=lambda slate: len(slate.history), default=None)
            return found if longest is None else [*found, replace(longest, **wrong)]

    odd, plain = (make(tmp_path / type(dataset).__name__, features, dataset=dataset) for dataset in (Odd(), Dated()))
    assert len(odd.slates("large", split)) == len(plain.slates("large", split))
    reply = Vault(odd, "large").train(toy_request(odd))
    assert reply.code == "ok"


def test_a_client_trains_on_what_is_not_older_than_it_promised(tmp_path, features):
    workspace = make(tmp_path, features)
    assert len(workspace.slates("large", "train")) == 31  # of 40, a day each
    assert len(workspace.batch("large", "train")) == 31
    workspace.ledger.clock_days.days += 10
    assert len(workspace.batch("large", "train")) == 21, "a batch that was made before is not kept"
    assert len(workspace.slates("large", "train", charged_days=TODAY - 5)) == 16, "none that came after the charge"
    whole = make(tmp_path / "whole", features, retention_days=None, renew_every_days=None)
    assert len(whole.batch("large", "train")) == 40


def test_a_client_whose_people_stay_away_has_nothing_left_and_answers_all_the_same(tmp_path, features):
    workspace = make(tmp_path, features, dataset=Dated(last=60.0), metrics=MetricsSettings(every=1))
    assert workspace.slates("large", "train") == workspace.slates("large", "validation") == []
    vault = Vault(workspace, "large")
    assert vault.train(toy_request(workspace)).code == "ok"
    assert vault.release_metrics(question(workspace)).code == "ok"


def test_a_budget_renews_with_the_calendar_and_a_datum_pays_in_the_periods_of_its_life(tmp_path, features):
    one = make(tmp_path / "plan", features).mechanism.event
    workspace = make(tmp_path, features, budget_epsilon=epsilon([one], 1e-6))
    vault, clock = Vault(workspace, "large"), workspace.ledger.clock_days
    assert [vault.train(toy_request(workspace, round_number=n)).code for n in (1, 2)] == ["ok", "exhausted"]
    clock.days += 30
    assert vault.train(toy_request(workspace, round_number=3)).code == "ok"
    standing = workspace.ledger.account(workspace.dataset.data_identity("large"), workspace.policy).standing()
    assert standing.epsilon == epsilon([one], 1e-6)
    assert standing.lifetime_epsilon == epsilon([one, one], 1e-6)


def test_what_came_after_the_servers_charge_waits_for_the_next_round(tmp_path, features):
    """Under central noise the server charged up to a timeout before a device looks at its data."""
    central = {"mechanism": "client_update", "unit": "client", "noise_multiplier": 1.0, "epsilon": None}

    class Devices(Dated):
        def kind(self, client_id):
            return "device"

    def newest(noise_at):
        made = make(tmp_path / noise_at, features, dataset=Devices(), **central, noise_at=noise_at)
        return max(slate.time_days for slate in made.slates("large", "train"))

    assert newest("local") == 100.0
    assert newest("central") == 99.0  # the one of this very moment may be younger than the charge


def test_data_without_a_calendar_cannot_be_dropped_so_nothing_renews(tmp_path, features):
    with pytest.raises(PrivacyError, match="a first day that it does not name"):
        make(tmp_path, features, dataset=ToyDataset())


@pytest.mark.parametrize(
    ("privacy", "message"),
    [
        ({"renew_every_days": 30}, "privacy.retention_days beside"),
        ({"retention_days": 0.5}, r"privacy.retention_days=0.5 in \[1"),
        ({"retention_days": 30, "noise": "seeded"}, "privacy.noise: secure"),
    ],
)
def test_renewals_that_would_not_hold_are_refused(privacy, message):
    with pytest.raises(ConfigError, match=message):
        parse({"privacy": {"mechanism": "dp_sgd", "noise_multiplier": 1.0, **privacy}})
