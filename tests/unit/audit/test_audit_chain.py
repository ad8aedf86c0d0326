"""The chain: what is recorded verifies, and whatever is changed afterwards is found and named."""

from __future__ import annotations

import itertools
import json
import shutil
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from market_data_core.errors import ConfigurationError, ValidationError
from market_data_orchestrator.audit.chain import CHECKPOINT, CHECKPOINT_EVERY, Head, list_files, parsed, sealed
from market_data_orchestrator.audit.chain import canonical as canonical_bytes
from market_data_orchestrator.audit.checkpoints import ensure_keys, read_keys, rotate
from market_data_orchestrator.audit.logger import AuditLogger
from market_data_orchestrator.audit.redaction import REDACTED, clean
from market_data_orchestrator.audit.verify import verify_chain
from market_data_store.state import State

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def acts(logger, count, **more):
    for number in range(count):
        logger.record(action="pause", actor=f"a{number}", role="operator", **more)


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def forged(path, place, **changes):
    """Change a record and make all hashes behind it right again, as somebody who can write the file would."""
    found = [json.loads(line) for line in lines(path)]
    head = Head(seq=found[place]["seq"] - 1, hash=found[place]["prev_hash"])
    for number in range(place, len(found)):
        body = {k: v for k, v in found[number].items() if k not in ("seq", "prev_hash", "hash")}
        found[number] = sealed(body | (changes if number == place else {}), head)
        head = Head(seq=found[number]["seq"], hash=found[number]["hash"])
    path.write_bytes(b"".join(canonical_bytes(record) + b"\n" for record in found))


@given(records=st.lists(st.tuples(st.text(), st.text(), JSON), max_size=6), size=st.sampled_from([300, 1500, 1 << 20]))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_audit_any_records_verify(tmp_path_factory, records, size):
    """Whatever is recorded, with rotation or without: one line each, and the chain is whole."""
    folder = tmp_path_factory.mktemp("any")
    logger = AuditLogger(folder / "audit.jsonl", keys_path=folder / "keys", max_bytes=size)
    for actor, detail, data in records:
        logger.record(action="query", actor=actor, role="viewer", detail=detail, data={"said": data})
    verdict = logger.verify()
    assert verdict.ok, verdict
    assert len([e for e in logger.get_recent_events() if e["action"] == "query"]) == len(records)
    logger.close()
    assert logger.verify().unsigned == 0


def test_audit_record_says_who_did_what(make):
    """A record has the promised fields, newest first."""
    logger = make()
    logger.record(action="pause", actor="ann", role="operator", detail="done", target="orchestrator", address="::1")
    logger.record(action="reload", actor="bob", role="viewer", status="denied", decision="denied")
    denied, allowed = logger.get_recent_events(limit=2)
    assert (allowed["actor"], allowed["role"], allowed["action"]) == ("ann", "operator", "pause")
    assert allowed["result"] == {"status": "ok", "detail": "done"}
    assert (allowed["target"], allowed["address"], allowed["decision"]) == ("orchestrator", "::1", "allowed")
    assert isinstance(allowed["ts"], float)
    assert denied["decision"] == "denied"
    assert denied["prev_hash"] == allowed["hash"]
    assert denied["seq"] == allowed["seq"] + 1


@pytest.mark.parametrize("action", ["chain.checkpoint", "", "Pause", "a b", "pause\n", "x" * 65])
def test_audit_action_names_are_checked(make, action):
    """Nobody records in the log's own name, or under what is no name."""
    with pytest.raises(ValidationError):
        make().record(action=action, actor="a", role="admin")


def edit(path):
    path.write_bytes(path.read_bytes().replace(b'"a3"', b'"zz"'))


def edit_space(path):
    path.write_bytes(path.read_bytes().replace(b'"actor":"a3"', b'"actor": "a3"'))


def edit_duplicate_name(path):
    path.write_bytes(
        path.read_bytes().replace(b'{"action":"pause","actor":"a3"', b'{"actor":"x","action":"pause","actor":"a3"')
    )


def delete(path):
    found = lines(path)
    path.write_bytes(b"".join(found[:4] + found[5:]))


def insert(path):
    found = lines(path)
    path.write_bytes(b"".join([*found[:4], b'{"actor":"x"}\n', *found[4:]]))


def repeat(path):
    found = lines(path)
    path.write_bytes(b"".join(found[:4] + found[3:]))


def swap(path):
    found = lines(path)
    found[4], found[5] = found[5], found[4]
    path.write_bytes(b"".join(found))


