"""What the tests of row and window operators share: a driver that knows of named outputs, and ways to cut a script."""

from __future__ import annotations

from operator_events import SECOND, Barrier, Drive, end

from market_data_core.schemas import Kind


class Ports(Drive):
    """A drive that also keeps what comes out of named outputs, in `ports`."""

    def __init__(self, make, **given):
        super().__init__(make, **given)
        self.ports = {}

    def _take(self, result):
        super()._take(result)
        for port, batches in result.ports.items():
            assert port in self.op.ports
            self.passed += sum(len(b) for b in batches)
            for batch in batches:
                self.ports.setdefault(port, []).extend(batch.to_table().to_pylist())


def cut(events, lengths):
    """The events in batches of these lengths, then the rest."""
    out, at = [], 0
    for length in lengths:
        out.append(events[at : at + length])
        at += length
    return [batch for batch in [*out, events[at:]] if batch]


def run(make, script, **given):
    """Run a script to the end of source ``a``."""
    return Ports(make, **given).run([*(s for s in script if s != []), Barrier(), end(), Barrier()])


def values(drive):
    """Named values by (symbol, time from the base in seconds, name)."""
    assert all(b.kind is Kind.ANALYTICS for b in drive.out)
    found = {(r["symbol"], r["ts_event"], r["name"]): r["value"] for r in drive.rows}
    assert len(found) == len(drive.rows)
    return found


def without(rows, *names):
    """Rows without some columns, in an order of their own."""
    return sorted(
        ({k: v for k, v in row.items() if k not in names} for row in rows),
        key=lambda r: [str(r[k]) for k in ("vendor", "symbol", "ts_event", "origin", *sorted(r))],
    )


def at(seconds):
    """Nanoseconds of so many seconds."""
    return round(seconds * SECOND)
