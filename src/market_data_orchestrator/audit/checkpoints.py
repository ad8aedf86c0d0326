"""The keys that sign checkpoints: Ed25519, in one file that its owner alone can read.

One JSON object a line: ``id, public, private, created_ns``, the keys in hexadecimal; the last line with a private key
signs, all verify. `rotate` adds a line; a line that is not to sign again needs its ``public`` only. Whoever checks a
log elsewhere gets the lines without ``private`` and can check, but not sign.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from market_data_core import disk
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_orchestrator.audit.chain import Head

_OWNER_ONLY: Final = 0o600


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningKeys:
    """The keys of one file.

    Attributes:
        public: Keys that signatures may be made with, by their id.
        signer: Id of the key that signs now, and the key itself; None where none is private.
    """

    public: dict[str, Ed25519PublicKey]
    signer: tuple[str, Ed25519PrivateKey] | None = None

    def sign(self, head: Head) -> dict[str, str]:
        """Return what a checkpoint behind `head` says: the id of the key, and its signature in hexadecimal.

        Raises:
            ConfigurationError: There is no private key.
        """
        if self.signer is None:
            raise ConfigurationError("no private key is there to sign audit checkpoints with")
        key_id, key = self.signer
        return {"key": key_id, "signature": key.sign(_message(head)).hex()}

    def fault(self, head: Head, said: object) -> str | None:
        """Return what is wrong with a checkpoint that stands behind `head`; None if its signature holds."""
        if not isinstance(said, dict) or not all(isinstance(said.get(k), str) for k in ("key", "signature")):
            return "the checkpoint is not signed"
        key = self.public.get(said["key"])
        if key is None:
            return f"the checkpoint is signed with key {said['key'][:16]}, which is not among ours"
        try:
            key.verify(bytes.fromhex(said["signature"]), _message(head))
        except (InvalidSignature, ValueError):
            return "the signature of the checkpoint does not hold"
        return None


def read_keys(path: Path) -> SigningKeys:
    """Read the keys of a file; none if it is not there.

    Raises:
        ConfigurationError: Others can read it, or a line is not a key; names the line, never its text.
        TemporaryUnavailable: It cannot be read.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines = file.read().splitlines()
    except FileNotFoundError:
        return SigningKeys(public={})
    except OSError as exc:
        raise TemporaryUnavailable(f"{path}: {exc.strerror}") from exc
    if os.name != "nt" and mode & 0o077:
        raise ConfigurationError(f"{path} is open to others (mode {mode & 0o777:04o}); run: chmod 600 {path}")
    public: dict[str, Ed25519PublicKey] = {}
    signer: tuple[str, Ed25519PrivateKey] | None = None
    for number, line in enumerate(lines, 1):
        if line.strip():
            key_id, shown, private = _parse(line, f"{path}:{number}")
            public[key_id] = shown
            signer = (key_id, private) if private is not None else signer
    return SigningKeys(public=public, signer=signer)


def ensure_keys(path: Path, *, clock: Clock | None = None) -> SigningKeys:
    """Read the keys, making the first one if none can sign.

    Raises:
        ConfigurationError: As `read_keys`.
        TemporaryUnavailable: The file cannot be read or written.
    """
    keys = read_keys(path)
    return keys if keys.signer is not None else rotate(path, clock=clock)


def rotate(path: Path, *, clock: Clock | None = None) -> SigningKeys:
    """Add a key, which signs from the next opening of the log on; what the others signed still holds.

    Raises:
        ConfigurationError: As `read_keys`.
        TemporaryUnavailable: The file cannot be read or written.
    """
    read_keys(path)
    key = Ed25519PrivateKey.generate()
    shown = key.public_key().public_bytes_raw()
    line = {
        "id": _id(shown),
        "public": shown.hex(),
        "private": key.private_bytes_raw().hex(),
        "created_ns": (clock or SystemClock()).now_ns(),
    }
    try:
        disk.make_dirs(path.parent)
        before = path.read_bytes() if path.exists() else b""
        if before and not before.endswith(b"\n"):
            before += b"\n"
        disk.write_atomic(path, before + json.dumps(line).encode() + b"\n", mode=_OWNER_ONLY)
    except OSError as exc:
        raise TemporaryUnavailable(f"{path}: {exc.strerror}") from exc
    return read_keys(path)


def _message(head: Head) -> bytes:
    # Names its purpose, so that no signature made for something else can be shown here.
    return f"market-data-audit-checkpoint:{head.seq}:{head.hash}".encode()


def _id(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:16]


def _parse(line: bytes, where: str) -> tuple[str, Ed25519PublicKey, Ed25519PrivateKey | None]:
    # What is wrong is said without showing it: it is a secret.
    try:
        found = json.loads(line)
        shown = bytes.fromhex(found["public"])
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(found["private"])) if "private" in found else None
        public = Ed25519PublicKey.from_public_bytes(shown)
    except (ValueError, KeyError, TypeError):
        raise ConfigurationError(f"{where}: not a signing key") from None
    if found.get("id") != _id(shown) or (private and private.public_key().public_bytes_raw() != shown):
        raise ConfigurationError(f"{where}: its id or its private key does not belong to its public key")
    return _id(shown), public, private
