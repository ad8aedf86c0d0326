"""Every store that the platform has, behind one face for the tests."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import dataclass, field
from typing import Any

import pytest
from conformance_rows import make_rows

from market_data_store.lake import Lake
from market_data_store.postgres import PostgresStore
from support.postgres_server import shared_server
from support.s3_server import shared_s3


@dataclass
class Home:
    """A place where one kind of store is kept, and the stores that were opened on it.

    Attributes:
        name: The store's entry point.
        root: What the store is given to find it, a folder, an object store's address or a dsn.
    """

    name: str
    root: str
    opened: list[Any] = field(default_factory=list)

    def store(self, tenant="acme"):
        """Open the store as a process does that starts anew."""
        made = Lake(self.root, tenant) if self.name == "store" else PostgresStore(self.root, tenant, timeout_s=5)
        self.opened.append(made)
        made.open()
        return made

    def close(self):
        for store in self.opened:
            if isinstance(store, PostgresStore):
                store.close()


@pytest.fixture(scope="session")
def empty_lake(tmp_path_factory):
    """A lake whose tables were made and never written to; making them takes ten times a copy."""
    root = tmp_path_factory.mktemp("empty") / "lake"
    Lake(root, "acme").open()
    return root


@pytest.fixture(scope="session", params=["lake", pytest.param("object store", marks=pytest.mark.chaos), "postgres"])
def new_home(request, tmp_path_factory):
    """Make an empty home of the store under test."""
    if request.param == "postgres":
        return lambda: Home("postgres", shared_server().database())
    if request.param == "object store":
        return lambda: Home("store", shared_s3().place())
    empty = request.getfixturevalue("empty_lake")
    folder, numbers = tmp_path_factory.mktemp("lakes"), itertools.count()

    def lake():
        root = folder / str(next(numbers))
        shutil.copytree(empty, root)
        return Home("store", str(root))

    return lake


@pytest.fixture
def home(new_home):
    made = new_home()
    yield made
    made.close()


@pytest.fixture
def store(home):
    """An opened store of tenant ``acme``."""
    return home.store()


@pytest.fixture(scope="session")
def rows():
    """Build rows of a kind from values by column."""
    return make_rows
