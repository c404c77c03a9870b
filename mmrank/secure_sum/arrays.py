"""The five exchanges of a secure sum as named arrays, and back: the one spelling that client and server share.

    step       to the client                                        from the client
    advertise  cohort: uint8, JSON list of names                    advert: uint8 [128]
    share      adverts/: a table of width 128                       sealed/: a table of width 94; commitment: uint8 [32]
    mask       inbox/: a table of width 94; model/NAME: float32     masked: uint16 or uint32 [length]
    confirm    survivors: int32 [n], places in the sorted cohort    signature: uint8 [64]
    unmask     confirmations/: a table of width 64                  seeds/, keys/: two tables of width 33

A table is two arrays, clients and rows: see mmrank.secure_sum.messages. All that comes in is checked for names, types
and shapes before it is used, and SecureSumError raised where they are others.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import numpy as np

from mmrank.errors import SecureSumError
from mmrank.secure_sum.keys import SIGNATURE_BYTES
from mmrank.secure_sum.messages import (
    ADVERT_BYTES,
    COMMITMENT_BYTES,
    SEALED_SHARES_BYTES,
    Reveal,
    Shares,
    Table,
    pack,
    unpack,
)
from mmrank.secure_sum.shamir import SHARE_BYTES
from mmrank.secure_sum.sum_round import MAX_COHORT, SumRound

Arrays = dict[str, np.ndarray]
MODEL = "model/"
_LONGEST_NAME = 1024

_BYTES, _PLACES = ("uint8",), ("int32",)
FROM_CLIENT: Mapping[str, Mapping[str, tuple[tuple[str, ...], tuple[int | None, ...]]]] = {
    "advertise": {"advert": (_BYTES, (ADVERT_BYTES,))},
    "share": {
        "sealed/clients": (_PLACES, (None,)),
        "sealed/rows": (_BYTES, (None, SEALED_SHARES_BYTES)),
        "commitment": (_BYTES, (COMMITMENT_BYTES,)),
    },
    "mask": {"masked": (("uint16", "uint32"), (None,))},
    "confirm": {"signature": (_BYTES, (SIGNATURE_BYTES,))},
    "unmask": {
        "seeds/clients": (_PLACES, (None,)),
        "seeds/rows": (_BYTES, (None, SHARE_BYTES)),
        "keys/clients": (_PLACES, (None,)),
        "keys/rows": (_BYTES, (None, SHARE_BYTES)),
    },
}
"""By step, all that a client ever sends: types and shapes by name, None a size that the round decides."""


def fault_from_client(step: str, arrays: Mapping[str, np.ndarray]) -> str | None:
    """Why `arrays` are not what a client sends in that step, or None. A table without rows has no width."""
    expected = FROM_CLIENT[step]
    if set(arrays) != set(expected):
        return f"names {sorted(set(arrays) ^ set(expected))} are missing or unknown"
    for name, (dtypes, shape) in expected.items():
        array = arrays[name]
        fits = len(array.shape) == len(shape) and all(
            wanted is None or wanted == size for size, wanted in zip(array.shape, shape, strict=True)
        )
        if array.dtype.name not in dtypes or not (fits or (array.size == 0 and array.ndim == 2 == len(shape))):
            return f"{name} is {array.dtype.name} of shape {array.shape}"
    return None


def cohort_to(names: Collection[str]) -> Arrays:
    """advertise, to the client: who is asked."""
    return {"cohort": np.frombuffer(json.dumps(sorted(names)).encode(), dtype=np.uint8).copy()}


def cohort_from(arrays: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The names of `cohort_to`."""
    text = _bytes(_only(arrays, "cohort"))
    if len(text) > MAX_COHORT * _LONGEST_NAME:
        raise SecureSumError(f"Expected a cohort of at most {MAX_COHORT} names, got {len(text)} bytes.")
    try:
        names = json.loads(text)
    except ValueError as error:
        raise SecureSumError("Expected the cohort as a JSON list of names.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise SecureSumError("Expected the cohort as a JSON list of names.")
    return tuple(names)


def advert_to(advert: bytes) -> Arrays:
    """advertise, from the client."""
    return {"advert": _array(advert)}


def advert_from(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The advert of `advert_to`."""
    return _bytes(_only(arrays, "advert"), ADVERT_BYTES)


def adverts_to(adverts: Table, round_: SumRound) -> Arrays:
    """share, to the client: the adverts of all who sent one."""
    return _table_to("adverts", adverts, round_)


def adverts_from(arrays: Mapping[str, np.ndarray], round_: SumRound) -> Table:
    """The table of `adverts_to`."""
    return _tables_from(arrays, round_, adverts=ADVERT_BYTES)["adverts"]


def shares_to(shares: Shares, round_: SumRound) -> Arrays:
    """share, from the client: a sealed share for each of the others."""
    return _table_to("sealed", shares.sealed, round_) | {"commitment": _array(shares.commitment)}


def shares_from(arrays: Mapping[str, np.ndarray], round_: SumRound) -> Shares:
    """The shares of `shares_to`."""
    rest = {name: array for name, array in arrays.items() if name != "commitment"}
    commitment = _only({name: array for name, array in arrays.items() if name not in rest}, "commitment")
    sealed = _tables_from(rest, round_, sealed=SEALED_SHARES_BYTES)["sealed"]
    return Shares(sealed=sealed, commitment=_bytes(commitment, COMMITMENT_BYTES))


def inbox_to(inbox: Table, round_: SumRound, parameters: Mapping[str, np.ndarray]) -> Arrays:
    """mask, to the client: what the others sealed for it, and the round's model."""
    return _table_to("inbox", inbox, round_) | {f"{MODEL}{name}": array for name, array in parameters.items()}


def model_from(arrays: Mapping[str, np.ndarray]) -> Arrays:
    """The model of `inbox_to`; names, types and shapes are for the caller to check."""
    return {name.removeprefix(MODEL): array for name, array in arrays.items() if name.startswith(MODEL)}


def inbox_from(arrays: Mapping[str, np.ndarray], round_: SumRound) -> Table:
    """The inbox of `inbox_to`."""
    rest = {name: array for name, array in arrays.items() if not name.startswith(MODEL)}
    return _tables_from(rest, round_, inbox=SEALED_SHARES_BYTES)["inbox"]


def masked_to(vector: np.ndarray) -> Arrays:
    """mask, from the client."""
    return {"masked": vector}


def masked_from(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """The vector of `masked_to`; its type and shape are for the server to check."""
    return _only(arrays, "masked")


def survivors_to(survivors: Collection[str], round_: SumRound) -> Arrays:
    """confirm, to the client: whose masked vectors are in the sum."""
    return {"survivors": np.array([round_.points[name] - 1 for name in sorted(survivors)], dtype=np.int32)}


def survivors_from(arrays: Mapping[str, np.ndarray], round_: SumRound) -> tuple[str, ...]:
    """The names of `survivors_to`."""
    places = _only(arrays, "survivors")
    size = len(round_.cohort)
    if places.dtype != np.int32 or places.ndim != 1 or not 1 <= len(places) <= size:
        raise SecureSumError(f"Expected survivors as int32 [1 to {size}], not {places.dtype} of {places.shape}.")
    if not 0 <= int(places.min()) <= int(places.max()) < size:
        raise SecureSumError(f"Expected places of survivors in [0, {size}), the cohort.")
    return tuple(round_.cohort[place] for place in places.tolist())


def signature_to(signature: bytes) -> Arrays:
    """confirm, from the client."""
    return {"signature": _array(signature)}


def signature_from(arrays: Mapping[str, np.ndarray]) -> bytes:
    """The signature of `signature_to`."""
    return _bytes(_only(arrays, "signature"), SIGNATURE_BYTES)


def confirmations_to(confirmations: Table, round_: SumRound) -> Arrays:
    """unmask, to the client: the signatures of those who confirmed."""
    return _table_to("confirmations", confirmations, round_)


def confirmations_from(arrays: Mapping[str, np.ndarray], round_: SumRound) -> Table:
    """The table of `confirmations_to`."""
    return _tables_from(arrays, round_, confirmations=SIGNATURE_BYTES)["confirmations"]


def reveal_to(reveal: Reveal, round_: SumRound) -> Arrays:
    """unmask, from the client: shares of the survivors' seeds and of the others' mask keys."""
    return _table_to("seeds", reveal.seeds, round_) | _table_to("keys", reveal.keys, round_)


def reveal_from(arrays: Mapping[str, np.ndarray], round_: SumRound) -> Reveal:
    """The shares of `reveal_to`."""
    tables = _tables_from(arrays, round_, seeds=SHARE_BYTES, keys=SHARE_BYTES)
    return Reveal(seeds=tables["seeds"], keys=tables["keys"])


def _table_to(name: str, table: Table, round_: SumRound) -> Arrays:
    return {f"{name}/{part}": array for part, array in pack(table, round_).items()}


def _tables_from(arrays: Mapping[str, np.ndarray], round_: SumRound, **widths: int) -> dict[str, dict[str, bytes]]:
    """The tables of those names and widths, and no other array."""
    expected = {f"{name}/{part}" for name in widths for part in ("clients", "rows")}
    if set(arrays) != expected:
        raise SecureSumError(f"Expected the arrays {sorted(expected)}, not {sorted(arrays)}.")
    return {
        name: unpack({part: arrays[f"{name}/{part}"] for part in ("clients", "rows")}, round_, width)
        for name, width in widths.items()
    }


def _only(arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if set(arrays) != {name}:
        raise SecureSumError(f"Expected the array {name} alone, not {sorted(arrays)}.")
    return arrays[name]


def _array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, dtype=np.uint8).copy()


def _bytes(array: np.ndarray, width: int | None = None) -> bytes:
    if array.dtype != np.uint8 or array.ndim != 1 or (width is not None and len(array) != width):
        raise SecureSumError(f"Expected uint8 [{width or 'n'}], not {array.dtype} of shape {array.shape}.")
    return array.tobytes()
