"""Protocol messages as plain arrays and scalars by name, and back: the one spelling that both ends share.

The fields of mmrank.protocol's dataclasses are the names on the wire. What comes from the other end is
checked field by field; a message with a field more or less is no message.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import math
import typing
from collections.abc import Mapping
from typing import Literal, TypeVar

import numpy as np

from mmrank.errors import ProtocolError
from mmrank.protocol import (
    METRIC_SUM,
    Enrolment,
    EvaluateReply,
    EvaluateRequest,
    Reply,
    Request,
    SumReply,
    SumRequest,
    TrainReply,
    TrainRequest,
    check_code,
    check_step,
    check_update,
)
from mmrank.secure_sum.arrays import fault_from_client

ARRAYS = "arrays"
"""The record that holds the arrays of a message."""
SCALARS = "scalars"
"""The record that holds its numbers and words."""

Scalar = str | int | float
Message = Request | Reply | Enrolment | SumRequest | SumReply
Kind = TypeVar("Kind", TrainRequest, TrainReply, EvaluateRequest, EvaluateReply, Enrolment, SumRequest, SumReply)

_NPY_START = 10
"""Bytes of a .npy file of format 1.0 before its header: magic, version, and the header's length in the last two."""
_NPY_HEADER_LIMIT = 512

_ARRAY_FIELD: dict[type, str] = {
    TrainRequest: "parameters",
    TrainReply: "update",
    EvaluateRequest: "parameters",
    EvaluateReply: "metrics",
    SumRequest: "arrays",
    SumReply: "arrays",
}
_HEAD_LENGTH = 64


def scalar_fields(kind: type) -> Mapping[str, type]:
    """Name -> str, int or float of each field of `kind` that is no array.

    >>> sorted(scalar_fields(TrainReply))
    ['client', 'code', 'epsilon', 'ledger_count', 'ledger_head', 'round_number']
    """
    return _SCALAR_FIELDS[kind]


def _fields(kind: type) -> dict[str, type]:
    hints = typing.get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(kind) if item.name != _ARRAY_FIELD.get(kind)]
    return {name: str if typing.get_origin(hints[name]) is Literal else hints[name] for name in names}


_SCALAR_FIELDS: dict[type, dict[str, type]] = {
    kind: _fields(kind)
    for kind in (TrainRequest, TrainReply, EvaluateRequest, EvaluateReply, Enrolment, SumRequest, SumReply)
}


def to_plain(message: Message) -> tuple[dict[str, np.ndarray], dict[str, Scalar]]:
    """(arrays, scalars) of a message."""
    kind = type(message)
    arrays = dict(getattr(message, _ARRAY_FIELD[kind])) if kind in _ARRAY_FIELD else {}
    return arrays, {name: hint(getattr(message, name)) for name, hint in scalar_fields(kind).items()}


def from_plain(kind: type[Kind], arrays: Mapping[str, np.ndarray], scalars: Mapping[str, object]) -> Kind:
    """The message of that kind. Raises ProtocolError for a field too many, one missing, or one of another type."""
    expected = scalar_fields(kind)
    if set(scalars) != set(expected):
        wrong = sorted(set(scalars) ^ set(expected))
        raise ProtocolError(
            f"Expected the fields {sorted(expected)} of a {kind.__name__}; {wrong} are missing or unknown."
        )
    for name, hint in expected.items():
        if type(scalars[name]) is not hint:
            raise ProtocolError(
                f"Expected {name} of a {kind.__name__} as {hint.__name__}, not {type(scalars[name]).__name__}."
            )
    if "code" in expected:
        check_code(str(scalars["code"]))
    if "step" in expected:
        check_step(str(scalars["step"]))
    if kind is Enrolment and scalars["kind"] not in ("merchant", "device"):
        raise ProtocolError(
            "Expected kind of an Enrolment to be merchant or device; the client speaks another version."
        )
    if kind not in _ARRAY_FIELD and arrays:
        raise ProtocolError(f"Expected no arrays in a {kind.__name__}, got {sorted(arrays)}.")
    values: dict[str, typing.Any] = dict(scalars)
    if kind in _ARRAY_FIELD:
        values[_ARRAY_FIELD[kind]] = dict(arrays)
    return kind(**values)


def npy_from_array(array: np.ndarray) -> bytes:
    """What numpy.save writes for a C-ordered copy of `array`, at a tenth of its cost for a small one."""
    return _npy_header(array.dtype.str, array.shape) + array.tobytes()


