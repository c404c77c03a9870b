"""At stake: a crash between two releases must not draw a second noise for a round, or one noise for two sums."""

import contextlib
import os
import random
import signal
import stat
import time

import numpy as np
import pytest

from mmrank.errors import PrivacyError
from mmrank.privacy import noise_file
from mmrank.privacy.correlated import CorrelatedNoise
from mmrank.privacy.noise import GRID_BITS, SecureNoise
from mmrank.privacy.noise_file import NoiseFile

SIZE = 6
SENT_ROUNDS = 40
PLAN = CorrelatedNoise(rounds=100, noise_multiplier=1.0, max_participations=5, min_separation=20)


def total(number: int, changed: float = 0.0) -> np.ndarray:
    return np.full(SIZE, float(number)) + changed


def begin(tmp_path, **changes) -> NoiseFile:
    return NoiseFile.begin(tmp_path / "noise", PLAN, **{"size": SIZE, "run": "a", **changes})


def resume(tmp_path, **changes) -> NoiseFile:
    return NoiseFile.resume(tmp_path / "noise", PLAN, **{"size": SIZE, "run": "a", **changes})


def test_a_release_is_on_the_grid_repeats_and_survives_a_restart(tmp_path):
    with begin(tmp_path) as noise:
        first = noise.release(total(1), SecureNoise(), round_number=1)
        second = noise.release(total(2), SecureNoise(), round_number=2)
        assert np.array_equal(first * 2.0**GRID_BITS, np.round(first * 2.0**GRID_BITS))
        np.testing.assert_array_equal(noise.release(total(2), SecureNoise(), round_number=2), second)
    with resume(tmp_path) as noise:
        assert noise.round_number == 2
        np.testing.assert_array_equal(noise.release(total(2), SecureNoise(), round_number=2), second)
        with pytest.raises(PrivacyError, match="another sum"):
            noise.release(total(2, 1e-12), SecureNoise(), round_number=2)
        with pytest.raises(PrivacyError, match="state of the noise"):
            noise.release(total(1), SecureNoise(), round_number=1)
        assert np.isfinite(noise.release(total(3), SecureNoise(), round_number=3)).all()


def test_only_the_owner_reads_the_file(tmp_path):
    old = os.umask(0)
    try:
        with begin(tmp_path) as noise:
            noise.release(total(1), SecureNoise(), round_number=1)
    finally:
        os.umask(old)
    for path in tmp_path.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    (tmp_path / "noise").chmod(0o640)
    with pytest.raises(PrivacyError, match="mode 640"):
        resume(tmp_path)


def test_a_run_is_begun_once_and_a_lost_file_ends_it(tmp_path):
    begin(tmp_path).close()
    with pytest.raises(PrivacyError, match="already holds"):
        begin(tmp_path)
    (tmp_path / "noise").unlink()
    with pytest.raises(PrivacyError, match="begin and charge"):
        resume(tmp_path)


def test_another_runs_file_and_a_file_in_use_are_refused(tmp_path):
    with begin(tmp_path), pytest.raises(PrivacyError, match="open elsewhere"):
        resume(tmp_path)
    for changes in ({"run": "b"}, {"size": SIZE + 1}):
        with pytest.raises(PrivacyError, match="state of the noise"):
            resume(tmp_path, **changes)
    resume(tmp_path).close()


def test_a_file_that_was_cut_short_or_changed_is_refused(tmp_path):
    begin(tmp_path).close()
    path, whole = tmp_path / "noise", (tmp_path / "noise").read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at])
        with pytest.raises(PrivacyError, match="damaged"):
            resume(tmp_path)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(PrivacyError, match="damaged"):
            resume(tmp_path)
    path.write_bytes(whole)
    resume(tmp_path).close()


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_nothing_is_released_that_could_not_be_written_down(tmp_path, monkeypatch, call):
    noise = begin(tmp_path)
    noise.release(total(1), SecureNoise(), round_number=1)
    with monkeypatch.context() as broken:

        def fails(*arguments, **options):
            raise OSError("No space left on device")

        broken.setattr(noise_file.os, call, fails)
        with pytest.raises(OSError, match="No space"):
            noise.release(total(2), SecureNoise(), round_number=2)
    # the noise stays with its sum, in this process and in the next
    released = noise.release(total(2), SecureNoise(), round_number=2)
    with pytest.raises(PrivacyError, match="another sum"):
        noise.release(total(2, 1.0), SecureNoise(), round_number=2)
    noise.close()
    with resume(tmp_path) as again:
        np.testing.assert_array_equal(again.release(total(2), SecureNoise(), round_number=2), released)


def test_a_sum_that_cannot_be_released_draws_nothing(tmp_path):
    with begin(tmp_path) as noise:
        for bad in (total(1).astype(np.float32), total(1)[:-1], total(1, float("nan"))):
            with pytest.raises(PrivacyError, match="float64"):
                noise.release(bad, SecureNoise(), round_number=1)
        assert noise.round_number == 0
    with pytest.raises(PrivacyError, match="closed"):
        noise.release(total(1), SecureNoise(), round_number=1)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_again_and_again_a_round_has_one_release(tmp_path):
    """The child writes down what it sent; whoever is started after kill -9 sends the same, or goes on."""
    rng, kills, runs = random.Random(0), 0, 0
    while kills < 5:  # where the disk is quick, a few children send all rounds of a run
        runs += 1
        assert runs <= 20
        (tmp_path / str(runs)).mkdir()
        kills += _kills_of_a_run(tmp_path / str(runs), rng)


def _kills_of_a_run(tmp_path, rng: random.Random) -> int:
    """Send every round, by as many children as it takes; how many of them were killed."""
    log, kills = tmp_path / "sent", 0
    begin(tmp_path).close()
    log.touch()
    sent: dict[int, bytes] = {}
    while len(sent) < SENT_ROUNDS:
        enough = log.stat().st_size + rng.randint(1, 5) * (16 * SIZE + 3)
        child = os.fork()
        if child == 0:
            try:
                _release_from(tmp_path, log, len(sent))
            finally:
                os._exit(0)
        # at least one new line, so that each child gets on; then at any point of the next releases
        give_up = time.monotonic() + 60
        while log.stat().st_size < enough and os.waitpid(child, os.WNOHANG) == (0, 0):
            assert time.monotonic() < give_up
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.005))
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # it had sent all
            os.kill(child, signal.SIGKILL)
            kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        for line in log.read_bytes().splitlines(keepends=True):
            number, _, value = line.strip().partition(b" ")
            if line.endswith(b"\n") and len(value) == 16 * SIZE:  # not cut short
                assert sent.setdefault(int(number), value) == value
    assert sorted(sent) == list(range(1, SENT_ROUNDS + 1))
    return kills


def _release_from(tmp_path, log, last: int) -> None:
    """Send the last round again, then go on."""
    with resume(tmp_path) as noise, log.open("ab", buffering=0) as file:
        file.write(b"\n")
        for number in range(max(last, 1), SENT_ROUNDS + 1):
            if number < noise.round_number:
                continue  # sent and not read by the parent
            released = noise.release(total(number), SecureNoise(), round_number=number)
            file.write(f"{number} {released.tobytes().hex()}\n".encode())
