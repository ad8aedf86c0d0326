"""`MDS`: stored market data of one tenant, whichever store keeps it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import pyarrow as pa

from market_data_core.clock import Clock, SystemClock
from market_data_core.errors import ConfigurationError, SchemaValidationError, ValidationError
from market_data_core.schemas import KEYS, STORED_SCHEMAS, Kind, Record
from market_data_store import open_backend
from market_data_store.backend import END_OF_TIME_NS, START_OF_TIME_NS, OutboxJob, Upserted, Wanted
from mds_client.adjust import Adjust
from mds_client.config import MDSConfig, config_of
from mds_client.errors import ClientClosed
from mds_client.frames import Form, check_form, in_form
from mds_client.models import Bar, Fundamentals, LatestPrice, News, OptionSnap, StoredRow
from mds_client.moments import When, moment_ns, span_ns
from mds_client.reads import Reading, read
from mds_client.rows import TABLES, latest_prices_from_rows, models_from_rows, rows_from_models
from mds_client.sessions import Session

if TYPE_CHECKING:
    from market_data_store.backend import Backend
    from mds_client.transfer import Dumped, Restored

PRIORITIES: Final[Mapping[str, int]] = {"low": -10, "medium": 0, "high": 10}
"""Priorities of jobs that have a name."""

Priority = int | Literal["low", "medium", "high"]
Symbols = str | Sequence[str]
Progress = Callable[[int, int | None], None]


class MDS:
    """Stored market data of one tenant. Safe to use from several threads.

    Times that are given may be an aware datetime, a date for its first moment in UTC, or either as ISO 8601 text; a
    span includes its start and excludes its end. Every method raises ClientClosed after `close`, TemporaryUnavailable
    where the store is away, and what its own text says.

    Args:
        config: Options by name, as in `MDSConfig`: ``dsn`` and ``tenant_id``, and what else differs from its default.
        clock: Where the time of upserts and jobs comes from; the system's if None.

    Raises:
        ConfigurationError: An option is unknown, missing or wrong; names it.
    """

    def __init__(self, config: Mapping[str, Any] | MDSConfig, *, clock: Clock | None = None) -> None:
        self.config = config_of(config)
        self._clock = clock or SystemClock()
        self._backend: Backend = open_backend(
            self.config.address(),
            self.config.tenant_id,
            pool_max=self.config.pool_max,
            timeout_s=self.config.timeout_s,
            statement_timeout_s=self.config.statement_timeout_s,
        )
        self._lock = threading.Lock()
        self._calls = 0
        self._closed = False

    @property
    def tenant_id(self) -> str:
        """Whose data."""
        return self.config.tenant_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take no further calls; what the store holds is released when the last one under way ends."""
        with self._lock:
            last = not self._closed and self._calls == 0
            self._closed = True
        if last:
            self._backend.close()

    # Lends the store for one call.
    @contextmanager
    def _store(self) -> Iterator[Backend]:
        with self._lock:
            if self._closed:
                raise ClientClosed(f"the client of tenant {self.tenant_id} is closed")
            self._calls += 1
        try:
            yield self._backend
        finally:
            self._end_call()

    def _end_call(self) -> None:
        with self._lock:
            self._calls -= 1
            last = self._closed and self._calls == 0
        if last:
            self._backend.close()

    # -- the store itself

    def health(self) -> dict[str, Any]:
        """Return ``backend``, ``version`` of its software, ``schema_version`` and ``latency_ms`` of one round trip."""
        with self._store() as backend:
            return dict(backend.health())

    def schema_version(self) -> int:
        """Return the version of the schema that the store has; 0 where nothing was made yet."""
        with self._store() as backend:
            return backend.schema_version()

    def migrate(self) -> int:
        """Make what the store lacks, and return the version of its schema then. Safe to call again, and beside others.

        A lake makes its tables by itself when they are written to; a server has to be migrated once.

        Raises:
            ConfigurationError: The server's role may not change its schema, or the schema is a later one.
        """
        with self._store() as backend:
            if self.config.is_server:
                backend.open()
            else:
                # Opening would also repair, which only the one who writes there may do.
                for name in STORED_SCHEMAS:
                    backend.table(name)
            return backend.schema_version()

    # -- writing

    def upsert(
        self, models: Iterable[StoredRow], *, reason: str | None = None, ts_known: When | None = None
    ) -> Upserted:
        """Store models of one type, all or none; durable when it returns. Doing it again changes nothing.

        A model that says of its key what is stored already changes nothing. One that says something else becomes a new
        version, and the old ones stay to be read with `as_of`.

        Args:
            models: `Bar`, `Fundamentals`, `News` or `OptionSnap`, all of this tenant. Of several with the same key the
                last one counts, and the others become versions before it.
            reason: Why they are stated; kept with the versions.
            ts_known: Since when they are known; now if None.

        Raises:
            ValidationError: One is another tenant's; ``details["row"]`` says which, from 0. Nothing is stored.
            SchemaValidationError: One cannot be stored or is of another type; ``details`` as above, and ``column``.
        """
        with self._store() as backend:
            asked = rows_to_upsert(list(models), tenant_id=self.tenant_id, reason=reason, ts_known=ts_known)
            if asked is None:
                return Upserted()
            table, rows = asked
            return backend.upsert(table, rows, now_ns=self._clock.now_ns())

    def upsert_bars(self, bars: Iterable[Bar], *, reason: str | None = None, ts_known: When | None = None) -> Upserted:
        """Store bars; see `upsert`."""
        return self.upsert(all_of(Bar, bars), reason=reason, ts_known=ts_known)

    def upsert_fundamentals(
        self, fundamentals: Iterable[Fundamentals], *, reason: str | None = None, ts_known: When | None = None
    ) -> Upserted:
        """Store fundamentals; see `upsert`."""
        return self.upsert(all_of(Fundamentals, fundamentals), reason=reason, ts_known=ts_known)

    def upsert_news(self, news: Iterable[News], *, reason: str | None = None, ts_known: When | None = None) -> Upserted:
        """Store news; see `upsert`."""
        return self.upsert(all_of(News, news), reason=reason, ts_known=ts_known)

    def upsert_options(
        self, options: Iterable[OptionSnap], *, reason: str | None = None, ts_known: When | None = None
    ) -> Upserted:
        """Store option snapshots; see `upsert`."""
        return self.upsert(all_of(OptionSnap, options), reason=reason, ts_known=ts_known)

    def upsert_corporate_actions(self, actions: pa.Table) -> Upserted:
        """Store corporate actions, all or none; see `upsert`.

        Args:
            actions: In the columns of the table ``corporate_actions``, such as
                `mds_client.corporate_actions_from_factor_file` gives.

        Raises:
            SchemaValidationError: One cannot be stored; ``details`` say ``row`` and ``column``. Nothing is stored.
        """
        with self._store() as backend:
            return backend.upsert(str(Record.CORPORATE_ACTIONS), actions, now_ns=self._clock.now_ns())

    def check(self, model: StoredRow) -> None:
        """Refuse a model that this client cannot store.

        Raises:
            ClientClosed: The client is closed.
            SchemaValidationError: It is no row of a table.
            ValidationError: It is another tenant's.
        """
        with self._store():
            _check_row(model, 0, self.tenant_id)

    # -- reading

    def latest_prices(self, symbols: Symbols = (), vendor: str | None = None) -> list[LatestPrice]:
        """Return the last price of each instrument that has one.

        The last trade; where there is none the middle of the last two-sided quote, where there is neither the last
        close.

        Args:
            symbols: These only; empty for all.
            vendor: One vendor's only; None for all, each with its own price.
        """
        with self._store() as backend:
            rows = backend.latest_prices(named(symbols), vendor=vendor)
        return latest_prices_from_rows(rows, tenant_id=self.tenant_id)

    def bars_window(
        self,
        symbol: str,
        timeframe: str,
        start: When | None,
        end: When | None,
        vendor: str | None = None,
        *,
        what: str = "TRADES",
        source: str | None = None,
        as_of: When | None = None,
    ) -> list[Bar]:
        """Return bars of one instrument, of each the newest version, ascending `ts`.

        Args:
            symbol: The instrument.
            timeframe: Such as ``1m``.
            start: Inclusive, compared with the bar's start; None for no bound.
            end: Exclusive; None for no bound.
            vendor: One vendor's only; None for all, which are never merged.
            what: Of which prices the bars are made.
            source: ``internal`` or ``external``; None for both, which are never merged.
            as_of: Only what was known at that time; None for now.

        Raises:
            ConfigurationError: There is no such timeframe.
            ValidationError: A time is none or has no time zone.
        """
        asked = window_asked(symbol, timeframe, start, end, vendor, what=what, source=source, as_of=as_of)
        with self._store() as backend:
            rows = read(backend, asked)
        return models_from_rows(Bar, rows, tenant_id=self.tenant_id)

    def bars(
        self,
        symbols: Symbols,
        timeframe: str,
        *,
        start: When | None = None,
        end: When | None = None,
        vendor: str | None = None,
        session: Session = "all",
        calendar: str = "XNYS",
        as_of: When | None = None,
        adjust: Adjust = "none",
        actions_vendor: str | None = None,
        what: str = "TRADES",
        source: str | None = None,
        bar_session: str = "ALL",
        columns: Sequence[str] | None = None,
        as_: Form = "arrow",
    ) -> Any:
        """Return bars for research, of each the newest version, ascending ``ts_event``, then by the rest of their key.

        Args:
            symbols: One or several instruments; empty for all.
            timeframe: Such as ``1m``.
            start: Inclusive, compared with the bar's start; None for no bound.
            end: Exclusive; None for no bound.
            vendor: One vendor's only; None for all, which are never merged.
            session: ``regular`` or ``extended`` takes the bars that lie in that part of the day as a whole, by
                `calendar`; needs `exchange_calendars`. Bars of a day or more have no part of it.
            calendar: The exchange, by its ISO 10383 code.
            as_of: Only versions, and actions, that were known at that time by their ``ts_known``; None for now.
            adjust: ``split`` multiplies prices by the factors of later splits and divides volumes by them; ``all``
                takes what was paid out off the prices too.
            actions_vendor: Whose corporate actions; None for those of each row's own vendor.
            what: Of which prices the bars are made.
            source: ``internal`` or ``external``; None for both, which are never merged.
            bar_session: What the bars themselves say that they cover.
            columns: Which columns of the table ``bars``; all if None.
            as_: ``arrow`` for a `pyarrow.Table` with times in int64 UTC nanoseconds, ``pandas`` or ``polars`` for a
                data frame with times of its own.

        Raises:
            ConfigurationError: There is no such timeframe, session, calendar, adjustment, column or form, or its
                package is not installed.
            ValidationError: A time is none or has no time zone, or only other vendors have actions of an instrument.
        """
        asked = _bars_asked(
            symbols,
            timeframe,
            (start, end),
            vendor=vendor,
            as_of=as_of,
            what=what,
            source=source,
            bar_session=bar_session,
            session=session,
            calendar=calendar,
            adjust=adjust,
            actions_vendor=actions_vendor,
            columns=columns,
        )
        return self._read(asked, as_)

    def trades(
        self,
        symbols: Symbols,
        *,
        start: When | None = None,
        end: When | None = None,
        vendor: str | None = None,
        session: Session = "all",
        calendar: str = "XNYS",
        as_of: When | None = None,
        adjust: Adjust = "none",
        actions_vendor: str | None = None,
        columns: Sequence[str] | None = None,
        as_: Form = "arrow",
    ) -> Any:
        """Return trades for research, ascending ``(ts_event, seq)``.

        The arguments are those of `bars`, but that `as_of` takes what had been received at that time, and that sizes
        are adjusted.
        """
        asked = _asked(
            Kind.TRADES,
            symbols,
            (start, end),
            vendor=vendor,
            session=session,
            calendar=calendar,
            as_of=as_of,
            adjust=adjust,
            actions_vendor=actions_vendor,
            columns=columns,
        )
        return self._read(asked, as_)

    def quotes(
        self,
        symbols: Symbols,
        *,
        start: When | None = None,
        end: When | None = None,
        vendor: str | None = None,
        session: Session = "all",
        calendar: str = "XNYS",
        as_of: When | None = None,
        adjust: Adjust = "none",
        actions_vendor: str | None = None,
        columns: Sequence[str] | None = None,
        as_: Form = "arrow",
    ) -> Any:
        """Return quotes for research, ascending ``(ts_event, seq)``; the arguments are those of `trades`."""
        asked = _asked(
            Kind.QUOTES,
            symbols,
            (start, end),
            vendor=vendor,
            session=session,
            calendar=calendar,
            as_of=as_of,
            adjust=adjust,
            actions_vendor=actions_vendor,
            columns=columns,
        )
        return self._read(asked, as_)

    def rows(
        self,
        table: str,
        symbols: Symbols = (),
        *,
        start: When | None = None,
        end: When | None = None,
        vendor: str | None = None,
        as_of: When | None = None,
        columns: Sequence[str] | None = None,
        as_: Form = "arrow",
    ) -> Any:
        """Return rows of any table, such as ``fundamentals`` or ``news``, ascending ``ts_event``, then by their key.

        The arguments are those of `bars`.

        Raises:
            ConfigurationError: There is no such table, column or form.
            ValidationError: A time is none or has no time zone.
        """
        asked = _asked(table, symbols, (start, end), vendor=vendor, as_of=as_of, columns=columns)
        return self._read(asked, as_)

    def coverage(
        self,
        table: str,
        symbols: Symbols = (),
        *,
        start: When | None = None,
        end: When | None = None,
        vendor: str | None = None,
        as_: Form = "arrow",
    ) -> Any:
        """Return how much there is of a table: ``vendor, symbol, date, rows, first_ts, last_ts``, ascending by these.

        ``rows`` counts every version of a keyed table.

        Raises:
            ConfigurationError: There is no such table or form.
            ValidationError: A time is none or has no time zone.
        """
        check_form(as_)
        wanted = _wanted(symbols, (start, end), vendor)
        with self._store() as backend:
            return in_form(backend.coverage(_declared(table), wanted), as_)

    def _read(self, asked: Reading, form: Form) -> Any:
        check_form(form)
        with self._store() as backend:
            return in_form(read(backend, asked), form)

    # -- files

    def dump(
        self,
        table: str,
        target: str | Path,
        *,
        symbols: Symbols = (),
        start: When | None = None,
        end: When | None = None,
        vendor: str | None = None,
        timeframe: str | None = None,
        format: str | None = None,  # noqa: A002  what users call it
        progress: Progress | None = None,
    ) -> Dumped:
        """Write rows of a table, of a keyed one every version, to a file; see `mds_client.transfer.dump`.

        Args:
            table: Which table.
            target: A path; one that ends in ``.gz`` is compressed. ``-`` is standard output.
            symbols: These only; empty for all.
            start: Inclusive, by ``ts_event``; None for no bound.
            end: Exclusive; None for no bound.
            vendor: One vendor's only.
            timeframe: Of bars, those of this length only.
            format: ``csv``, ``ndjson`` or ``parquet``; by the path's ending if None.
            progress: Told how far it is.

        Raises:
            ConfigurationError: The table, format or folder is not there.
            ValidationError: A time is none or has no time zone.
        """
        from mds_client.transfer import dump  # noqa: PLC0415  files and their formats are for those who need them

        equal = {} if timeframe is None else {"interval": timeframe}
        wanted = _wanted(symbols, (start, end), vendor, equal=equal, versions=_declared(table) in KEYS)
        with self._store() as backend:
            return dump(backend, table, target, wanted=wanted, format=format, progress=progress)

    def restore(
        self,
        table: str,
        source: str | Path,
        *,
        format: str | None = None,  # noqa: A002  what users call it
        progress: Progress | None = None,
    ) -> Restored:
        """Take the rows of a file into a table, each once however often it is tried; see `mds_client.transfer.restore`.

        Args:
            table: Which table.
            source: A path; ``-`` is standard input.
            format: ``csv``, ``ndjson`` or ``parquet``; by the path's ending if None.
            progress: Told how far it is.

        Raises:
            ConfigurationError: The table, format or file is not there.
            SchemaValidationError: A row cannot be stored; says which line and column.
        """
        from mds_client.transfer import restore  # noqa: PLC0415  as above

        with self._store() as backend:
            return restore(backend, _declared(table), source, format=format, progress=progress)

    # -- jobs

    def enqueue_job(
        self, job_type: str, payload: Mapping[str, Any], *, idempotency_key: str, priority: Priority = 0
    ) -> OutboxJob:
        """Ask for work to be done; with a key that was used before, return the job of then.

        Args:
            job_type: What is to be done.
            payload: With what; JSON values.
            idempotency_key: Names the job; unique per tenant.
            priority: Higher first; ``low``, ``medium`` and ``high`` are -10, 0 and 10.

        Raises:
            ConfigurationError: There is no such priority.
            ValidationError: The key was used for another type or payload.
        """
        if isinstance(priority, str) and priority not in PRIORITIES:
            raise ConfigurationError(f"priority {priority!r} is no number and none of {', '.join(PRIORITIES)}")
        number = PRIORITIES[priority] if isinstance(priority, str) else priority
        with self._store() as backend:
            return backend.enqueue(
                job_type, payload, idempotency_key=idempotency_key, priority=number, now_ns=self._clock.now_ns()
            )

    def claim_job(
        self, owner: str | None = None, *, job_types: Sequence[str] = (), lease_s: float = 60.0
    ) -> OutboxJob | None:
        """Take the next job that is queued, or whose lease is over; None if there is none. No two callers get one.

        Args:
            owner: Who takes it; the client's `app_name` if None. Give each worker a name of its own.
            job_types: These only; empty for all.
            lease_s: How long it is nobody else's.
        """
        with self._store() as backend:
            return backend.claim(
                owner or self.config.app_name, job_types=job_types, lease_s=lease_s, now_ns=self._clock.now_ns()
            )

    def finish_job(self, job_id: int, *, owner: str | None = None, error: str | None = None) -> OutboxJob:
        """Say what came of a job.

        Args:
            job_id: Which.
            owner: Who took it; the client's `app_name` if None.
            error: Why it failed; None if it is done.

        Raises:
            ValidationError: `owner` does not have it (any more).
        """
        with self._store() as backend:
            return backend.finish(job_id, owner=owner or self.config.app_name, error=error, now_ns=self._clock.now_ns())

    def jobs(self, *, state: str | None = None, limit: int = 100) -> list[OutboxJob]:
        """Return jobs, newest first.

        Args:
            state: ``queued``, ``running``, ``done`` or ``failed`` ones only.
            limit: At most so many.
        """
        with self._store() as backend:
            return backend.jobs(state=state, limit=limit)


