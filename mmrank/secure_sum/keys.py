"""Who is who, and keys that two clients share: Ed25519, X25519 (RFC 7748, 8032), HKDF-SHA256, ChaCha20-Poly1305.

An identity outlives rounds and signs the keys of each round. A roster says which identity belongs to which client;
it comes from the client's operator, never from the server that the client talks to: else the server could invent peers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from mmrank.errors import ConfigError, SecureSumError

KEY_BYTES = 32
SIGNATURE_BYTES = 64
_NONCE_BYTES, _TAG_BYTES = 12, 16


class Identity:
    """A client's long-lived Ed25519 key. `secret_bytes` is what its operator keeps, readable by nobody else."""

    def __init__(self, secret: bytes | None = None) -> None:
        if secret is not None and len(secret) != KEY_BYTES:
            raise SecureSumError(
                f"Expected an identity of {KEY_BYTES} bytes, not {len(secret)}; make one by Identity()."
            )
        self._key = Ed25519PrivateKey.generate() if secret is None else Ed25519PrivateKey.from_private_bytes(secret)

    @property
    def public(self) -> bytes:
        """32 bytes for the roster."""
        return self._key.public_key().public_bytes_raw()

    def secret_bytes(self) -> bytes:
        """32 secret bytes, from which `Identity(secret)` makes the same identity."""
        return self._key.private_bytes_raw()

    def sign(self, statement: bytes) -> bytes:
        """64 bytes."""
        return self._key.sign(statement)

    def __reduce__(self) -> NoReturn:
        raise SecureSumError(
            "An Identity is not pickled or copied; keep its secret_bytes where nobody else reads them."
        )


@dataclass(frozen=True)
class Roster:
    """Client -> its identity's 32 public bytes. Raises ConfigError for another length, or one that two hold."""

    identities: Mapping[str, bytes]

    def __post_init__(self) -> None:
        holders: dict[bytes, str] = {}
        for client, public in self.identities.items():
            if len(public) != KEY_BYTES:
                raise ConfigError(f"Expected {KEY_BYTES} bytes as the identity of {client}, not {len(public)}.")
            first = holders.setdefault(bytes(public), client)
            if first != client:
                raise ConfigError(f"{first} and {client} have one identity in the roster; each client needs its own.")

    @classmethod
    def read(cls, path: Path) -> Roster:
        """From a JSON object of names and hexadecimal keys, as `write` makes it. Raises ConfigError."""
        try:
            named = json.loads(path.read_text(), object_pairs_hook=_without_repeats)
            return cls({name: bytes.fromhex(public) for name, public in named.items()})
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise ConfigError(f"Expected a roster in {path}: a JSON object of client names and hex keys.") from error

    def write(self, path: Path) -> None:
        """As a JSON object, in the order of names."""
        path.write_text(json.dumps({name: self.identities[name].hex() for name in sorted(self.identities)}, indent=1))

    def check(self, client: str, statement: bytes, signature: bytes) -> None:
        """Raise SecureSumError unless `client` is listed and signed that very statement."""
        public = self.identities.get(client)
        if public is None:
            raise SecureSumError(f"{client} is not in the roster; its operator hands out the identity, not the server.")
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature, statement)
        except InvalidSignature as error:
            raise SecureSumError(f"The signature of {client} is not for this statement of this round.") from error


def _without_repeats(pairs: list[tuple[str, str]]) -> dict[str, str]:
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names):
        raise ValueError("a client is listed twice")
    return dict(pairs)


def new_agreement_key() -> bytes:
    """32 secret bytes of an X25519 key."""
    return X25519PrivateKey.generate().private_bytes_raw()


def agreement_public(secret: bytes) -> bytes:
    """The 32 public bytes of an X25519 key."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def agree(secret: bytes, peer_public: bytes, statement: bytes) -> bytes:
    """32 bytes that the two holders share, for the purpose that `statement` names: HKDF(X25519, info=statement).

    Raises SecureSumError for a public key of low order, whose agreement everybody knows.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(secret).exchange(X25519PublicKey.from_public_bytes(peer_public))
    except ValueError as error:
        raise SecureSumError("A peer's public key is no key that can be agreed with.") from error
    return derive(shared, statement)


def derive(secret: bytes, statement: bytes) -> bytes:
    """A 32-byte key for the purpose that `statement` names."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=statement).derive(secret)


def seal(key: bytes, plaintext: bytes, statement: bytes) -> bytes:
    """Nonce and ciphertext, SEAL_BYTES longer than the plaintext, that open under this key and statement alone."""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + ChaCha20Poly1305(key).encrypt(nonce, plaintext, statement)


SEAL_BYTES = _NONCE_BYTES + _TAG_BYTES


def unseal(key: bytes, sealed: bytes, statement: bytes) -> bytes:
    """The plaintext. Raises SecureSumError for what was sealed otherwise, or changed on the way."""
    try:
        return ChaCha20Poly1305(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], statement)
    except (InvalidTag, ValueError) as error:
        raise SecureSumError(
            "A sealed share does not open: it is of another round or sender, or was changed."
        ) from error
