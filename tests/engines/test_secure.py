"""At stake: a server that sees one update, a noisy sum that is not the sum, a charge without its noise."""

import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmrank.errors import ConfigError
from mmrank.privacy.accountant import Event, epsilon
from mmrank.privacy.distributed_update import dimension_of, flat
from mmrank.privacy.mechanism import build_mechanism
from mmrank.protocol import TrainRequest
from mmrank.ranker import build_ranker, parameters_of
from mmrank.secure_sum import arrays
from mmrank.secure_sum.sum_round import SumRound
from server.rounds import run_rounds
from server.secure_rounds import open_secure
from simulations._facts import privacy_facts
from simulations.budget.ask import ask_of
from simulations.engines.inline import federate
from tests.engines.secure_federation import Federation, settings_of
from tests.federations import write_config
from tests.secure_sum.rounds import Party, View
from tests.secure_sum.test_server_view import is_uniform, without_known_masks

ROOT = Path(__file__).resolve().parents[2]
QUIET = {"noise_multiplier": 1e-4}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


def same(left, right):
    return set(left) == set(right) and all(left[name].tobytes() == right[name].tobytes() for name in left)


def mechanism_of(federation):
    settings = federation.settings
    dimension = dimension_of(federation.workspace.shapes)
    return build_mechanism(settings.privacy, settings.training, settings.federation, dimension=dimension)


def plain_sum(folder, cache, left, **federation):
    """The model of the same round with central noise that is next to none, over the devices that are `left`."""
    settings = settings_of(
        cache,
        noise_at="central",
        secure_threshold=None,
        federation={"rounds": 1, **federation},
        **QUIET,
    )
    central = Federation(settings, folder, lost=None)
    gone = set(range(8)) - set(left)
    answer = central._answer

    def without(message, context):
        if message.metadata.message_type == "train" and context.node_config["partition-id"] in gone:
            raise ConnectionError("gone")
        return answer(message, context)

    central._answer = without
    return central.train()


@pytest.mark.parametrize(
    ("lost", "left"),
    [
        ({}, range(8)),
        ({"advertise": [0, 1, 2]}, range(3, 8)),
        ({"share": [0, 3, 7]}, [1, 2, 4, 5, 6]),
        ({"mask": [1, 2, 3]}, [0, 4, 5, 6, 7]),
        ({"confirm": [1, 5]}, range(8)),
        ({"unmask": [2, 3, 4]}, range(8)),
        ({"advertise": [0], "share": [1], "mask": [2]}, range(3, 8)),
    ],
    ids=["nobody", "at advertise", "at share", "at mask", "at confirm", "at unmask", "at each"],
)
def test_the_model_is_that_of_the_plain_sum_whoever_falls_out_and_when(tmp_path, cache, lost, left):
    secure = Federation(
        settings_of(cache, federation={"rounds": 1}, **QUIET),
        tmp_path / "secure",
        {(1, step): rows for step, rows in lost.items()},
    )
    start = secure.workspace.shapes
    start = {name: array.copy() for name, array in start.items()}
    model, plain = secure.train(), plain_sum(tmp_path / "plain", cache, left)
    shares, survivors = mechanism_of(secure).shares, len(list(left))
    # of one number: each survivor's noise and rounding, over the public cohort
    std = shares.granularity * np.sqrt(survivors * (shares.share_variance + 0.25)) / 8
    assert std < 1e-4
    difference = flat(model) - flat(plain)
    assert np.abs(difference).max() < 6 * std
    assert np.linalg.norm(flat(plain) - flat(start)) > 100 * std, "the model moved by far more than that"
    gone = len({row for rows in lost.values() for row in rows})
    assert len(secure.reports[0].dropped) == gone
    assert secure.reports[0].aggregated


