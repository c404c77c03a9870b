"""What may stand in a message from a client, and nothing else: the check that every mechanism's replies must pass."""

from __future__ import annotations

import dataclasses
import io
import math
import re

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message
from flwr.common.serde import message_to_proto

from mmrank.privacy.encoding import padded
from mmrank.privacy.metrics_release import from_settings
from mmrank.protocol import CODES, METRIC_SUM, VERSION, Enrolment, EvaluateReply, SumReply, TrainReply
from mmrank.secure_sum.arrays import FROM_CLIENT
from mmrank.settings import Settings
from mmrank.wire import ARRAYS, SCALARS, scalar_fields

ENVELOPE = {
    "_run_id", "_message_id", "_src_node_id", "_dst_node_id", "_src_task_id", "_dst_task_id",
    "_reply_to_message_id", "_group_id", "_created_at", "_ttl", "_message_type", "_delivered_at",
}  # fmt: skip
"""Flower's own metadata, written by flwr."""


def leaks(reply: Message, asked: Message, *, client: str, settings: Settings) -> list[str]:
    """Everything in `reply` that the protocol does not list, one sentence each; empty where all is well.

    asked: the message that it answers. client: the public name of the client that it was sent to.
    """
    found = _envelope(reply, asked)
    if reply.has_error():
        return [*found, "it is one of Flower's errors, which carry an exception's text"]
    records = reply.content
    if set(records) != {ARRAYS, SCALARS}:
        return [*found, f"it has the records {sorted(records)}"]
    arrays, scalars = records[ARRAYS], records[SCALARS]
    if not isinstance(arrays, ArrayRecord) or not isinstance(scalars, ConfigRecord):
        return [*found, "its records are of other kinds"]
    kind = _kind(asked, scalars)
    if asked.metadata.message_type == "query.sum" and "step" in scalars:
        found += _scalars(scalars, SumReply)
        return found or _sum_reply(scalars, client, asked) + _sum_arrays(scalars, arrays, asked)
    found += _scalars(scalars, kind)
    if not found:
        found += _enrolment(scalars, client, settings) if kind is Enrolment else _reply(scalars, client, asked)
    return found + _arrays(arrays, _expected(kind, asked, settings) if scalars.get("code") == "ok" else {})


def _kind(asked: Message, scalars: ConfigRecord) -> type:
    """What the message that was asked for has to be."""
    if asked.metadata.message_type.startswith("query") and "code" not in scalars:
        return Enrolment
    return EvaluateReply if asked.metadata.message_type.startswith("evaluate") else TrainReply


def _expected(kind: type, asked: Message, settings: Settings) -> dict[str, Array]:
    """Arrays of the names, shapes and types that an answer has to bring."""
    if kind is not EvaluateReply:
        return asked.content[ARRAYS]
    release = from_settings(settings.privacy)
    return {} if release is None else {METRIC_SUM: Array(np.zeros(release.length, np.float32))}


def _envelope(reply: Message, asked: Message) -> list[str]:
    found = [f"its metadata has {name}" for name in set(vars(reply.metadata)) - ENVELOPE]
    found += [f"it has the attribute {name}" for name in set(vars(reply)) - {"_metadata", "_content", "_error"}]
    for name in ("message_type", "group_id", "run_id"):
        if getattr(reply.metadata, name) != getattr(asked.metadata, name):
            found.append(f"its {name} is not the request's")
    return found


def _scalars(scalars: ConfigRecord, kind: type) -> list[str]:
    expected = scalar_fields(kind)
    found = [f"it has the field {name}" for name in sorted(set(scalars) - set(expected))]
    found += [f"it lacks the field {name}" for name in sorted(set(expected) - set(scalars))]
    found += [
        f"its {name} is of type {type(scalars[name]).__name__}"
        for name in expected
        if name in scalars and type(scalars[name]) is not expected[name]
    ]
    return found


def _reply(scalars: ConfigRecord, client: str, asked: Message) -> list[str]:
    found = []
    if scalars["code"] not in CODES:
        found.append("its code is not the protocol's")
    if scalars["client"] not in (client, ""):
        found.append("its client is not the one that was asked")
    if scalars["round_number"] not in (asked.content.get(SCALARS, {}).get("round_number"), 0):
        found.append("its round is not the request's")
    if math.isnan(scalars["epsilon"]) or scalars["epsilon"] < 0:
        found.append("its epsilon is below 0 or no number")
    count, head = scalars["ledger_count"], scalars["ledger_head"]
    if count < 0 or not re.fullmatch(r"[0-9a-f]{64}" if count else "", head):
        found.append("its ledger_head is no hash")
    return found