def blank(path):
    found = lines(path)
    path.write_bytes(b"".join([*found[:4], b"\n", *found[4:]]))


def join(path):
    found = lines(path)
    found[3] = found[3][:-1]
    path.write_bytes(b"".join(found))


def grow(path):
    found = lines(path)
    found[4] = b"x" * (1 << 18) + b"\n"
    path.write_bytes(b"".join(found))


def nest(path):
    found = lines(path)
    found[4] = b"[" * 50_000 + b"\n"
    path.write_bytes(b"".join(found))


@pytest.mark.parametrize(
    "tamper", [edit, edit_space, edit_duplicate_name, delete, insert, repeat, swap, blank, join, grow, nest]
)
def test_audit_tampering_is_named(make, tmp_path, tamper):
    """Every change in the middle is found at the record it was made at."""
    logger = make()
    acts(logger, 10)
    logger.close()
    tamper(tmp_path / "audit.jsonl")
    verdict = logger.verify()
    assert not verdict.ok
    assert verdict.bad.file == str(tmp_path / "audit.jsonl")
    assert verdict.bad.line in (4, 5)
    assert verdict.bad.seq == verdict.bad.line - 1
    assert verdict.bad.why


def test_audit_rewritten_chain_is_found_by_its_checkpoints(make, tmp_path):
    """Hashes that were all made right again do not have the signatures."""
    logger = make(state=None)
    acts(logger, 5)
    logger.close()
    forged(tmp_path / "audit.jsonl", 3, actor="mallory")
    verdict = make(state=None).verify()
    assert verdict.bad.why == "the signature of the checkpoint does not hold"


def test_audit_rewritten_end_is_found_by_the_noted_one(make, tmp_path):
    """Behind the last checkpoint it is the end noted in the state that tells."""
    logger = make()
    acts(logger, 5)
    forged(tmp_path / "audit.jsonl", 3, actor="mallory")
    assert "noted outside" in make().verify().bad.why


@pytest.mark.parametrize("late", [False, True])
def test_audit_rewritten_end_stays_found_when_the_log_goes_on(make, tmp_path, state, late):
    """A restart does not cover up what was rewritten, also when the state opens after the log."""
    logger = make()
    acts(logger, 5)
    killed = (tmp_path / "audit.jsonl").read_bytes()
    logger.close()
    noted = State(tmp_path / "before.db")
    head = parsed(killed.splitlines()[-1])
    noted.set_audit_head(str(logger.path), head["seq"], head["hash"])
    (tmp_path / "audit.jsonl").write_bytes(killed)
    forged(tmp_path / "audit.jsonl", 3, actor="mallory")
    again = make(state=None if late else noted)
    acts(again, 2 if late else 1)
    if late:
        again.attach(noted)
    acts(again, 3)
    again.close()
    noted.close()
    assert "found damaged here" in again.verify().bad.why


def test_audit_chain_without_checkpoints_is_found(tmp_path):
    """Leaving the checkpoints out when rewriting does not help."""
    head, written = Head(), []
    for _ in range(CHECKPOINT_EVERY + 1):
        record = sealed({"action": "pause", "ts": 1.0}, head)
        head = Head(seq=record["seq"], hash=record["hash"])
        written.append(canonical_bytes(record) + b"\n")
    (tmp_path / "audit.jsonl").write_bytes(b"".join(written))
    verdict = verify_chain(tmp_path / "audit.jsonl", keys=ensure_keys(tmp_path / "keys"))
    assert "no checkpoint" in verdict.bad.why
    assert verdict.bad.seq == CHECKPOINT_EVERY


@pytest.mark.parametrize("cut", [1, 3, 100])
def test_audit_cut_tail_is_found_also_after_going_on(make, tmp_path, cut):
    """Records cut off the end are missed at once, and for good once the log has been written on."""
    logger = make()
    acts(logger, 6)
    logger.close()
    path = tmp_path / "audit.jsonl"
    left = lines(path)[:-cut]
    path.write_bytes(b"".join(left))
    first = make().verify()
    assert first.bad.seq == len(left)
    assert "missing at the end" in first.bad.why
    again = make()
    acts(again, 2)
    assert "chain.damaged" in [event["action"] for event in again.get_recent_events()]
    later = again.verify()
    assert later.bad.seq == len(left)
    assert "missing" in later.bad.why