def test_noise_of_the_claimed_size_is_in_the_model(tmp_path, cache):
    """Rejects two thirds and three halves of it."""
    shown = []
    for name, multiplier in (("quiet", 1e-4), ("loud", 2.0)):
        federation = Federation(
            settings_of(cache, federation={"rounds": 1}, noise_multiplier=multiplier), tmp_path / name
        )
        shown.append(flat(federation.train()))
    shares = mechanism_of(federation).shares
    assert (shares.threshold, shares.cohort) == (5, 8)
    std = 2.0 * 0.5 * np.sqrt(8 / 5) / 8  # eight shares of variance z^2 C^2 / 5
    measured = np.std(shown[1] - shown[0])
    assert 0.9 * std < measured < 1.1 * std, measured / std


@pytest.mark.parametrize("step", ["advertise", "share", "mask", "confirm", "unmask"])
def test_below_the_threshold_the_round_is_thrown_away_and_the_charge_stays(tmp_path, cache, step, caplog):
    settings = settings_of(cache)
    federation = Federation(settings, tmp_path, {(1, step): [0, 2, 4, 6]})
    model = federation.train()
    first, second = federation.reports
    assert (first.aggregated, second.aggregated) == (False, True)
    assert same(first.parameters, federation_start(federation))
    assert not same(model, first.parameters)
    assert "thrown away" in caplog.text
    event = mechanism_of(federation).event
    charged = 1 if step in ("advertise", "share") else 2
    once, twice = (epsilon([event] * count, settings.privacy.delta) for count in (1, 2))
    assert set(federation.epsilons().values()) == ({once} if charged == 1 else {twice})
    assert second.epsilon_max == pytest.approx(once if charged == 1 else twice)


def federation_start(federation):
    return parameters_of(build_ranker(federation.settings.model, seed=federation.settings.seed))


def test_each_device_is_charged_what_its_shares_of_the_noise_are_worth(tmp_path, cache):
    federation = Federation(settings_of(cache), tmp_path)
    federation.train()
    event = mechanism_of(federation).event
    assert event == Event(
        sampling_rate=1.0,
        noise_multiplier=mechanism_of(federation).shares.effective_noise_multiplier,
        steps=1,
        family="concentrated",
    )
    assert 0.99 < event.noise_multiplier < 1.0
    spent = epsilon([event] * 2, 1e-5)
    assert set(federation.epsilons().values()) == {spent}
    assert federation.reports[-1].epsilon_max == federation.reports[-1].epsilon_median == spent


def test_a_spent_device_says_so_before_it_makes_a_key_and_the_run_ends_when_too_few_are_left(tmp_path, cache, caplog):
    once = epsilon([Event(sampling_rate=1.0, noise_multiplier=0.99, steps=1, family="concentrated")], 1e-5)
    federation = Federation(settings_of(cache, budget_epsilon=1.05 * once, federation={"rounds": 4}), tmp_path)
    federation.train()
    assert [report.codes for report in federation.reports] == [{"ok": 8}, {"exhausted": 8}]
    assert [report.aggregated for report in federation.reports] == [True, False]
    assert max(federation.epsilons().values()) <= 1.05 * once
    assert "Stopping after round 2 of 4" in caplog.text


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_seeded_runs_repeat_bit_for_bit_and_secure_runs_never(tmp_path, cache, noise):
    lost = {(1, "mask"): [2], (2, "share"): [5]}
    models = [Federation(settings_of(cache, noise=noise), tmp_path / str(turn), lost).train() for turn in range(2)]
    assert same(*models) == (noise == "seeded")


def test_the_order_of_replies_does_not_matter_bit_for_bit(tmp_path, cache):
    federations = [Federation(settings_of(cache), tmp_path / str(turn)) for turn in range(2)]
    federations[1].reversed = True
    assert same(*[federation.train() for federation in federations])
    order = [[reply.client for _, reply in federation.sent] for federation in federations]
    assert order[0] != order[1]


class KilledError(BaseException):
    """Ends the process as far as every handler in it goes."""


