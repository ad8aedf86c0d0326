"""Both stores behind `open_backend`, empty for each test and each example: everyone is a tenant of their own."""

from __future__ import annotations

import functools
import itertools
from contextlib import ExitStack, contextmanager

import pytest

from market_data_store import open_backend
from support.postgres_server import shared_server

_numbers = itertools.count()


@pytest.fixture(scope="session")
def dsn_of(tmp_path_factory):
    """Give the home of a kind of store, ``lake`` or ``postgres``, that all tests share."""

    @functools.cache
    def made(kind):
        return shared_server().database() if kind == "postgres" else str(tmp_path_factory.mktemp("lake"))

    return made


@pytest.fixture
def opening(dsn_of):
    """Give a context with a store of each named kind, opened as somebody who has nothing in it yet."""

    @contextmanager
    def opened(*kinds):
        stores = [open_backend(dsn_of(kind), f"tenant{next(_numbers)}", pool_max=2) for kind in kinds]
        try:
            yield stores
        finally:
            for store in stores:
                store.close()

    return opened


@pytest.fixture
def new_store(opening):
    """Open an empty store of a kind for as long as the test runs."""
    with ExitStack() as stack:
        yield lambda kind: stack.enter_context(opening(kind))[0]


@pytest.fixture(params=["lake", "postgres"])
def kind(request):
    """The kind of store under test."""
    return request.param


@pytest.fixture
def store(new_store, kind):
    """An empty store."""
    return new_store(kind)
