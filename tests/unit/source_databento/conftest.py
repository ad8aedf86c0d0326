from __future__ import annotations

import pytest
from dbn_oracle import encoded, packed, take

from market_data_pipeline.source.databento import DatabentoSource


@pytest.fixture
def dbn_file(tmp_path):
    """Write a DBN file; called like `dbn_file([trade()])`, compressed if its name says so."""

    def write(records, name="a.dbn", **settings):
        data = encoded(records, metadata=".frag" not in name, **settings)
        path = tmp_path / name
        path.write_bytes(packed(data) if name.endswith(".zst") else data)
        return path

    return write


@pytest.fixture
def replay():
    """Give the events of files to their end, with the settings of `DatabentoSource`."""

    async def run(*paths, resume=None, **settings):
        return await take(DatabentoSource(list(paths), **settings), resume)

    return run