@pytest.mark.parametrize("noise", ["seeded", "secure"])
@pytest.mark.parametrize("where", ["2 advertise 4", "2 share 0", "2 mask 5", "2 confirm 3", "2 unmask 7"])
def test_a_killed_run_goes_on_and_never_pays_less_than_it_used(tmp_path, cache, noise, where):
    whole = Federation(settings_of(cache, noise=noise), tmp_path / "whole")
    expected = whole.train()

    def kill(at):
        if at == where:
            raise KilledError

    settings = settings_of(cache, noise=noise)
    with pytest.raises(KilledError):
        Federation(settings, tmp_path / "killed", before=kill).train()
    resumed = Federation(settings, tmp_path / "killed")
    model = resumed.train(resume=True)
    assert [report.aggregated for report in resumed.reports] == [True]
    if noise == "seeded":  # the devices answer as before the crash, and draw no second noise
        assert same(model, expected)
        assert resumed.epsilons() == whole.epsilons()
    else:  # the sum that was cut short is never taken up: what it charged is lost
        assert all(paid >= whole.epsilons()[client] for client, paid in resumed.epsilons().items())
        before = 5 if where == "2 mask 5" else 8 if where.startswith(("2 confirm", "2 unmask")) else 0
        assert sum(paid > whole.epsilons()[client] for client, paid in resumed.epsilons().items()) == before


def rounds_view(federation, number=1):
    """The library's view of a server: all that it received in one round, with the round's facts."""
    view, cohort = View(), None
    for request, reply in federation.sent:
        if request.round_number != number:
            continue
        if request.step == "advertise":
            cohort = cohort or round_of(federation, request)
            view.adverts[reply.client] = arrays.advert_from(reply.arrays)
        elif request.step == "share":
            view.shares[reply.client] = arrays.shares_from(reply.arrays, cohort)
        elif request.step == "mask":
            view.masked[reply.client] = arrays.masked_from(reply.arrays)
        elif request.step == "confirm":
            view.survivors = tuple(sorted(arrays.survivors_from(request.arrays, cohort)))
            view.confirmations[reply.client] = arrays.signature_from(reply.arrays)
        else:
            view.reveals[reply.client] = arrays.reveal_from(reply.arrays, cohort)
    return cohort, view


def round_of(federation, request) -> SumRound:
    names = arrays.cohort_from(request.arrays)
    return mechanism_of(federation).shares.sum_round(
        run=request.run, round_number=request.round_number, cohort=names, agreed=request.config_sha256
    )


def test_all_that_the_server_ever_saw_rebuilds_the_sum_and_no_update(tmp_path, cache):
    federation = Federation(
        settings_of(cache, federation={"rounds": 1}), tmp_path, {(1, "share"): [0], (1, "mask"): [1]}
    )
    federation.train()
    round_, view = rounds_view(federation)
    assert len(view.survivors) == 6
    assert round_.bits == 16
    party = Party(round_=round_, identities={name: federation.keys.identity(name) for name in round_.cohort})
    left = {name: without_known_masks(party, view, name) for name in view.survivors}
    for count in range(1, len(left)):
        for chosen in itertools.combinations(sorted(left), count):
            partial = np.sum([left[name] for name in chosen], axis=0, dtype=np.uint16)
            assert is_uniform(partial), chosen
    whole = np.sum(list(left.values()), axis=0, dtype=np.uint16)
    assert not is_uniform(whole), "the sum of all of them is what is learned"
    # the model is in what was sent to the clients; nothing else that came from one of them is in the clear
    shares = mechanism_of(federation).shares
    assert np.abs(whole.astype(np.int16)).max() < 20 * np.sqrt(8 * shares.share_variance)


