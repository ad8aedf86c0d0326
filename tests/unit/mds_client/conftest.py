from __future__ import annotations

import itertools

import pytest

from mds_client import AMDS, MDS
from support.postgres_server import shared_server

_tenants = itertools.count()


@pytest.fixture(scope="session")
def addresses(tmp_path_factory):
    """The dsn of each store, made when it is first asked for."""
    made = {}

    def address(store):
        if store not in made:
            folder = tmp_path_factory.mktemp("stores") / "lake"
            made[store] = str(folder) if store == "lake" else shared_server().database()
        return made[store]

    return address


@pytest.fixture(params=["lake", "postgresql"])
def options(request, addresses):
    """What a client needs to be told, for each store; the tenant is no other test's."""
    return {"dsn": addresses(request.param), "tenant_id": f"test-{next(_tenants)}", "pool_max": 4}


@pytest.fixture
def client(options):
    with MDS(options) as made:
        yield made


@pytest.fixture
async def aclient(options):
    async with AMDS(options) as made:
        yield made


@pytest.fixture
def lake_options(tmp_path):
    """What a client of a lake of this test's own needs to be told."""
    return {"dsn": str(tmp_path / "lake"), "tenant_id": "own"}