def _sum_reply(scalars: ConfigRecord, client: str, asked: Message) -> list[str]:
    found = _reply(scalars, client, asked)
    if scalars["step"] != asked.content[SCALARS]["step"]:
        found.append("its step is not the request's")
    if scalars["epsilon"] != 0 and not (scalars["code"] == "exhausted" or scalars["step"] == "mask"):
        found.append("its epsilon stands where nothing is charged")
    if scalars["ledger_count"] and not (scalars["code"] == "exhausted" or scalars["step"] == "mask"):
        found.append("its ledger_head stands where nothing is charged")
    return found


def _sum_arrays(scalars: ConfigRecord, arrays: ArrayRecord, asked: Message) -> list[str]:
    """Types and sizes of a secure sum's arrays, all of them public: the model's length, and who is left."""
    expected = FROM_CLIENT.get(scalars["step"], {}) if scalars["code"] == "ok" else {}
    found = [f"it has the array {name}" for name in sorted(set(arrays) - set(expected))]
    found += [f"it lacks the array {name}" for name in sorted(set(expected) - set(arrays))]
    given = asked.content[ARRAYS]
    for name in sorted(set(arrays) & set(expected)):
        array, (dtypes, shape) = arrays[name], expected[name]
        rows = _rows(name, given, arrays)
        sizes = tuple(rows if size is None else size for size in shape)
        if rows == 0 and len(sizes) == 2:
            sizes = (0, 0)
        if array.dtype not in dtypes or array.stype != "numpy.ndarray" or tuple(array.shape) != sizes:
            found.append(f"its array {name} has another type or shape")
        elif array.data[: -_bytes_of(array) or None] != _header(array):
            found.append(f"its array {name} carries bytes beside the numbers")
    return found


def _rows(name: str, given: ArrayRecord, arrays: ArrayRecord) -> int:
    """How many the round decides: the others who sent an advert, a padded model, or clients in a table of shares."""
    if name.startswith("sealed/"):
        return given["adverts/clients"].shape[0] - 1
    if name == "masked":
        return padded(sum(math.prod(array.shape) for key, array in given.items() if key.startswith("model/")))
    table = arrays.get(name.replace("/rows", "/clients"))
    return table.shape[0] if table is not None and len(table.shape) == 1 else 0


def _bytes_of(array: Array) -> int:
    return np.dtype(array.dtype).itemsize * math.prod(array.shape)


def _header(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(tuple(array.shape), array.dtype))
    return stream.getvalue()[: -_bytes_of(array) or None]


def _enrolment(scalars: ConfigRecord, client: str, settings: Settings) -> list[str]:
    expected = Enrolment(
        client=client,
        kind="merchant",
        mechanism=settings.privacy.mechanism,
        unit=settings.privacy.unit,
        delta=settings.privacy.delta,
        budget_epsilon=settings.privacy.client_budget,
        version=VERSION,
    )
    wrong = [
        name
        for name, value in dataclasses.asdict(expected).items()
        if name != "kind"
        and (scalars[name] != value and not (name in ("mechanism", "unit") and scalars[name] == "none"))
    ]
    found = [f"its {name} is not the public setting" for name in wrong]
    return found + ([] if scalars["kind"] in ("merchant", "device") else ["its kind is not the protocol's"])


def _arrays(arrays: ArrayRecord, expected: dict[str, Array]) -> list[str]:
    found = [f"it has the array {name}" for name in sorted(set(arrays) - set(expected))]
    found += [f"it lacks the array {name}" for name in sorted(set(expected) - set(arrays))]
    for name in sorted(set(arrays) & set(expected)):
        array, like = arrays[name], expected[name]
        if (array.dtype, tuple(array.shape), array.stype) != ("float32", tuple(like.shape), like.stype):
            found.append(f"its array {name} has another type or shape")
        elif array.data[: -_body(like)] != _npy_header(like) or len(array.data) != len(like.data):
            found.append(f"its array {name} carries bytes beside the numbers")
    return found


def _body(array: Array) -> int:
    return 4 * math.prod(array.shape)


def _npy_header(array: Array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.zeros(tuple(array.shape), np.float32))
    return stream.getvalue()[: -_body(array)]


def outline(message: Message) -> dict[str, object]:
    """What an onlooker sees of a reply without its arrays' numbers: names, types, shapes, scalars, bytes."""
    if message.has_error():
        return {"error": (message.error.code, message.error.reason)}
    arrays = message.content[ARRAYS]
    # The envelope's time and lifetime are flwr's, and of one length.
    return {
        "type": message.metadata.message_type,
        "records": list(message.content),
        "arrays": [
            (name, array.dtype, tuple(array.shape), array.stype, len(array.data)) for name, array in arrays.items()
        ],
        "scalars": dict(message.content[SCALARS]),
        "bytes": message_to_proto(message).ByteSize(),
    }
