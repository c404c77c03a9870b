"""At stake: a reply that is asked for again is the one that was computed, not a second draw over the same data."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from client.outbox import KEPT_ROUNDS, Outbox
from mmrank.errors import PrivacyError
from mmrank.protocol import TrainReply


def reply(value: float = 1.0, *, round_number: int = 1, client: str = "a") -> TrainReply:
    update = {"w": np.array([[value, np.pi]], np.float32), "empty": np.zeros((0, 3), np.float32)}
    return TrainReply(code="ok", client=client, round_number=round_number, update=update, epsilon=0.125)


def key(*, round_number: int = 1, client: str = "a", run: str = "run", input_hash: str = "hash") -> dict:
    return {"run": run, "client": client, "round_number": round_number, "input_hash": input_hash}


def test_the_same_bytes_come_back_in_another_process_life(tmp_path):
    Outbox(tmp_path / "outbox.sqlite").put(reply(), run="run", input_hash="hash")
    kept = Outbox(tmp_path / "outbox.sqlite").get(TrainReply, **key())
    assert kept is not None
    assert (kept.code, kept.epsilon, kept.client, kept.round_number) == ("ok", 0.125, "a", 1)
    for name, array in reply().update.items():
        assert kept.update[name].dtype == array.dtype
        assert kept.update[name].tobytes() == array.tobytes()
        assert kept.update[name].shape == array.shape


def test_an_epsilon_without_bound_is_kept(tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put(
        TrainReply(code="ok", client="a", round_number=1, update={}, epsilon=float("inf")), run="r", input_hash="h"
    )
    assert outbox.get(TrainReply, **key(run="r", input_hash="h")).epsilon == float("inf")


@pytest.mark.parametrize("other", [{"round_number": 2}, {"client": "b"}, {"run": "other"}, {"input_hash": "other"}])
def test_another_request_finds_nothing(tmp_path, other):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put(reply(), run="run", input_hash="hash")
    assert outbox.get(TrainReply, **key(**other)) is None


def test_the_first_reply_wins(tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put(reply(1.0), run="run", input_hash="hash")
    assert outbox.put(reply(2.0), run="run", input_hash="hash").update["w"][0, 0] == 1.0


def test_old_rounds_make_room_for_new_ones_of_the_same_client(tmp_path):
    outbox = Outbox(tmp_path / "outbox.sqlite")
    outbox.put(reply(client="b"), run="run", input_hash="hash")
    for number in range(1, KEPT_ROUNDS + 2):
        outbox.put(reply(round_number=number), run="run", input_hash="hash")
    assert outbox.get(TrainReply, **key(round_number=1)) is None
    assert outbox.get(TrainReply, **key(round_number=2)) is not None
    assert outbox.get(TrainReply, **key(client="b")) is not None


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "outbox.sqlite").write_bytes(b"damaged" * 500)
    with pytest.raises(PrivacyError, match="can't be opened"):
        Outbox(tmp_path / "outbox.sqlite").get(TrainReply, **key())


PUTTER = """
import sys
from client.outbox import Outbox
from tests.client.test_outbox import reply
outbox = Outbox(sys.argv[1])
for number in range(1, 100_000):
    outbox.put(reply(float(number), round_number=number), run="run", input_hash="hash")
    print(number, flush=True)
"""


def test_what_was_put_survives_kill_9(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", PUTTER, str(tmp_path / "o.sqlite")], stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if int(line) == 5:
            break
    process.send_signal(signal.SIGKILL)
    last = 5 + len(process.stdout.read().split())
    process.stdout.close()
    process.wait()
    kept = Outbox(tmp_path / "o.sqlite").get(TrainReply, **key(round_number=last))
    assert kept is not None
    assert kept.update["w"][0, 0] == last