def test_audit_removed_log_is_found(make, tmp_path):
    """A log that was removed whole, while its writer runs, shows too."""
    logger = make()
    acts(logger, 3)
    (tmp_path / "audit.jsonl").unlink()
    assert logger.verify().bad.seq == 0
    acts(logger, 1)
    assert logger.verify().bad.seq == 0
    assert logger.get_recent_events(1)[0]["actor"] == "a0"


def test_audit_line_added_by_another_hand_is_found(make, tmp_path):
    """A line that somebody appends under a running writer is kept, and found."""
    logger = make()
    acts(logger, 2)
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b'{"actor":"x"}\n')
    acts(logger, 1)
    verdict = logger.verify()
    assert (verdict.bad.line, verdict.bad.seq) == (4, 3)


def test_audit_rotation_keeps_the_chain(make, tmp_path):
    """Full files are moved aside, end with a checkpoint, and the next begins with its hash."""
    logger = make(max_bytes=2000)
    acts(logger, 40)
    files = list_files(tmp_path / "audit.jsonl")
    assert len(files) > 4
    for one, following in itertools.pairwise(files):
        last, first = parsed(lines(one)[-1][:-1]), parsed(lines(following)[0][:-1])
        assert last["action"] == CHECKPOINT
        assert first["prev_hash"] == last["hash"]
    verdict = logger.verify()
    assert verdict.ok, verdict
    assert verdict.files == len(files)
    logger.close()
    acts(make(max_bytes=2000), 3)
    assert logger.verify().ok


@pytest.mark.parametrize("harm", ["swapped", "removed", "first removed", "cut", "renamed"])
def test_audit_harm_to_rotated_files_is_found(make, tmp_path, harm):
    """Rotated files cannot be swapped, removed, cut or renamed unseen."""
    logger = make(max_bytes=2000)
    acts(logger, 30)
    logger.close()
    first, second, third, *_ = list_files(tmp_path / "audit.jsonl")
    if harm == "swapped":
        shutil.move(second, tmp_path / "x")
        shutil.move(third, second)
        shutil.move(tmp_path / "x", third)
    elif harm == "removed":
        second.unlink()
    elif harm == "first removed":
        first.unlink()
    elif harm == "cut":
        second.write_bytes(second.read_bytes()[:-10])
    else:
        shutil.move(second, tmp_path / "audit-000000000003.jsonl")
    assert not logger.verify().ok


def test_audit_crash_while_rotating_goes_on(make, tmp_path):
    """A log whose full file was moved, and whose next was not made yet, goes on behind it."""
    logger = make()
    acts(logger, 3)
    logger.close()
    (tmp_path / "audit.jsonl").rename(tmp_path / "audit-000000000000.jsonl")
    acts(make(), 2)
    verdict = logger.verify()
    assert verdict.ok, verdict
    assert verdict.files == 2


def test_audit_pages_cover_all_files_once(make):
    """Pages by cursor give every record once, newest first, filtered by actor, action and time."""
    logger = make(max_bytes=3000)
    acts(logger, 30)
    seen, before = [], None
    while True:
        page = logger.read(limit=7, before_seq=before)
        seen += page.events
        before = page.before_seq
        if before is None:
            break
    assert [event["seq"] for event in seen] == list(range(len(seen)))[::-1]
    assert [event["actor"] for event in logger.read(actor="a7").events] == ["a7"]
    assert len(logger.read(action="pause", limit=1000).events) == 30
    assert logger.read(since_s=seen[0]["ts"] + 1).events == []


def test_audit_checkpoints_come_as_often_as_promised(make):
    """Many records in one file verify, with a checkpoint among every hundred."""
    logger = make(state=None)
    acts(logger, 2 * CHECKPOINT_EVERY + 10)
    verdict = logger.verify()
    assert verdict.ok, verdict
    assert verdict.checkpoints == 2


@pytest.mark.parametrize("count", [96, 97, 98, 99, 100])
def test_audit_restart_near_a_checkpoint_keeps_the_promise(make, tmp_path, count):
    """A log that was left by a crash just before a checkpoint was due still verifies after the restart."""
    logger, path = make(state=None), tmp_path / "audit.jsonl"
    acts(logger, count)
    left = path.read_bytes() + b'{"torn'
    logger.close()
    path.write_bytes(left)
    again = make(state=None)
    acts(again, 2)
    verdict = again.verify()
    assert verdict.ok, verdict


