"""API keys in a file: many, each with a name and a role, of which only salted hashes are kept.

One JSON object a line: ``name, role, salt, sha256, created_ns``. A key is 32 random bytes, so guessing it is hopeless
at any speed of hashing; a slow hash protects what people think up, and would cost every request its time here.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from market_data_core import disk
from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_core.web.auth.roles import Principal, Role

LOG = logging.getLogger(__name__)

FIRST_KEY_FILE: Final = "first-key"
"""Name of the file, beside the store, that holds the key of the first start."""

_FIRST_KEY_NAME: Final = "first"
_OWNER_ONLY: Final = 0o600
_RANDOM_BYTES: Final = 32
_PREFIX: Final = "mdk_"  # lets scanners for leaked secrets, and people, see what it is
_MAX_KEY_CHARS: Final = 256
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_FIELDS: Final = {"name": str, "role": str, "salt": str, "sha256": str, "created_ns": int}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyInfo:
    """A key as it may be shown.

    Attributes:
        name: Of its holder; unique.
        role: What its holder may do.
        created_ns: When it was made, UTC nanoseconds since the epoch.
    """

    name: str
    role: Role
    created_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    info: KeyInfo
    salt: bytes
    sha256: bytes

    def line(self) -> str:
        return json.dumps(
            {
                "name": self.info.name,
                "role": str(self.info.role),
                "salt": self.salt.hex(),
                "sha256": self.sha256.hex(),
                "created_ns": self.info.created_ns,
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    # What was found under one signature of the file; a problem stands for keys that cannot be told.
    signature: tuple[int, ...] | None
    keys: tuple[_Kept, ...] = ()
    problem: str = ""


class KeyStore:
    """The keys of one file.

    The file is looked at with every question, so a key that another process adds or revokes counts at once. Changes are
    made whole or not at all, also when two processes make them at the same time.

    Args:
        path: The file; it need not be there yet. Its owner alone may have any right to it.
        clock: Says when keys were made.

    Raises:
        ConfigurationError: The file can be read by others, or is not as it should be; names the line, never its text.
    """

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self.path = path
        self._clock = clock or SystemClock()
        self._changing = threading.Lock()
        self._loaded = _Loaded(signature=None)
        self._keys()

    def add(self, name: str, role: Role | str) -> str:
        """Make a key and return it: this is the only time it can be seen.

        Args:
            name: Of its holder: up to 64 letters, digits and ``. _ @ -``.
            role: What its holder may do.

        Raises:
            ConfigurationError: The name is taken or not a name, or there is no such role.
            TemporaryUnavailable: The file cannot be written.
        """
        key = _new_key()
        with self._exclusive():
            self._insert(name, Role.named(role), key)
        return key

    def list(self) -> tuple[KeyInfo, ...]:
        """Return the keys there are, oldest first."""
        return tuple(key.info for key in self._keys())

    def revoke(self, name: str) -> None:
        """Have a key count no longer.

        Raises:
            ConfigurationError: There is no key of that name.
            TemporaryUnavailable: The file cannot be written.
        """
        with self._exclusive():
            keys = self._keys()
            left = tuple(key for key in keys if key.info.name != name)
            if len(left) == len(keys):
                raise ConfigurationError(f"there is no key named {name!r} in {self.path}")
            self._write(left)

    def authenticate(self, text: str) -> Principal | None:
        """Return whose key this is, or None if it is nobody's.

        Raises:
            TemporaryUnavailable: The file has been changed to something that cannot be read: rather nobody is let in
                than somebody whose key was revoked. The log says what is wrong.
        """
        try:
            keys = self._keys()
        except ConfigurationError as exc:
            raise TemporaryUnavailable("keys cannot be checked at present; the service's log says why") from exc
        if not 0 < len(text) <= _MAX_KEY_CHARS:
            return None
        found: KeyInfo | None = None
        # All of them, whether one has been found or not: the time taken tells nothing about which it was.
        for key in keys:
            if hmac.compare_digest(_digest(key.salt, text), key.sha256):
                found = key.info
        return None if found is None else Principal(name=found.name, role=found.role)

    def ensure_first(self) -> Path | None:
        """Make an admin key if there is no key at all; see `ensure_first_key`."""
        with self._exclusive():
            if self._keys():
                return None
            key = _new_key()
            place = self.path.with_name(FIRST_KEY_FILE)
            # The readable copy comes first: after a crash in between the store is still empty and all is made anew.
            _replace(place, key + "\n")
            self._insert(_FIRST_KEY_NAME, Role.ADMIN, key)
            return place

    def _insert(self, name: str, role: Role, key: str) -> None:
        if _NAME.fullmatch(name) is None:
            raise ConfigurationError(f"{name!r} is no name for a key: up to 64 letters, digits and . _ @ -")
        keys = self._keys()
        if any(kept.info.name == name for kept in keys):
            raise ConfigurationError(f"there is a key named {name!r} in {self.path} already; revoke it first")
        salt = secrets.token_bytes(16)
        info = KeyInfo(name=name, role=role, created_ns=self._clock.now_ns())
        self._write((*keys, _Kept(info=info, salt=salt, sha256=_digest(salt, key))))

    def _write(self, keys: tuple[_Kept, ...]) -> None:
        _replace(self.path, "".join(f"{key.line()}\n" for key in keys))

    def _keys(self) -> tuple[_Kept, ...]:
        try:
            signature = _signature(self.path.stat())
        except FileNotFoundError:
            self._loaded = _Loaded(signature=None)
            return ()
        except OSError as exc:
            raise ConfigurationError(f"{self.path} cannot be read: {exc.strerror}") from exc
        loaded = self._loaded
        if loaded.signature != signature:
            self._loaded = loaded = _load(self.path, signature)
            if loaded.problem:
                LOG.error("no stored key is accepted: %s", loaded.problem)
        if loaded.problem:
            raise ConfigurationError(loaded.problem)
        return loaded.keys

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            disk.make_dirs(self.path.parent)
            with self._changing, _folder_locked(self.path.parent):
                yield
        except OSError as exc:
            raise TemporaryUnavailable(f"{self.path} cannot be changed: {exc.strerror}") from exc


def ensure_first_key(path: Path, *, clock: Clock | None = None) -> Path | None:
    """Make an admin key for a service that has none, so that it is closed from the start and yet can be used.

    Args:
        path: The key store.
        clock: Says when the key was made.

    Returns:
        The file that holds the key, readable by its owner only; None if there is a key already.

    Raises:
        ConfigurationError: The store is not as it should be.
        TemporaryUnavailable: It cannot be written.
    """
    return KeyStore(path, clock=clock).ensure_first()


def _new_key() -> str:
    return _PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def _digest(salt: bytes, key: str) -> bytes:
    return hashlib.sha256(salt + key.encode("utf-8", "surrogatepass")).digest()


def _signature(stat: os.stat_result) -> tuple[int, ...]:
    # The change time moves with a chmod too.
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _replace(path: Path, content: str) -> None:
    disk.write_atomic(path, content.encode(), mode=_OWNER_ONLY)


@contextmanager
def _folder_locked(folder: Path) -> Iterator[None]:
    # Between processes; the lock is on the folder because the file itself is replaced.
    if sys.platform == "win32":
        yield  # no such lock there; writing is atomic all the same, the later of two changes wins
        return
    import fcntl  # noqa: PLC0415  absent on Windows

    fd = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _load(path: Path, signature: tuple[int, ...]) -> _Loaded:
    try:
        with path.open("rb") as file:
            # Of the file that was opened: its name may mean another one by now, which is then read next time.
            mode = os.fstat(file.fileno()).st_mode
            if os.name != "nt" and mode & 0o077:
                problem = f"{path} is open to others (mode {mode & 0o777:04o}); run: chmod 600 {path}"
                return _Loaded(signature=signature, problem=problem)
            lines = file.read().splitlines()
        keys = tuple(_parse(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip())
    except OSError as exc:
        return _Loaded(signature=signature, problem=f"{path} cannot be read: {exc.strerror}")
    except ConfigurationError as exc:
        return _Loaded(signature=signature, problem=exc.message)
    names = [key.info.name for key in keys]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        return _Loaded(signature=signature, problem=f"{path}: more than one key is named {', '.join(twice)}")
    return _Loaded(signature=signature, keys=keys)


def _parse(line: bytes, where: str) -> _Kept:
    # What is wrong is said without showing it: the line may be a key somebody pasted.
    try:
        found = json.loads(line)
    except ValueError:
        raise ConfigurationError(f"{where}: not a JSON object") from None
    if not isinstance(found, dict) or set(found) != set(_FIELDS):
        raise ConfigurationError(f"{where}: not an object of {', '.join(_FIELDS)}")
    wrong = [name for name, kind in _FIELDS.items() if type(found[name]) is not kind]
    if wrong:
        raise ConfigurationError(f"{where}: {', '.join(wrong)} of the wrong type")
    try:
        salt, sha256 = bytes.fromhex(found["salt"]), bytes.fromhex(found["sha256"])
        role = Role(found["role"])
    except ValueError:
        raise ConfigurationError(f"{where}: salt or sha256 is not hexadecimal, or there is no such role") from None
    if len(sha256) != hashlib.sha256().digest_size or _NAME.fullmatch(found["name"]) is None:
        raise ConfigurationError(f"{where}: sha256 is not 64 digits, or the name is no name for a key")
    return _Kept(info=KeyInfo(name=found["name"], role=role, created_ns=found["created_ns"]), salt=salt, sha256=sha256)
