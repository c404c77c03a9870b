"""Whose signature is whose: a node's own identity and the roster of its peers, or those that a simulation makes.

In a deployment both are files that the node's operator names: `identity`, 64 hexadecimal digits that nobody else can
read, and `roster`, the JSON object that mmrank.secure_sum.keys.Roster reads. Neither is ever the server's to choose.
A simulation derives all identities from one secret in the run's folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmrank.errors import ConfigError, SecureSumError
from mmrank.secure_sum.keys import KEY_BYTES, Identity, Roster, derive

ROSTER = "roster.json"
"""In a simulation's folder; its server reads it there as well."""
SECRET = "identities.secret"


@dataclass(frozen=True, kw_only=True)
class SecureKeys:
    """identity: of each client that this process may speak for. roster: of all."""

    identity: Callable[[str], Identity]
    roster: Roster


def node_keys(identity: Path, roster: Path) -> SecureKeys:
    """Those of a real node. Raises ConfigError for files that can't be read or that others can read."""
    own = read_identity(identity)
    return SecureKeys(identity=lambda client: own, roster=Roster.read(roster.expanduser()))


def new_identity(path: Path) -> str:
    """Write a new identity to `path`, mode 0600, and return its public half for the roster, in hexadecimal.

    Raises ConfigError where the file can't be written, or is there: one that is in a roster must not be overwritten.
    """
    identity = Identity()
    try:
        _write_new(path.expanduser(), identity.secret_bytes().hex().encode())
    except OSError as error:
        raise ConfigError(f"{path} can't be written ({error.strerror}); name a file in a folder of yours.") from error
    return identity.public.hex()


def read_identity(path: Path) -> Identity:
    """The identity in that file. Raises ConfigError where it is none, or where others than its owner can read it."""
    path = path.expanduser()
    try:
        mode, text = path.stat().st_mode, path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Expected identity={path} to be a file of 64 hexadecimal digits ({error}).") from error
    if mode & 0o077:
        raise ConfigError(f"{path} holds a secret key, and others can read it (mode {mode & 0o777:o}); chmod 600 it.")
    try:
        return Identity(bytes.fromhex(text.strip()))
    except (ValueError, SecureSumError) as error:
        raise ConfigError(f"Expected identity={path} to be a file of 64 hexadecimal digits.") from error


def simulated_keys(folder: Path, clients: Sequence[str], *, seed: int | None) -> SecureKeys:
    """Identities for all of a simulation's clients, the same for every process that is given this folder.

    seed: None takes them from the operating system's randomness. They and the roster are made by whoever comes first.
    """
    secret_path, roster_path = folder / SECRET, folder / ROSTER
    if not secret_path.exists():
        secret = os.urandom(KEY_BYTES) if seed is None else hashlib.sha256(f"identities {seed}".encode()).digest()
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(ConfigError):  # another process came first, and its secret is the one
            _write_new(secret_path, secret.hex().encode())
    secret = read_identity(secret_path).secret_bytes()

    def identity(client: str) -> Identity:
        return Identity(derive(secret, f"simulated identity of {client}".encode()))

    roster = Roster.read(roster_path) if roster_path.exists() else None
    if roster is None or set(roster.identities) != set(clients):
        roster = Roster({client: identity(client).public for client in clients})
        draft = roster_path.with_suffix(f".{os.getpid()}.tmp")
        roster.write(draft)
        draft.replace(roster_path)
    return SecureKeys(identity=identity, roster=roster)


def _write_new(path: Path, data: bytes) -> None:
    """All of the file or none, and never over another."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already; an identity is never overwritten, choose another file.") from error
    finally:
        draft.unlink()