def test_audit_threads_share_one_chain(make):
    """Several threads record at once and no record is lost."""
    logger = make(max_bytes=4000)
    threads = [threading.Thread(target=acts, args=(logger, 15)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logger.verify().ok
    assert len(logger.read(action="pause", limit=1000).events) == 60


def test_audit_keys_rotate(make, tmp_path):
    """What an older key signed still holds; with its line gone it does not, and the private part is not needed."""
    logger = make()
    acts(logger, 2)
    logger.close()
    rotate(tmp_path / "keys.jsonl")
    acts(logger, 2)
    logger.close()
    assert logger.verify().ok
    path = tmp_path / "keys.jsonl"
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    signed_with = {e["data"]["key"] for e in logger.read(action=CHECKPOINT).events}
    assert signed_with == {key["id"] for key in kept}
    path.write_text("\n".join(json.dumps({k: v for k, v in key.items() if k != "private"}) for key in kept))
    assert logger.verify().ok
    path.write_text(json.dumps(kept[1]))
    assert "not among ours" in logger.verify().bad.why


def test_audit_keys_are_their_owners_alone(tmp_path):
    """Keys are made unreadable to others, and refused when they are not."""
    path = tmp_path / "keys"
    ensure_keys(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_keys(path)


@pytest.mark.parametrize(
    "trick", ["\n", "\r\n", "\u2028", "\u2029", "\x85", "\x0b", "\x1b[2K", "\u202e", "\x00", "\ud800"]
)
def test_audit_a_million_line_breaks_are_one_line(make, tmp_path, trick):
    """Whatever ends a line somewhere stays inside of its record, escaped."""
    logger = make()
    forged_line = '{"action":"pause","actor":"nobody"}'
    logger.record(
        action="query", actor=trick * 1_000_000, role=f"a{trick}{forged_line}{trick}", data={trick: trick * 9}
    )
    text = (tmp_path / "audit.jsonl").read_bytes().decode()
    assert text.count("\n") == len(text.splitlines()) == 2
    assert not any(c in text for c in trick if c != "\n" and c not in "[2K")
    assert logger.verify().ok


def test_audit_secrets_do_not_reach_the_file(make, tmp_path):
    """By name, by value and by shape, at any depth, in names and texts, secrets are redacted."""
    known, offered = "correct horse battery", "offered-key-0123456789"
    logger = make(secrets=[known])
    logger.record(
        action="federation.forward",
        actor="ann",
        role="admin",
        detail=f"sent {known} and {offered} to redis://user:hunter2@host/0 as Bearer abcdefgh12345 password=s3cr3tpw",
        target=f"/x?k={known}",
        data={
            "payload": {
                "a": [{"apiKey": "v1"}, {"X-API-Key": "v2"}, {"db_password": {"x": "v3"}}, {"authToken": ["v4"]}]
            },
            known: 1,
            "said": "mdk_ABCDEFGHIJKL eyJhbGciOi.eyJzdWIi.c2ln correct%20horse%20battery",
        },
        secrets=[offered],
    )
    text = (tmp_path / "audit.jsonl").read_text()
    for secret in (
        known,
        offered,
        "hunter2",
        "abcdefgh12345",
        "s3cr3tpw",
        "v1",
        "v2",
        "v3",
        "v4",
        "mdk_A",
        "eyJhb",
        "%20horse",
    ):
        assert f'"{secret}"' not in text
        assert secret not in text.replace("v1", "").replace("v2", "") or secret in {"v1", "v2", "v3", "v4"}
    assert REDACTED in text


def test_audit_large_payloads_do_not_escape_the_record(make):
    """Whatever comes with an action, the action is recorded."""
    record = make().record(action="query", actor="a", role="viewer", data={"p": [["\x7f" * 900] * 50] * 50})
    assert list(record["data"]) == ["left out"]


def test_audit_callers_cannot_blot_out_who_they_are(make):
    """A caller who offers their own name as a key is still named."""
    record = make().record(
        action="pause",
        actor="mallory-the-operator",
        role="operator",
        secrets=["mallory-the-operator", "operator", "pause"],
    )
    assert (record["actor"], record["role"], record["action"]) == ("mallory-the-operator", "operator", "pause")


@given(
    prefix=st.text(max_size=3000),
    secret=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=8, max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_audit_no_part_of_a_secret_survives_the_cut(prefix, secret):
    """A secret anywhere in a long text is gone, also where the text is cut."""
    shown = clean(prefix + secret + prefix, secrets=[secret])
    assert len(shown) <= 1000
    assert secret not in shown
