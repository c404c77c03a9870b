"""At stake: where nobody vouches for a sample, a run's one charge holds if no noise meets two sums."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from mmrank.errors import CheckpointError, ConfigError, PrivacyError
from mmrank.privacy.accountant import epsilon
from mmrank.privacy.correlated import CorrelatedNoise
from mmrank.protocol import TrainReply
from mmrank.settings import parse
from server.population import open_population
from server.streams import SECRET, Stream
from simulations._facts import promise_of
from tests.server.test_rounds import INITIAL, Room, same, train

STREAM = {
    "mechanism": "client_update",
    "unit": "client",
    "cohorts": "stream",
    "participations": 3,
    "noise": "seeded",
    "noise_multiplier": 2.0,
    "max_grad_norm": 1.0,
    "delta": 1e-5,
}


def configuration(rounds=9, cohort=2, **privacy):
    return parse({"federation": {"rounds": rounds, "cohort_size": cohort}, "privacy": {**STREAM, **privacy}, "seed": 7})


def steady(client, request):
    """The same short update whatever the model."""
    update = {name: np.full_like(array, 0.1) for name, array in request.parameters.items()}
    return TrainReply(code="ok", client=client, round_number=request.round_number, update=update, epsilon=0.5)


def room(clients=6, **changes):
    return Room(clients=clients, answers={f"client-{i}": steady for i in range(clients)}, **changes)


def test_a_run_is_charged_once_whatever_its_rounds(tmp_path):
    settings = configuration()
    _, reports = train(tmp_path / "checkpoint", room(), settings)
    stream = open_population(settings, state_dir=tmp_path)
    event = stream.mechanism.stream.event
    assert stream.account.events() == (event,)
    assert event.sampling_rate == 1.0
    assert event.noise_multiplier == pytest.approx(2.0)  # what was configured is what is charged
    assert {report.epsilon_max for report in reports} == {epsilon([event], 1e-5)}
    assert len(reports) == 9


def test_nobody_takes_part_too_often_or_too_soon(tmp_path):
    here = room(clients=4)
    train(tmp_path / "checkpoint", here, configuration())
    for name in here.names:
        taken = [number for number, (_, asked) in enumerate(here.asked, start=1) if name in asked]
        assert len(taken) <= 3
        assert all(later - earlier >= 3 for earlier, later in zip(taken, taken[1:], strict=False))
    assert any(len(asked) < 2 for _, asked in here.asked)  # there was not always somebody who might


def test_the_noise_of_the_rounds_takes_itself_back(tmp_path):
    """The sum over rounds is known better than independent noise of the same cost would let it be."""
    settings = configuration(rounds=100, participations=1, noise_multiplier=1.0, cohort=1)
    silent = Room(clients=1, answers={"client-0": lambda client, request: None})
    model, _ = train(tmp_path / "checkpoint", silent, settings)
    moved = np.concatenate([(model[name] - INITIAL[name]).ravel() for name in INITIAL])
    stream = open_population(settings, state_dir=tmp_path).mechanism.stream
    independent = np.sqrt(100) * 1.0
    assert stream.matrix.rms_error(100) * stream.std < independent / 2
    assert np.sqrt((moved**2).mean()) < independent


def test_a_device_ledger_never_says_less_than_its_participations_cost():
    for k, b in ((1, 9), (3, 3), (9, 1)):
        plan = CorrelatedNoise(rounds=9, noise_multiplier=4.0, max_participations=k, min_separation=b)
        for taken in range(1, k + 1):
            whole = plan.matrix.sensitivity(9, max_participations=taken, min_separation=b) / 4.0
            assert np.sqrt(taken) / plan.participation_event.noise_multiplier >= whole * (1 - 1e-9)


class Killed(Room):
    def exchange(self, clients, request, timeout_seconds, acknowledged=None):
        if request.round_number == 4:
            raise KeyboardInterrupt
        return super().exchange(clients, request, timeout_seconds, acknowledged)


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_a_killed_run_goes_on_with_the_same_cohort_and_the_noise_that_was_drawn(tmp_path, noise):
    settings = configuration(noise=noise)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed" / "checkpoint", Killed(clients=6, answers=room().answers), settings)
    here = room()
    model, _ = train(tmp_path / "killed" / "checkpoint", here, settings, resume=True)
    if noise == "seeded":
        whole, _ = train(tmp_path / "whole" / "checkpoint", room(), settings)
        assert same(model, whole)
    assert open_population(settings, state_dir=tmp_path / "killed").account.standing().charges == 1


def test_a_round_whose_noise_met_another_sum_is_given_up(tmp_path, caplog):
    """An older checkpoint is put back, and this time a device answers something else."""
    settings = configuration(noise="secure")
    folder = tmp_path / "checkpoint"
    train(folder, room(), settings)
    newest = sorted(folder.glob("round-*.safetensors"))[-1]
    newest.unlink()  # round 9 is done again

    def doubled(client, request):
        reply = steady(client, request)
        return replace(reply, update={name: 2 * array for name, array in reply.update.items()})

    other = {f"client-{i}": doubled for i in range(6)}
    _, reports = train(folder, Room(clients=6, answers=other), settings, resume=True)
    assert [report.aggregated for report in reports] == [False]
    assert "given up" in caplog.text
    assert (tmp_path / SECRET).stat().st_mode & 0o077 == 0


def test_the_same_sum_again_is_the_same_release(tmp_path):
    settings = configuration(noise="secure")
    folder = tmp_path / "checkpoint"
    first, _ = train(folder, room(), settings)
    sorted(folder.glob("round-*.safetensors"))[-1].unlink()
    again, reports = train(folder, room(), settings, resume=True)
    assert same(first, again)
    assert [report.aggregated for report in reports] == [True]


def test_a_sum_leaves_under_one_noise_whichever_copy_of_the_folder_is_quicker(tmp_path, monkeypatch, caplog):
    """A copy runs on while this one stands between binding its sum and letting it go: one of them gives up."""
    settings = configuration(
        rounds=3, participations=1, noise="secure", ledger=str(tmp_path / "kept.sqlite"), budget_epsilon=50.0
    )
    run, copy = tmp_path / "run", tmp_path / "copy"
    bound = Stream._bound

    def slowly(stream, request, digest):
        found = bound(stream, request, digest)
        if request.round_number == 2 and not copy.exists():
            shutil.copytree(run, copy)
            train(copy / "checkpoint", room(), settings, resume=True)
        return found

    monkeypatch.setattr(Stream, "_bound", slowly)
    with pytest.raises(PrivacyError, match="round 3 was released"):  # by the copy, which is ahead
        train(run / "checkpoint", room(), settings)
    assert "its sum left with another noise" in caplog.text
    store = open_population(settings, state_dir=run).store
    with store.read() as connection:
        assert connection.execute("SELECT COUNT(*), COUNT(DISTINCT digest) FROM releases").fetchone() == (3, 3)


def test_noise_that_was_put_back_ends_the_run(tmp_path):
    settings = configuration(
        rounds=3, participations=1, noise="secure", ledger=str(tmp_path / "kept.sqlite"), budget_epsilon=50.0
    )
    run = tmp_path / "run"

    class Backup(Room):
        def exchange(self, clients, request, timeout_seconds, acknowledged=None):
            if request.round_number == 2:
                shutil.copytree(run, tmp_path / "backup")
            return super().exchange(clients, request, timeout_seconds, acknowledged)

    train(run / "checkpoint", Backup(clients=6, answers=room().answers), settings)
    shutil.rmtree(run)
    shutil.copytree(tmp_path / "backup", run)
    with pytest.raises(PrivacyError, match="put back"):
        train(run / "checkpoint", room(), settings, resume=True)


def test_a_run_begun_anew_in_the_same_folder_is_refused(tmp_path):
    settings = configuration()
    train(tmp_path / "checkpoint", room(), settings)
    with pytest.raises(CheckpointError):
        train(tmp_path / "checkpoint", room(), settings)


@pytest.mark.parametrize(
    ("privacy", "said"),
    [
        ({"participations": None}, "privacy.participations"),
        ({"renew_every_days": 30, "retention_days": 30, "noise": "secure"}, "renew_every_days=30"),
        ({"noise_at": "local"}, "noise_at=local"),
        ({"clipping": "adaptive"}, "clipping=adaptive"),
        ({"noise_cohort_size": 100}, "noise_cohort_size=100"),
        ({"mechanism": "dp_sgd", "unit": "slate"}, "cohorts=stream"),
    ],
)
def test_what_no_stream_keeps_is_refused(privacy, said):
    with pytest.raises(ConfigError, match=said):
        configuration(**privacy)


def test_no_sample_is_claimed():
    assert "none counted" in promise_of(configuration().privacy).sampler


def test_a_target_is_met_by_the_whole_run(tmp_path):
    settings = configuration(noise_multiplier=None, epsilon=2.0)
    event = open_population(settings, state_dir=tmp_path).mechanism.population_event
    assert 1.98 <= epsilon([event], 1e-5) <= 2.0
