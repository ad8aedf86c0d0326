"""The platform's small state by subject: what was ingested, jobs, gaps, flags."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from market_data_core.clock import NS_PER_SECOND
from market_data_core.errors import ValidationError
from market_data_store.state.database import Database, read_queries
from market_data_store.state.rows import AuditHead, Gap, GapState, Ingest, Job, JobState, LoginSession, Repair


class State:
    """Small state in one SQLite file, shared by any number of threads and processes.

    What a method has returned from is durable. All times are int64 UTC nanoseconds. Calls wait for the disk, and for
    other writers up to five seconds: from an event loop, call them in a thread.

    Every method may raise TemporaryUnavailable (disk full, read-only or away, or too many writers): nothing was changed
    then.

    Args:
        path: The file, made with its folder when it is not there. One that is unusable is moved aside; see `repairs`.

    Raises:
        TemporaryUnavailable: The disk is full, read-only or away.
        ConfigurationError: A later version of the platform made the file.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        self._sql = read_queries()
        self.gap_changes = 0
        """How often this object has written to a gap: as long as it stays the same, so do they."""

    @property
    def repairs(self) -> tuple[Repair, ...]:
        """What this object found unusable and moved aside; empty when all was well."""
        return self._database.repairs

    def close(self) -> None:
        """Release the file."""
        self._database.close()

    def ingest_done(self, source_id: str) -> bool:
        """Return whether that content has been stored to the end."""
        return bool(self._read("find_ingest", source_id=source_id))

    def register_ingest(self, source_id: str, path: str, rows: int, rejected: int, ts: int) -> Ingest:
        """Note that a source has been stored to the end; the first note of a content stands.

        Args:
            source_id: Names the content.
            path: Where it was read.
            rows: Rows stored.
            rejected: Rows that went to quarantine.
            ts: Now.
        """
        self._write("add_ingest", source_id=source_id, path=path, rows=rows, rejected=rejected, ts=ts)
        return Ingest(**dict(self._read("find_ingest", source_id=source_id)[0]))

    def list_ingests(self) -> list[Ingest]:
        """Return all that was registered, newest first."""
        return [Ingest(**dict(row)) for row in self._read("list_ingests")]

    def enqueue_job(
        self,
        kind: str,
        params: Mapping[str, Any],
        now_ns: int,
        idempotency_key: str | None = None,
        *,
        fills: int | None = None,
    ) -> Job:
        """Add a job, or return the one that was added under the same key.

        Args:
            kind: What is to be done.
            params: With what; JSON values.
            now_ns: Now.
            idempotency_key: Names the request; None makes a new job every time.
            fills: A gap that a new job fills; it is ``filling`` from the same moment.

        Raises:
            ValidationError: Code ``idempotency_conflict``: the key names a job with other parameters.
        """
        params_json = _dump(params)
        with self._database.transaction() as connection:
            if idempotency_key is not None:
                found = connection.execute(self._sql["find_job_by_key"], {"idempotency_key": idempotency_key})
                row = found.fetchone()
                if row is not None:
                    if row["kind"] != kind or row["params"] != params_json:
                        raise ValidationError(
                            f"idempotency key {idempotency_key!r} already names job {row['id']} of other content",
                            "idempotency_conflict",
                            {"job_id": row["id"]},
                        )
                    return _job(row)
            values = {"kind": kind, "params": params_json, "idempotency_key": idempotency_key, "now_ns": now_ns}
            if fills is not None:
                filling = {"id": fills, "to_ns": None, "state": GapState.FILLING, "detail": None}
                connection.execute(self._sql["update_gap"], filling).fetchall()
                self.gap_changes += 1
            return _job(connection.execute(self._sql["add_job"], values).fetchone())

    def claim_job(
        self, owner: str, now_ns: int, *, kinds: Collection[str] | None = None, stale_after_s: float = 60.0
    ) -> Job | None:
        """Take the oldest job that nobody works on, or return None when there is none.

        Args:
            owner: Who takes it; must differ between processes.
            now_ns: Now.
            kinds: Only of these; None for all.
            stale_after_s: A running job whose owner has not been heard of for so long is taken over, or, when its
                cancellation was asked for, is cancelled.
        """
        values = {
            "owner": owner,
            "now_ns": now_ns,
            "stale_ns": now_ns - int(stale_after_s * NS_PER_SECOND),
            "kinds": None if kinds is None else json.dumps(sorted(kinds)),
        }
        with self._database.transaction() as connection:
            connection.execute(self._sql["cancel_abandoned_jobs"], values)
            row = connection.execute(self._sql["claim_job"], values).fetchone()
        return None if row is None else _job(row)

    def release_jobs(self, owner: str, now_ns: int) -> list[int]:
        """Queue again what an owner that is gone was working on, without waiting for it to grow stale.

        Returns:
            Ids of its jobs; those whose cancellation was asked for are cancelled instead.
        """
        return [row["id"] for row in self._write("release_jobs", owner=owner, now_ns=now_ns)]

    def update_job(self, job_id: int, progress: Mapping[str, Any], *, owner: str, now_ns: int) -> Job:
        """Say how far a job is and that its owner lives; `cancel_requested` of what comes back says whether to stop.

        Raises:
            ValidationError: Code ``job_lost``: it is not this owner's any more.
        """
        rows = self._write("update_job", id=job_id, progress=_dump(progress), owner=owner, now_ns=now_ns)
        return self._owned(rows, job_id, owner)

    def finish_job(self, job_id: int, *, owner: str, now_ns: int, result: Any = None, error: str | None = None) -> Job:
        """End a job.

        Args:
            job_id: Which.
            owner: Who worked on it.
            now_ns: Now.
            result: What came of it; any JSON value.
            error: Why it failed or was stopped: with it the job is failed, or cancelled when that was asked for;
                without it, done.

        Raises:
            ValidationError: Code ``job_lost``: it is not this owner's any more.
        """
        result_json = None if error is not None else _dump(result)
        rows = self._write("finish_job", id=job_id, owner=owner, now_ns=now_ns, result=result_json, error=error)
        return self._owned(rows, job_id, owner)

    def cancel_job(self, job_id: int, now_ns: int) -> Job:
        """Cancel a queued job at once, ask the owner of a running one to stop, leave a finished one as it is.

        Raises:
            ValidationError: Code ``not_found``.
        """
        rows = self._write("cancel_job", id=job_id, now_ns=now_ns)
        return _job(rows[0]) if rows else self.get_job(job_id)

    def get_job(self, job_id: int) -> Job:
        """Return a job.

        Raises:
            ValidationError: Code ``not_found``.
        """
        return _job(self._one("find_job", f"there is no job {job_id}", id=job_id))

    def list_jobs(
        self,
        *,
        kind: str | None = None,
        states: Collection[JobState] | None = None,
        limit: int = 100,
        before_id: int | None = None,
    ) -> list[Job]:
        """Return jobs, newest first.

        Args:
            kind: Only of this kind.
            states: Only in these.
            limit: At most so many.
            before_id: Only those with a smaller id: the last of the page before.
        """
        rows = self._read("list_jobs", kind=kind, states=_names(states), limit=limit, before_id=before_id)
        return [_job(row) for row in rows]

    def open_gap(
        self,
        vendor: str,
        symbol: str,
        kind: str,
        from_ns: int,
        *,
        cause: str,
        to_ns: int | None = None,
        detail: str = "",
    ) -> Gap:
        """Note that data is missing from a moment on; the same gap noted twice is one.

        Args:
            vendor: Whose data.
            symbol: Of what; ``*`` for all.
            kind: Which kind; ``*`` for all.
            from_ns: First moment without data.
            cause: Why.
            to_ns: First moment with data again; None when it is not over.
            detail: More, in words.

        Raises:
            ValidationError: It ends before it begins.
        """
        _check_order(from_ns, to_ns)
        rows = self._write(
            "add_gap",
            vendor=vendor,
            symbol=symbol,
            kind=kind,
            from_ns=from_ns,
            to_ns=to_ns,
            cause=cause,
            detail=detail,
        )
        self.gap_changes += 1
        return _gap(rows[0])

    def close_gap(
        self, gap_id: int, *, to_ns: int | None = None, state: GapState | None = None, detail: str | None = None
    ) -> Gap:
        """Say when a gap ended, how its filling stands, or both; None leaves a thing as it is.

        Raises:
            ValidationError: There is no such gap (code ``not_found``), or it would end before it begins.
        """
        _check_order(self.get_gap(gap_id).from_ns, to_ns)
        changed = _gap(self._write("update_gap", id=gap_id, to_ns=to_ns, state=state, detail=detail)[0])
        self.gap_changes += 1
        return changed

    def get_gap(self, gap_id: int) -> Gap:
        """Return a gap.

        Raises:
            ValidationError: Code ``not_found``.
        """
        return _gap(self._one("find_gap", f"there is no gap {gap_id}", id=gap_id))

    def list_gaps(
        self,
        *,
        vendor: str | None = None,
        symbol: str | None = None,
        kind: str | None = None,
        states: Collection[GapState] | None = None,
        start_ns: int | None = None,
        end_ns: int | None = None,
        limit: int = 100,
        before: Gap | None = None,
    ) -> list[Gap]:
        """Return gaps, newest first by the moment they begin.

        Args:
            vendor: Only this vendor's.
            symbol: Only those that touch this symbol, gaps of all symbols among them.
            kind: Only those that touch this kind, gaps of all kinds among them.
            states: Only in these.
            start_ns: Only those that last beyond this moment.
            end_ns: Only those that begin before this moment.
            limit: At most so many.
            before: Only those after this one in the order: the last of the page before.
        """
        rows = self._read(
            "list_gaps",
            vendor=vendor,
            symbol=symbol,
            kind=kind,
            states=_names(states),
            start_ns=start_ns,
            end_ns=end_ns,
            limit=limit,
            before_ns=None if before is None else before.from_ns,
            before_id=None if before is None else before.id,
        )
        return [_gap(row) for row in rows]

    def get_flag(self, name: str, default: Any = None) -> Any:
        """Return the JSON value kept under a name, or `default` when there is none."""
        rows = self._read("find_flag", name=name)
        return json.loads(rows[0]["value"]) if rows else default

    def set_flag(self, name: str, value: Any) -> None:
        """Keep a JSON value under a name, in place of the one before."""
        self._write("set_flag", name=name, value=_dump(value))

    def list_flags(self) -> dict[str, Any]:
        """Return all values by name, sorted."""
        return {row["name"]: json.loads(row["value"]) for row in self._read("list_flags")}

    def find_audit_head(self, log: str) -> AuditHead | None:
        """Return the last record of an audit log as it was noted here, or None when nothing was."""
        rows = self._read("find_audit_head", log=log)
        return AuditHead(**dict(rows[0])) if rows else None

    def set_audit_head(self, log: str, seq: int, hash_hex: str) -> None:
        """Note the last record of an audit log; one with a number that is not higher than the noted one is ignored.

        Args:
            log: Names the log: its absolute path.
            seq: Number of the record.
            hash_hex: Its SHA-256, 64 hexadecimal digits.
        """
        self._write("set_audit_head", log=log, seq=seq, hash=hash_hex)

    def add_session(self, session: LoginSession, *, created_after_ns: int, seen_after_ns: int, kept: int) -> None:
        """Keep a new login session, and forget those that are over.

        Args:
            session: The session.
            created_after_ns: Those made at or before this moment are over,
            seen_after_ns: and those last used at or before this one.
            kept: Beyond so many, those unused for longest are forgotten too.
        """
        with self._database.transaction() as connection:
            connection.execute(self._sql["save_session"], asdict(session))
            over = {"created_ns": created_after_ns, "seen_ns": seen_after_ns, "kept": kept}
            connection.execute(self._sql["remove_old_sessions"], over)

    def touch_session(self, key_hash: str, seen_ns: int) -> None:
        """Note that a session was used; one that was forgotten meanwhile does not come back."""
        self._write("touch_session", key_hash=key_hash, seen_ns=seen_ns)

    def find_session(self, key_hash: str) -> LoginSession | None:
        """Return a login session, or None when there is none; whether it is over is for the caller to say."""
        rows = self._read("find_session", key_hash=key_hash)
        return LoginSession(**dict(rows[0])) if rows else None

    def remove_session(self, key_hash: str) -> None:
        """Forget a login session; there need not be one."""
        self._write("remove_session", key_hash=key_hash)

    def _read(self, query: str, **values: Any) -> list[sqlite3.Row]:
        return self._database.read(self._sql[query], values)

    def _write(self, query: str, **values: Any) -> list[sqlite3.Row]:
        with self._database.transaction() as connection:
            return connection.execute(self._sql[query], values).fetchall()

    def _one(self, query: str, absent: str, **values: Any) -> sqlite3.Row:
        rows = self._read(query, **values)
        if not rows:
            raise ValidationError(absent, "not_found")
        return rows[0]

    def _owned(self, rows: Sequence[sqlite3.Row], job_id: int, owner: str) -> Job:
        if rows:
            return _job(rows[0])
        job = self.get_job(job_id)
        raise ValidationError(f"job {job_id} is not {owner}'s: it is {job.state}, owner {job.owner}", "job_lost")


def _dump(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise ValidationError(f"not a JSON value: {exc}") from exc


def _names(states: Collection[JobState] | Collection[GapState] | None) -> str | None:
    return None if states is None else json.dumps(sorted(states))


def _check_order(from_ns: int, to_ns: int | None) -> None:
    if to_ns is not None and to_ns < from_ns:
        raise ValidationError(f"a gap from {from_ns} cannot end at {to_ns}")


def _job(row: sqlite3.Row) -> Job:
    values = dict(row)
    for name in ("params", "progress", "result"):
        values[name] = None if values[name] is None else json.loads(values[name])
    values["state"] = JobState(values["state"])
    values["cancel_requested"] = bool(values["cancel_requested"])
    return Job(**values)


def _gap(row: sqlite3.Row) -> Gap:
    return Gap(**{**dict(row), "state": GapState(row["state"])})
