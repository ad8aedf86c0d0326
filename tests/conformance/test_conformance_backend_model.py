"""Any sequence of upserts, restored versions and questions is answered as a plain dictionary of versions would."""

from __future__ import annotations

import pytest
from conformance_rows import JAN_1_NS, make_rows
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from market_data_store.backend import Upserted, Wanted

DAY_NS = 86_400 * 10**9
TABLES = {"bars": "close", "news": "sentiment_score"}
# A key, what it says, when, and, where it is restored, which version.
ROWS = st.lists(
    st.tuples(
        st.sampled_from("ABC"),
        st.sampled_from([None, 1.0, 2.0]),
        st.integers(0, 2),
        st.none() | st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(0, 1)),
    ),
    min_size=1,
    max_size=5,
)


class BackendMachine(RuleBasedStateMachine):
    """Two stores of one home, and what they should say."""

    new_home = staticmethod(lambda: None)

    def __init__(self):
        super().__init__()
        self.home = self.new_home()
        self.stores = [self.home.store(), self.home.store()]
        self.stored = {table: {} for table in TABLES}
        self.now_ns = 0

    def teardown(self):
        self.home.close()

    @rule(table=st.sampled_from(sorted(TABLES)), at=st.integers(0, 1), rows=ROWS)
    def upsert(self, *, table, at, rows):
        """Tell and restore, in one call."""
        self.now_ns += 1
        given, expected = [], Upserted()
        for name, value, day, version in rows:
            ts_ns = JAN_1_NS + day * DAY_NS
            row = {TABLES[table]: value, "ts_event": ts_ns, "seq": 0, "id" if table == "news" else "symbol": name}
            if version is not None:
                row |= dict(zip(("revision", "ts_known", "seq"), version, strict=True))
            given.append(row)
            # News may be dated anew; another time makes another bar.
            key = name if table == "news" else (name, ts_ns)
            expected += self._put(self.stored[table].setdefault(key, {}), version, (ts_ns, value))
        assert self.stores[at].upsert(table, make_rows(table, given), now_ns=self.now_ns) == expected

    def _put(self, history, version, said):
        is_new = not history
        if version is None:
            last = max(history, default=(-1, 0, 0))
            if history.get(last) == said:
                return Upserted(unchanged=1)
            version = (last[0] + 1, self.now_ns, 0)
        elif version in history:
            return Upserted(unchanged=1)
        history[version] = said
        return Upserted(inserted=is_new, revised=not is_new)

    def _expected(self, table, *, as_of_ns=None, versions=False, start_ns=-(2**63), end_ns=2**63 - 1):
        found = []
        for key, history in self.stored[table].items():
            known = sorted(v for v in history if as_of_ns is None or v[1] <= as_of_ns)
            found += [(key[0], *v, *history[v]) for v in (known if versions else known[-1:])]
        return sorted((r for r in found if start_ns <= r[4] < end_ns), key=str)

    def _shown(self, table, rows):
        name = "id" if table == "news" else "symbol"
        columns = (name, "revision", "ts_known", "seq", "ts_event", TABLES[table])
        return sorted((tuple(r[c] for c in columns) for r in rows), key=str)

    @rule(
        table=st.sampled_from(sorted(TABLES)),
        at=st.integers(0, 1),
        as_of_ns=st.none() | st.integers(-1, 8),
        versions=st.booleans(),
        days=st.none() | st.tuples(st.integers(0, 2), st.integers(0, 3)),
    )
    def ask(self, *, table, at, as_of_ns, versions, days):
        """Whole and piece by piece, of some dates, as it was known."""
        wanted = {"as_of_ns": as_of_ns, "versions": versions}
        if days is not None:
            wanted |= {"start_ns": JAN_1_NS + days[0] * DAY_NS, "end_ns": JAN_1_NS + days[1] * DAY_NS}
        expected = self._expected(table, **wanted)
        rows = self.stores[at].fetch(table, Wanted(**wanted)).to_pylist()
        streamed = [r for b in self.stores[at].stream(table, Wanted(**wanted), batch_rows=2) for r in b.to_pylist()]
        assert self._shown(table, rows) == self._shown(table, streamed) == expected
        counted = self.stores[at].coverage(table, Wanted(**wanted)).column("rows").to_pylist()
        assert sum(counted) == len(self._expected(table, **(wanted | {"versions": True})))

    @invariant()
    def every_version_is_there(self):
        """In both stores."""
        for table in TABLES:
            expected = self._expected(table, versions=True)
            for store in self.stores:
                assert self._shown(table, store.fetch(table, Wanted(versions=True)).to_pylist()) == expected


@pytest.mark.timeout(120)
def test_a_backend_is_a_dictionary_of_versions(new_home):
    """Nothing is lost, doubled, or answered by a version that does not count."""

    class Machine(BackendMachine):
        pass

    Machine.new_home = staticmethod(new_home)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=12, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
