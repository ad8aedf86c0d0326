from __future__ import annotations

import itertools
import shutil

import pytest

from market_data_pipeline.writing import DeadLetters
from market_data_store.lake import Lake
from market_data_store.postgres import PostgresStore
from support.postgres_server import shared_server


@pytest.fixture(scope="session")
def new_lake(tmp_path_factory):
    """Make an empty lake; tables are made once and copied."""
    folder, numbers = tmp_path_factory.mktemp("lakes"), itertools.count()
    Lake(folder / "empty", "acme").open()

    def make():
        root = folder / str(next(numbers))
        shutil.copytree(folder / "empty", root)
        return Lake(root, "acme")

    return make


@pytest.fixture
def lake(new_lake):
    return new_lake()


@pytest.fixture(params=["lake", "postgres"])
def store(request):
    """Each store in turn, empty."""
    if request.param == "lake":
        yield request.getfixturevalue("lake")
        return
    with PostgresStore(shared_server().database(), "acme", timeout_s=5) as made:
        made.open()
        yield made


@pytest.fixture
def letters(tmp_path):
    return DeadLetters(tmp_path / "dead_letters")