def rows_to_upsert(
    models: Sequence[StoredRow], *, tenant_id: str, reason: str | None = None, ts_known: When | None = None
) -> tuple[str, pa.Table] | None:
    """Return the table and rows of models that `MDS.upsert` is given, None of none; raises what it says."""
    known_ns = None if ts_known is None else moment_ns(ts_known, "ts_known")
    for row, model in enumerate(models):
        _check_row(model, row, tenant_id)
    if not models:
        return None
    return TABLES[type(models[0])], rows_from_models(models, reason=reason, ts_known_ns=known_ns)


def _check_row(model: StoredRow, row: int, tenant_id: str) -> None:
    if type(model) not in TABLES:
        raise SchemaValidationError(
            f"model {row} is a {type(model).__name__}, which is no row of a table", details={"row": row}
        )
    if model.tenant_id != tenant_id:
        raise ValidationError(
            f"model {row} is tenant {model.tenant_id}'s; this client is tenant {tenant_id}'s",
            details={"row": row, "column": "tenant_id"},
        )


def window_asked(
    symbol: str,
    timeframe: str,
    start: When | None,
    end: When | None,
    vendor: str | None = None,
    *,
    what: str = "TRADES",
    source: str | None = None,
    as_of: When | None = None,
) -> Reading:
    """Return what `MDS.bars_window` asks for with these arguments; raises what it says."""
    return _bars_asked(
        symbol, timeframe, (start, end), vendor=vendor, as_of=as_of, what=what, source=source, bar_session="ALL"
    )


