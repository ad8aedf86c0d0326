"""Any sequence of appends, restarts and stale views leaves what a plain dictionary would hold."""

from __future__ import annotations

from collections import Counter

import pytest
from conformance_rows import make_rows
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from market_data_core.errors import TemporaryUnavailable, WriterConflict
from market_data_core.schemas import Kind

DAY_NS = 86_400 * 10**9
WRITERS = st.sampled_from(["raw", "log-é", "bars 1m"])
TABLES = st.sampled_from(["trades", "quotes", "bars"])
EVENTS = st.lists(st.tuples(st.integers(-2, 40), st.sampled_from("AB")), max_size=4)
COVERS = st.dictionaries(st.sampled_from(["file:1", "file:2"]), st.integers(0, 2**63 - 1))


class StoreMachine(RuleBasedStateMachine):
    """One home, two processes on it, and what they should have stored."""

    new_home = staticmethod(lambda: None)

    def __init__(self):
        super().__init__()
        self.home = self.new_home()
        self.stores = [self.home.store(), self.home.store()]
        self.views = {}
        self.known = {}
        self.positions, self.covers, self.commits, self.rows = {}, {}, Counter(), Counter()
        self.seq = 0

    def teardown(self):
        self.home.close()

    def _view(self, process, table, writer):
        # A view is of one writer; it knows that writer as it was when it was opened.
        key = (process, table, writer)
        if key not in self.views:
            self.views[key] = self.stores[process].table(table)
            self.known[key] = (self.positions.get((table, writer)), self.commits[table, writer])
        return self.views[key]

    @rule(
        process=st.integers(0, 1), table=TABLES, writer=WRITERS, events=EVENTS, step=st.integers(-1, 3), covers=COVERS
    )
    def append(self, *, process, table, writer, events, step, covers):
        """Append through a view that may be stale, to a position that may lie below the last."""
        view = self._view(process, table, writer)
        known, commits = self.known[process, table, writer]
        position = max((known or 0) + step, 0)
        values = []
        for days, symbol in events:
            self.seq += 1
            values.append({"seq": self.seq, "ts_event": days * DAY_NS + self.seq, "symbol": symbol})
        back = known is not None and position < known
        stale = commits != self.commits[table, writer]
        if back or stale:
            with pytest.raises(WriterConflict):
                view.append(make_rows(table, values), writer=writer, position=position, covers=covers)
            if not back:
                with pytest.raises(TemporaryUnavailable):
                    view.append(make_rows(table, values), writer=writer, position=position, covers=covers)
                del self.views[process, table, writer]
            return
        view.append(make_rows(table, values), writer=writer, position=position, covers=covers)
        self.positions[table, writer] = position
        self.commits[table, writer] += 1
        self.known[process, table, writer] = (position, self.commits[table, writer])
        self.covers[table, writer] = self.covers.get((table, writer), {}) | covers
        self.rows.update((table, v["symbol"], v["ts_event"], v["seq"]) for v in values)

    @rule(process=st.integers(0, 1))
    def restart(self, process):
        """Begin anew from what is stored."""
        self.stores[process] = self.home.store()
        self.views = {key: view for key, view in self.views.items() if key[0] != process}

    @precondition(lambda self: self.positions)
    @rule(process=st.integers(0, 1))
    def maintain(self, process):
        """Tidy up."""
        self.stores[process].maintain()

    @rule(symbol=st.sampled_from("AB"), first=st.integers(-2, 40), days=st.integers(0, 40), below=st.integers(0, 60))
    def ticks(self, symbol, first, days, below):
        """Read a part, in order."""
        start_ns, end_ns = first * DAY_NS, (first + days) * DAY_NS
        found = self.stores[0].ticks(Kind.TRADES, "v", symbol, start_ns=start_ns, end_ns=end_ns, below_seq=below)
        expected = sorted(
            (ts_ns, seq)
            for table, s, ts_ns, seq in self.rows.elements()
            if (table, s) == ("trades", symbol) and start_ns <= ts_ns < end_ns and seq < below
        )
        assert list(zip(*(found.column(c).to_pylist() for c in ("ts_event", "seq")), strict=True)) == expected

    @invariant()
    def positions_are_those_of_the_model(self):
        """A fresh look shows every position and cover."""
        fresh = self.stores[1]
        assert fresh.written() == {table for table, _ in self.positions}
        for (table, writer), position in self.positions.items():
            view = fresh.table(table)
            assert (view.position(writer), view.covers(writer)) == (position, self.covers[table, writer])

    @invariant()
    def rows_are_those_of_the_model(self):
        """Nothing is lost or doubled."""
        found = Counter()
        for table in {table for table, _ in self.positions}:
            rows = self.stores[0].read(table, columns=["symbol", "ts_event", "seq"]).to_pylist()
            found.update((table, r["symbol"], r["ts_event"], r["seq"]) for r in rows)
        assert found == self.rows


def test_a_store_holds_what_a_dictionary_would(new_home):
    """Whatever two processes do one after the other, in any order."""
    machine = type("Machine", (StoreMachine,), {"new_home": staticmethod(new_home)})
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        machine,
        settings=settings(max_examples=8, stateful_step_count=12, deadline=None, suppress_health_check=checks),
    )