def test_a_cohort_that_the_plan_does_not_bear_is_drawn_again_or_nobody_is_asked(tmp_path, cache, caplog):
    settings = settings_of(
        cache, sampling_rate=0.5, secure_threshold=4, secure_cohort=7, federation={"rounds": 4, "cohort_size": 4}
    )
    federation = Federation(settings, tmp_path / "some")
    federation.train()
    assert all(4 <= report.cohort_size <= 7 for report in federation.reports)
    population = open_secure(
        settings, parameters=federation.workspace.shapes, state_dir=tmp_path, roster=tmp_path / "roster.json"
    )
    request = TrainRequest(run="r", round_number=1, config_sha256="", parameters=federation.workspace.shapes)
    sizes = {
        len(population.draw(federation.clients, replace(request, round_number=number))) for number in range(1, 101)
    }
    assert sizes == {4, 5, 6, 7}, "of eight at q = 1/2, a third of all draws are smaller"
    never = settings_of(
        cache, sampling_rate=1.0, secure_threshold=4, secure_cohort=7, federation={"rounds": 1, "cohort_size": 7}
    )
    federation = Federation(never, tmp_path / "never")
    federation.train()
    assert federation.sent == []
    assert not federation.reports[0].aggregated
    assert set(federation.epsilons().values()) == {0.0}
    assert "thrown away before anybody is asked" in caplog.text


def test_an_epsilon_is_kept_over_a_devices_participations(tmp_path, cache):
    settings = settings_of(cache, noise_multiplier=None, epsilon=4.0)
    federation = Federation(settings, tmp_path)
    federation.train()
    assert [report.codes for report in federation.reports] == [{"ok": 8}] * 2
    assert 3.9 < max(federation.epsilons().values()) <= 4.0


def test_the_inline_engine_makes_identities_and_trains(tmp_path, cache):
    settings = settings_of(cache)
    model = federate(settings, config_path=write_config(settings, tmp_path), state_dir=tmp_path / "state")
    assert same(model, Federation(settings, tmp_path / "apps").train())
    for name in ("identities.secret", "secure-sums.sqlite"):
        assert (tmp_path / "state" / name).stat().st_mode & 0o077 == 0


def test_the_result_says_what_is_promised_and_on_whom_it_rests(tmp_path, cache):
    settings = settings_of(cache, colluders=1, secure_threshold=6)
    federation = Federation(settings, tmp_path)
    federation.train()
    facts = privacy_facts(settings, federation.state_dir)
    spent = epsilon([mechanism_of(federation).event] * 2, 1e-5)
    assert facts["epsilon_max"] == facts["epsilon_server_view"] == spent
    assert facts["noise_multiplier"] == mechanism_of(federation).event.noise_multiplier
    assert (facts["secure_threshold"], facts["secure_cohort"], facts["colluders"]) == (6, 8, 1)
    assert facts["sampling_rate"] == 1.0
    assert facts["accountant"].startswith("RDP")
    assert facts["adjacency"].startswith("zero-out")
    assert "honest" in facts["trust"]
    assert facts["view"] == "the server and all who see the models"
    assert ask_of(settings).noise_multiplier == facts["noise_multiplier"]


def test_a_server_without_a_roster_says_so(tmp_path, cache):
    with pytest.raises(ConfigError, match="roster"):
        run_rounds(settings_of(cache), initial={}, messenger=None, checkpoint_dir=tmp_path / "c", resume=False)


@pytest.mark.slow
def test_a_run_that_is_killed_by_the_system_ends_in_the_same_model(tmp_path, cache):
    settings = settings_of(cache, federation={"rounds": 3})
    expected = Federation(settings, tmp_path / "whole").train()
    script = (
        "import json, os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.engines.secure_federation import Federation\n"
        "from mmrank.settings import parse\n"
        "def kill(at):\n"
        "    if at == '2 mask 5': os.kill(os.getpid(), signal.SIGKILL)\n"
        "Federation(parse(json.loads(sys.argv[1])), Path(sys.argv[2]), before=kill).train()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(settings.to_dict()), str(tmp_path / "killed")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert same(Federation(settings, tmp_path / "killed").train(resume=True), expected)
