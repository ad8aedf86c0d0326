from __future__ import annotations

import gzip
import io
import zipfile
from dataclasses import dataclass, field

import pyarrow as pa
import pytest

from market_data_core.protocols import Mark
from market_data_core.schemas import Kind
from market_data_pipeline.source.replay import ReplaySource


@dataclass
class Given:
    """Everything a replay gave, in order."""

    batches: list = field(default_factory=list)
    marks: list = field(default_factory=list)

    def rows(self, kind=None):
        """All rows as plain values, instruments spelled out, each with where it stands."""
        found = []
        for b in self.batches:
            if kind in (None, b.kind):
                for row in b.data.to_pylist():
                    place = b.instruments[row.pop("instrument")]
                    found.append((b.source_id, place.vendor, place.symbol, b.kind, row))
        return found

    def values(self, kind, *names):
        """Some columns of all rows of a kind."""
        return [tuple(r[-1][n] for n in names) for r in self.rows(kind)]

    def table(self, kind):
        """All rows of a kind."""
        return pa.Table.from_batches([b.data for b in self.batches if b.kind is kind])

    @property
    def quarantine(self):
        """Line and reason of all quarantined rows."""
        return self.values(Kind.QUARANTINE, "line", "reason")

    @property
    def symbols(self):
        """The symbols of the events, in order."""
        return [r[2] for r in self.rows() if r[3] is not Kind.QUARANTINE]


async def take(source, resume=None):
    """Run a source to its end."""
    given = Given()
    async for item in source.batches(resume or {}):
        (given.marks if isinstance(item, Mark) else given.batches).append(item)
    return given


@pytest.fixture
def replay():
    """Replay files to the end, with the settings of `ReplaySource`."""

    async def run(*paths, resume=None, **settings):
        return await take(ReplaySource(list(paths), **settings), resume)

    return run


@pytest.fixture
def lean_file(tmp_path):
    """Write a Lean tick file; called like `lean_file("trade", ["34200000,100000,5,Q,0,0"], symbol="abc")`."""

    def write(kind, lines, *, symbol="abc", day="20131007", name=None):
        path = tmp_path / symbol / f"{day}_{kind}.zip"
        path.parent.mkdir(exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            text = lines if isinstance(lines, bytes) else "".join(f"{line}\n" for line in lines).encode()
            z.writestr(name or f"{day}_{symbol}_{kind.capitalize()}_Tick.csv", text)
        return path

    return write


@pytest.fixture
def trades_csv(tmp_path):
    """Write a CSV file of the platform's trades; called like `trades_csv(["TEST,A,1000,1.5,10"])`."""

    def write(lines, *, name="trades.csv", header="vendor,symbol,ts_event,price,size"):
        path = tmp_path / name
        path.write_bytes("".join(f"{line}\n" for line in [header, *lines]).encode())
        return path

    return write


def pack(how, name, data):
    """Return (file name, bytes) of data packed as `gz`, `zip` or not at all."""
    if how == "gz":
        return f"{name}.gz", gzip.compress(data)
    if how == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr(name, data)
        return f"{name.split('.')[0]}.zip", buffer.getvalue()
    return name, data


@pytest.fixture
def packed(tmp_path):
    """Write packed bytes; called like `packed("gz", "trades.csv", b"...")`."""

    def write(how, name, data):
        file_name, content = pack(how, name, data)
        path = tmp_path / file_name
        path.write_bytes(content)
        return path

    return write
