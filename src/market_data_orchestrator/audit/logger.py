"""The audit trail: who did what, what came of it, in a chain that shows every later change."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from prometheus_client import CollectorRegistry, Counter
from pydantic import SecretStr

from market_data_core.clock import NS_PER_SECOND, Clock, SystemClock
from market_data_core.errors import ConfigurationError, MarketDataError, TemporaryUnavailable, ValidationError
from market_data_core.web.request_id import request_id
from market_data_orchestrator.audit.chain import OWN_PREFIX, Head, Record, canonical
from market_data_orchestrator.audit.checkpoints import read_keys
from market_data_orchestrator.audit.reading import MAX_PAGE, Page, read_page
from market_data_orchestrator.audit.redaction import clean
from market_data_orchestrator.audit.verify import Verdict, verify_chain
from market_data_orchestrator.audit.writer import ChainWriter
from market_data_orchestrator.settings import OrchestratorSettings, load_settings
from market_data_store.state import State

LOG = logging.getLogger(__name__)

KEYS_FILE: Final = "audit-keys.jsonl"
"""Name of the file in the data directory with the keys that sign checkpoints."""

MAX_FILE_BYTES: Final = 16 << 20
"""A file is full at this size."""

Decision = Literal["allowed", "denied"]
Status = Literal["begun", "ok", "error", "cancelled", "denied"]

_MAX_DATA_BYTES: Final = 1 << 15
_URL_PASSWORD: Final = re.compile(r"\w+://[^/@:]*:([^/@]+)@")
_ACTION: Final = re.compile(r"[a-z0-9][a-z0-9_.:/-]{0,63}")


class AuditLogger:
    """Writes and reads one audit log. Any number of threads may use it; one process may write.

    Every call waits for the disk: from an event loop, call it in a thread. The log opens with the first record, and
    opens again by itself after a failure.

    Args:
        path: The file written to.
        keys_path: The keys that sign checkpoints, readable by their owner only; made with the first record.
        state: Where the end of the chain is noted too, so that a cut tail shows; None to do without.
        required: True refuses what cannot be recorded; False goes on, counted and logged.
        enabled: False records nothing.
        secrets: What must not be written down, wherever it turns up.
        max_bytes: Size at which a file is full.
        counter: Counts records by ``action`` and ``status``; status ``lost`` for those that could not be written.
        clock: Says when.
    """

    def __init__(
        self,
        path: Path,
        *,
        keys_path: Path,
        state: State | None = None,
        required: bool = False,
        enabled: bool = True,
        secrets: Collection[str] = (),
        max_bytes: int = MAX_FILE_BYTES,
        counter: Counter | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.path = path.absolute()
        self.required = required
        self.enabled = enabled
        self.lost = 0
        """Records that could not be written since the start."""
        self.recovered = 0
        """Torn lines that were moved aside since the start."""
        self.problem = ""
        """Why the last record could not be written; empty when it was."""
        self._keys_path, self._state, self._secrets = keys_path, state, tuple(secrets)
        self._max_bytes, self._counter, self._clock = max_bytes, counter, clock or SystemClock()
        self._lock = threading.Lock()
        self._writer: ChainWriter | None = None
        self._head = Head()

    def record(
        self,
        *,
        action: str,
        actor: str,
        role: str,
        status: Status = "ok",
        detail: str | None = None,
        decision: Decision = "allowed",
        target: str = "",
        address: str = "",
        duration_s: float | None = None,
        data: Mapping[str, Any] | None = None,
        secrets: Collection[str] = (),
    ) -> Record | None:
        """Write down one action, or the attempt; durable on return.

        The id of the request being served and the time, seconds since the epoch, are added. Secrets are redacted, long
        values cut.

        Args:
            action: What was asked for, such as ``pause``: lower case letters, digits and ``_ . : / -``, at most 64.
            actor: Who asked; never a secret.
            role: In which role; empty if unknown.
            status: What came of it.
            detail: The same for people.
            decision: Whether it was allowed.
            target: What it was done to.
            address: Where the request came from.
            duration_s: How long it took.
            data: Further facts; JSON values.
            secrets: More that must not be written down, such as the key the request came with.

        Returns:
            The record, or None if it could not be written or nothing is recorded at all.

        Raises:
            ValidationError: `action` is no name for one, or one of the log's own.
            TemporaryUnavailable: It could not be written, and records are required.
        """
        if _ACTION.fullmatch(action) is None or action.startswith(OWN_PREFIX):
            raise ValidationError(f"{action[:80]!r} is no name for an audited action")
        if not self.enabled:
            return None
        # What a caller offers as a key is hidden in what was said only: it must not blot out who did what.
        said = clean({"detail": detail, "data": data or {}}, secrets=(*self._secrets, *secrets))
        fields = {
            "actor": clean(actor, secrets=self._secrets),
            "role": clean(role),
            "action": action,
            "decision": decision,
            "target": clean(target, secrets=self._secrets),
            "result": {"status": status, "detail": said["detail"]},
            "request_id": request_id(),
            "address": clean(address),
            "duration_s": clean(duration_s),
            "data": _bounded(said["data"]),
        }
        with self._lock:
            try:
                record = self._append({**fields, "ts": self._clock.now_ns() / NS_PER_SECOND})
            except MarketDataError as exc:
                self._lose(action, exc)
                return None
        self._count(action, status)
        return record

    def get_recent_events(self, limit: int = 100) -> list[Record]:
        """Return the newest records, newest first; at most 1000.

        Raises:
            TemporaryUnavailable: The files cannot be read.
        """
        return self.read(limit=limit).events

    def read(
        self,
        *,
        limit: int = 100,
        before_seq: int | None = None,
        actor: str | None = None,
        action: str | None = None,
        since_s: float | None = None,
    ) -> Page:
        """Return a page of records, newest first; see `read_page`.

        Raises:
            TemporaryUnavailable: The files cannot be read.
        """
        return read_page(
            self.path,
            limit=max(0, min(limit, MAX_PAGE)),
            before_seq=before_seq,
            actor=actor,
            action=action,
            since_s=since_s,
        )

    def verify(self) -> Verdict:
        """Read the whole chain and say whether it is as it was written, naming the first record that is not.

        Raises:
            ConfigurationError: The file of the keys is not as it should be.
            TemporaryUnavailable: The files cannot be read.
        """
        with self._lock:
            known = self._known()
        return verify_chain(self.path, keys=read_keys(self._keys_path), known=known if known.seq >= 0 else None)

    def attach(self, state: State) -> None:
        """Note the end of the chain in `state` from now on; the log is compared with it when it opens next, by itself.

        For a service whose state opens after it answers its first requests.
        """
        self.close()
        with self._lock:
            # What was written until now counts for nothing here: the log must bear out what `state` has.
            self._state, self._head = state, Head()

    def close(self) -> None:
        """Sign what is not signed yet and let go of the log; the next record opens it again."""
        with self._lock:
            writer, self._writer = self._writer, None
            if writer is None:
                return
            try:
                writer.close()
            except MarketDataError as exc:
                LOG.warning("the last audit records are not signed: %s", exc)
            self._noted(writer.head)

    def _append(self, fields: Mapping[str, Any]) -> Record:
        # What closed an open writer may be over: a file that was moved is made anew, a cut one is seen to end early.
        if self._writer is not None:
            try:
                record = self._writer.append(fields)
            except TemporaryUnavailable as exc:
                LOG.warning("the audit log is opened again: %s", exc)
                self._head, self._writer = self._writer.head, None
            else:
                self._noted(self._writer.head)
                return record
        writer = ChainWriter(
            self.path, keys_path=self._keys_path, known=self._known(), max_bytes=self._max_bytes, clock=self._clock
        )
        self.recovered += writer.torn_bytes > 0
        self._head = writer.head
        record = writer.append(fields)
        self._writer = writer
        self._noted(writer.head)
        return record

    def _known(self) -> Head:
        noted = None if self._state is None else self._state.find_audit_head(str(self.path))
        if noted is not None and noted.seq > self._head.seq:
            return Head(seq=noted.seq, hash=noted.hash)
        return self._head

    def _noted(self, head: Head) -> None:
        self._head = head
        if self._state is None:
            return
        # The record is durable: that its place could not be noted is made good by the next one.
        try:
            self._state.set_audit_head(str(self.path), head.seq, head.hash)
        except MarketDataError as exc:
            LOG.warning("the end of the audit log, record %d, could not be noted: %s", head.seq, exc)

    def _lose(self, action: str, exc: MarketDataError) -> None:
        self.lost += 1
        self.problem = exc.message
        self._count(action, "lost")
        LOG.error("an audit record of %s could not be written: %s", action, exc)
        if self.required:
            raise TemporaryUnavailable(f"{action} cannot be recorded, and nothing is done unrecorded") from exc

    def _count(self, action: str, status: str) -> None:
        if status != "lost":
            self.problem = ""
        if self._counter is not None:
            self._counter.labels(action=action, status=status).inc()


# Whoever sends much must not escape the record by it.
def _bounded(data: dict[str, Any]) -> dict[str, Any]:
    size_bytes = len(canonical(data))
    return data if size_bytes <= _MAX_DATA_BYTES else {"left out": f"{size_bytes} bytes"}


def audit_counter(registry: CollectorRegistry) -> Counter:
    """Return the counter of audit records."""
    return Counter(
        "orchestrator_audit_events", "Audit records, by action and status.", ["action", "status"], registry=registry
    )


_configured: AuditLogger | None = None
_configuring = threading.Lock()


def configure_audit(
    settings: OrchestratorSettings,
    state: State | None,
    *,
    counter: Counter | None = None,
    clock: Clock | None = None,
) -> AuditLogger:
    """Make the audit logger of this process, in place of the one before, which is closed.

    Args:
        settings: Name the file, the data directory and what to do without a record.
        state: Where the end of the chain is noted too.
        counter: What `audit_counter` made.
        clock: Says when.

    Raises:
        ConfigurationError: Records are required and switched off at the same time.
    """
    global _configured
    logger = logger_of(settings, state, counter=counter, clock=clock)
    with _configuring:
        before, _configured = _configured, logger
    if before is not None:
        before.close()
    return logger


def logger_of(
    settings: OrchestratorSettings,
    state: State | None,
    *,
    counter: Counter | None = None,
    clock: Clock | None = None,
) -> AuditLogger:
    """Return an audit logger by the settings that is nobody else's; arguments and errors as `configure_audit`."""
    if settings.audit_required and not settings.audit_log_enabled:
        raise ConfigurationError("ORCH_AUDIT_REQUIRED needs ORCH_AUDIT_LOG_ENABLED: nothing would ever be done")
    return AuditLogger(
        settings.audit_log_path,
        keys_path=settings.data_path / KEYS_FILE,
        state=state,
        required=settings.audit_required,
        enabled=settings.audit_log_enabled,
        secrets=known_secrets(settings),
        counter=counter,
        clock=clock,
    )


def get_audit_logger() -> AuditLogger:
    """Return the audit logger of this process; until `configure_audit`, one by the settings of the environment.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    configured = _configured
    return configured if configured is not None else configure_audit(load_settings(), None)


def known_secrets(settings: OrchestratorSettings) -> tuple[str, ...]:
    """Return the secrets among the settings, passwords inside of URLs too."""
    found: list[str] = []
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            found.append(value.get_secret_value())
        elif isinstance(value, str) and (password := _URL_PASSWORD.match(value)):
            found.append(password[1])
    return tuple(secret for secret in found if secret)