def array_from_npy(data: bytes) -> np.ndarray:
    """The array in the bytes of a .npy file; it owns its memory.

    Not numpy.load, which believes the header and sets aside the memory that it names: a few bytes from the
    other end could ask for all of it. Raises ProtocolError where the header can't be read, or the bytes are
    not what it says.
    """
    size = _NPY_START + int.from_bytes(data[_NPY_START - 2 : _NPY_START], "little")
    if size > _NPY_HEADER_LIMIT:
        raise ProtocolError(f"Expected a header of at most {_NPY_HEADER_LIMIT} bytes before an array, got {size}.")
    dtype, shape = _read_npy_header(data[:size])
    if math.prod(shape) * dtype.itemsize != len(data) - size:
        raise ProtocolError(
            f"Expected {len(data) - size} bytes of an array, got the header of a {dtype} array of shape {shape}."
        )
    return np.frombuffer(data, dtype=dtype, offset=size).reshape(shape).copy()


@functools.lru_cache(maxsize=1024)
def _npy_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": dtype, "fortran_order": False, "shape": shape})
    return stream.getvalue()


@functools.lru_cache(maxsize=1024)
def _read_npy_header(header: bytes) -> tuple[np.dtype, tuple[int, ...]]:
    """A model has a few headers, and each comes back in every message."""
    stream = io.BytesIO(header)
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise ProtocolError(f"Expected the header of an array in .npy format 1.0, got {len(header)} bytes.") from error
    if version != (1, 0) or fortran or dtype.hasobject:
        raise ProtocolError(f"Expected a C-ordered array of numbers in .npy format 1.0, got {dtype} in {version}.")
    return dtype, shape


def input_hash(parameters: Mapping[str, np.ndarray]) -> str:
    """sha256 over the names, shapes and float32 values of a request's parameters, in the order of their names."""
    sha = hashlib.sha256()
    for name in sorted(parameters):
        array = np.ascontiguousarray(parameters[name], dtype="<f4")
        sha.update(repr((name, array.shape)).encode())
        sha.update(array.tobytes())
    return sha.hexdigest()


def reply_fault(reply: TrainReply, request: TrainRequest, client: str) -> str | None:
    """Why `reply` is no answer of `client` to `request`, or None where it is.

    The client asks before it sends, the server before it aggregates. A `failed` reply may go without a
    name: what failed may have been to find it.
    """
    if reply.code == "failed" and not reply.client and not reply.update:
        return None
    fault = _scalar_fault(reply, request, client)
    if fault is not None:
        return fault
    if reply.code != "ok":
        return "it carries an update with a code other than ok" if reply.update else None
    return check_update(reply.update, request.parameters)


def metrics_fault(reply: EvaluateReply, request: EvaluateRequest, client: str, *, length: int) -> str | None:
    """The same of an answer with measures; length: of the released vector."""
    if reply.code == "failed" and not reply.client and not reply.metrics:
        return None
    fault = _scalar_fault(reply, request, client)
    if fault is not None:
        return fault
    if reply.code != "ok":
        return "it carries measures with a code other than ok" if reply.metrics else None
    return check_update(reply.metrics, {METRIC_SUM: np.zeros(length, np.float32)})


def _scalar_fault(reply: Reply | SumReply, request: Request | SumRequest, client: str) -> str | None:
    if reply.client != client:
        return f"it names client {reply.client!r}"
    if reply.round_number != request.round_number:
        return f"it answers round {reply.round_number}, not {request.round_number}"
    if math.isnan(reply.epsilon) or reply.epsilon < 0:
        return f"epsilon={reply.epsilon} is below 0 or no number"
    count, digest = reply.head
    if count < 0 or len(digest) != (_HEAD_LENGTH if count else 0) or set(digest) - set("0123456789abcdef"):
        return f"ledger_count={count} and ledger_head={digest[:12]!r} are no head of a ledger"
    return None


def sum_reply_fault(reply: SumReply, request: SumRequest, client: str) -> str | None:
    """Why `reply` is no answer of `client` to that step of a secure sum, or None where it is; see reply_fault."""
    fault = _scalar_fault(reply, request, client)
    if fault is not None:
        return fault
    if reply.step != request.step:
        return f"it answers {reply.step} of round {reply.round_number}, not {request.step}"
    if reply.code != "ok":
        return "it carries arrays with a code other than ok" if reply.arrays else None
    return fault_from_client(reply.step, reply.arrays)
