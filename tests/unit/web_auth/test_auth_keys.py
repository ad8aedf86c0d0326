"""Keys in a file."""

from __future__ import annotations

import hashlib
import json
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market_data_core.clock import ManualClock
from market_data_core.errors import ConfigurationError, TemporaryUnavailable
from market_data_core.web.auth import FIRST_KEY_FILE, KeyInfo, KeyStore, Principal, Role, ensure_first_key


@pytest.fixture
def path(tmp_path):
    return tmp_path / "keys" / "api-keys.jsonl"


@pytest.fixture
def store(path):
    return KeyStore(path, clock=ManualClock(1_700_000_000_000_000_000))


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_opens_for_its_holder_alone(store):
    """Each key is its holder's, in their role; anything else is nobody's."""
    watching, acting = store.add("watcher", Role.VIEWER), store.add("actor", "operator")
    assert store.authenticate(watching) == Principal(name="watcher", role=Role.VIEWER)
    assert store.authenticate(acting) == Principal(name="actor", role=Role.OPERATOR)
    for other in ("", acting[:-1], acting + "x", acting.upper(), "x" * 100_000, "ü\udc80"):
        assert store.authenticate(other) is None


def test_keys_are_listed_without_themselves(store):
    """Name, role and time, oldest first."""
    for name, role in (("a", Role.ADMIN), ("b", Role.VIEWER)):
        store.add(name, role)
    at = 1_700_000_000_000_000_000
    assert store.list() == (
        KeyInfo(name="a", role=Role.ADMIN, created_ns=at),
        KeyInfo(name="b", role=Role.VIEWER, created_ns=at),
    )


def test_the_file_has_salted_hashes_and_no_key(store, path):
    """Neither the key nor its bare hash is in it, and only its owner can read it."""
    key = store.add("a", "admin")
    text = path.read_text()
    assert key not in text
    assert hashlib.sha256(key.encode()).hexdigest() not in text
    assert json.loads(text)["name"] == "a"
    assert mode_of(path) == 0o600


def test_a_revoked_key_is_nobodys(store):
    """From the next question on, for that key alone."""
    gone, stays = store.add("gone", "admin"), store.add("stays", "admin")
    store.revoke("gone")
    assert store.authenticate(gone) is None
    assert store.authenticate(stays) is not None


def test_rotation_needs_no_restart(store, path):
    """What another process adds and revokes counts at once, and so does taking the file away."""
    old = store.add("old", "operator")
    elsewhere = KeyStore(path)
    new = elsewhere.add("new", "operator")
    elsewhere.revoke("old")
    assert store.authenticate(old) is None
    assert store.authenticate(new) == Principal(name="new", role=Role.OPERATOR)
    path.unlink()
    assert store.authenticate(new) is None


def test_no_change_is_lost_when_two_make_it(path):
    """Two stores over one file, as two processes have them."""

    def add(prefix):
        store = KeyStore(path)
        for number in range(20):
            store.add(f"{prefix}{number}", "viewer")

    threads = [threading.Thread(target=add, args=(prefix,)) for prefix in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(KeyStore(path).list()) == 40


@pytest.mark.parametrize("name", ["", "a b", "-a", "a" * 65, 'a"\n', "ä"])
def test_what_is_no_name_is_refused(store, path, name):
    """Names go into logs and audit: nothing is written for another."""
    with pytest.raises(ConfigurationError, match="no name"):
        store.add(name, "viewer")
    assert not path.exists()


def test_a_name_is_given_once(store):
    """Revoking by name must mean one key."""
    store.add("a", "viewer")
    with pytest.raises(ConfigurationError, match="already"):
        store.add("a", "admin")
    with pytest.raises(ConfigurationError, match="no key named 'b'"):
        store.revoke("b")
    with pytest.raises(ConfigurationError, match="viewer, operator, admin"):
        store.add("b", "root")


def test_a_file_open_to_others_is_refused(store, path):
    """At the start with what to do about it, while running by letting nobody in, until it is closed again."""
    key = store.add("a", "admin")
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match=r"mode 0640.*chmod 600"):
        KeyStore(path)
    with pytest.raises(TemporaryUnavailable):
        store.authenticate(key)
    path.chmod(0o600)
    assert store.authenticate(key) is not None


@pytest.mark.parametrize("line", ["hunter2", "[1]", '{"name": "hunter2"}', "{}", '"\\u0000"'])
def test_a_damaged_file_lets_nobody_in_and_shows_nothing(store, path, line, caplog):
    """The line is named, never quoted: it may be a key that somebody pasted."""
    key = store.add("a", "admin")
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(TemporaryUnavailable) as refused:
        store.authenticate(key)
    with pytest.raises(ConfigurationError, match=r"api-keys.jsonl:2") as wrong:
        KeyStore(path)
    assert "hunter2" not in str(refused.value) + str(wrong.value) + caplog.text
    assert "api-keys.jsonl:2" in caplog.text


@pytest.mark.parametrize(
    ("field", "value"), [("role", "root"), ("salt", "xy"), ("sha256", "00"), ("created_ns", True), ("name", "a b")]
)
def test_a_wrong_field_is_refused(store, path, field, value):
    """Nothing is guessed about who may what."""
    store.add("a", "admin")
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ConfigurationError, match=r"api-keys.jsonl:1"):
        KeyStore(path)


def test_a_crash_in_between_leaves_no_open_copy(store, path):
    """What a writer left behind does not pass its rights on."""
    path.parent.mkdir()
    left = path.with_name(path.name + ".new")
    left.write_text("")
    left.chmod(0o644)
    store.add("a", "admin")
    assert mode_of(path) == 0o600


def test_the_first_start_makes_one_admin_key(path):
    """Readable by its owner only, and good for everything; the second start makes none."""
    place = ensure_first_key(path)
    assert place == path.with_name(FIRST_KEY_FILE)
    assert (mode_of(place), mode_of(path)) == (0o600, 0o600)
    assert KeyStore(path).authenticate(place.read_text().strip()) == Principal(name="first", role=Role.ADMIN)
    assert ensure_first_key(path) is None


def test_no_first_key_where_there_are_others(store, path):
    """A key that nobody asked for is not made."""
    store.add("a", "viewer")
    assert ensure_first_key(path) is None
    assert not path.with_name(FIRST_KEY_FILE).exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs /proc, where nothing can be made")
def test_a_place_that_cannot_be_written_is_named():
    """The error says which."""
    with pytest.raises(TemporaryUnavailable, match="/proc/self/no"):
        KeyStore(Path("/proc/self/no/keys")).add("a", "viewer")


@given(st.permutations(list(Role)), st.sampled_from(list(Role)))
def test_roles_are_ordered(roles, needed):
    """Who covers a role covers all that are below it."""
    rank = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
    assert [role.covers(needed) for role in roles] == [rank[role] >= rank[needed] for role in roles]