def _bars_asked(
    symbols: Symbols,
    timeframe: str,
    span: tuple[When | None, When | None],
    *,
    what: str,
    source: str | None,
    bar_session: str,
    **options: Any,
) -> Reading:
    equal = {"interval": timeframe, "what": what, "session": bar_session}
    if source is not None:
        equal["source"] = source
    return _asked(Kind.BARS, symbols, span, equal=equal, **options)


def _asked(
    table: str,
    symbols: Symbols,
    span: tuple[When | None, When | None],
    *,
    as_of: When | None,
    **options: Any,
) -> Reading:
    start_ns, end_ns = span_ns(*span, least=START_OF_TIME_NS, most=END_OF_TIME_NS)
    return Reading(
        table=_declared(table),
        symbols=named(symbols),
        start_ns=start_ns,
        end_ns=end_ns,
        as_of_ns=None if as_of is None else moment_ns(as_of, "as_of"),
        **options,
    )


def named(symbols: Symbols) -> tuple[str, ...]:
    """Return symbols as they are stored."""
    # A single symbol is a sequence too, of letters.
    names = (symbols,) if isinstance(symbols, str) else symbols
    return tuple(name.strip().upper() for name in names)


def _declared(table: str) -> str:
    if table not in STORED_SCHEMAS:
        raise ConfigurationError(f"there is no table {table!r}; there are {', '.join(STORED_SCHEMAS)}")
    return str(table)


def _wanted(symbols: Symbols, span: tuple[When | None, When | None], vendor: str | None, **options: Any) -> Wanted:
    start_ns, end_ns = span_ns(*span, least=START_OF_TIME_NS, most=END_OF_TIME_NS)
    return Wanted(start_ns=start_ns, end_ns=end_ns, vendor=vendor, symbols=named(symbols), **options)


def all_of(kind: type[StoredRow], models: Iterable[StoredRow]) -> list[StoredRow]:
    """Return models as a list.

    Raises:
        SchemaValidationError: One is of another kind; ``details`` say which ``row``, from 0.
    """
    found = list(models)
    for row, model in enumerate(found):
        if type(model) is not kind:
            raise SchemaValidationError(
                f"model {row} is a {type(model).__name__}, no {kind.__name__}", details={"row": row}
            )
    return found
