"""The gate before a route."""

from __future__ import annotations

import logging

import httpx
import pytest
from fastapi import APIRouter
from prometheus_client import CollectorRegistry
from starlette.requests import HTTPConnection

from market_data_core.errors import AuthenticationFailed, ConfigurationError, TemporaryUnavailable
from market_data_core.web import PROBLEM_JSON, create_service_app
from market_data_core.web.auth import (
    ConfiguredKey,
    KeyStore,
    Principal,
    Role,
    StoredKeys,
    guarded_route,
    key_authenticators,
    offered_key,
    require,
)


class Says:
    """An authenticator that gives or raises what it was made with."""

    def __init__(self, what):
        self.what = what

    async def authenticate(self, connection):
        if isinstance(self.what, Exception):
            raise self.what
        return self.what


@pytest.fixture
def store(tmp_path):
    return KeyStore(tmp_path / "keys")


@pytest.fixture
def keys(store):
    return {role: store.add(f"the-{role}", role) for role in Role}


@pytest.fixture
def service(gated, store):
    return gated([ConfiguredKey("configured"), StoredKeys(store)])


@pytest.mark.parametrize("needed", list(Role))
@pytest.mark.parametrize("held", list(Role))
async def test_a_role_opens_what_needs_it_or_less(service, keys, held, needed):
    """All nine pairs of role held and role needed."""
    response = await service.get(f"/{needed}", X_API_Key=keys[held])
    if held.covers(needed):
        assert (response.status_code, response.json()) == (200, {"name": f"the-{held}", "role": held})
        assert service.failures() == {}
    else:
        assert (response.status_code, response.headers["content-type"]) == (403, PROBLEM_JSON)
        assert response.json()["detail"] == f"the-{held} is {held}; this needs {needed}"
        assert service.failures() == {"forbidden": 1}


async def test_who_sends_nothing_is_told_what_to_send(service):
    """401 with a challenge, as a problem."""
    response = await service.get("/viewer")
    assert (response.status_code, response.headers["content-type"]) == (401, PROBLEM_JSON)
    assert response.headers["www-authenticate"] == "Bearer"
    assert "X-API-Key" in response.json()["detail"]
    assert service.failures() == {"missing": 1}


@pytest.mark.parametrize(
    "headers", [{"X_API_Key": "hunter2"}, {"Authorization": "Bearer hunter2"}, {"Authorization": "Basic hunter2"}]
)
async def test_what_is_not_accepted_is_counted_and_told_nowhere(service, headers, caplog):
    """The answer and the log are without what was sent."""
    with caplog.at_level(logging.DEBUG):
        response = await service.get("/viewer", **headers)
    assert response.status_code == 401
    assert "hunter2" not in response.text + caplog.text
    assert service.failures() == {"invalid": 1}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
async def test_a_key_may_come_as_bearer(service, keys, scheme):
    """As tools that know tokens only send it."""
    response = await service.get("/admin", Authorization=f"{scheme} {keys[Role.ADMIN]}")
    assert response.json()["name"] == "the-admin"


async def test_the_configured_key_is_an_admin(service):
    """Beside those of the file."""
    assert (await service.get("/admin", X_API_Key="configured")).json()["role"] == "admin"


def test_an_empty_configured_key_is_refused():
    """It would let everybody in."""
    for key in ("", "  "):
        with pytest.raises(ConfigurationError):
            ConfiguredKey(key)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([(b"x-api-key", b"a")], "a"),
        ([(b"x-api-key", b"a"), (b"authorization", b"Bearer b")], "a"),
        ([(b"x-api-key", b""), (b"authorization", b"Bearer b")], "b"),
        ([(b"x-api-key", b"a"), (b"x-api-key", b"b")], None),
        ([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer b")], None),
        ([(b"authorization", b"Bearer")], None),
        ([(b"authorization", b"Bearer ")], None),
        ([(b"x-api-key", b"a" * 5000)], None),
        ([], None),
    ],
)
def test_one_key_is_found_or_none(headers, key):
    """The key header first; two of the same are none."""
    assert offered_key(HTTPConnection({"type": "http", "headers": headers})) == key


async def test_authenticators_are_tried_in_order(gated):
    """The first who knows the caller decides; who cannot tell leaves it to the next."""
    known = Principal(name="known", role=Role.VIEWER)
    for others in ([Says(None)], [Says(AuthenticationFailed("expired"))], [Says(TemporaryUnavailable("away"))]):
        service = gated([*others, Says(known), Says(Principal(name="later", role=Role.ADMIN))])
        assert (await service.get("/viewer")).json()["name"] == "known"


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [(AuthenticationFailed("expired"), 401, "invalid"), (TemporaryUnavailable("away"), 503, "unavailable")],
)
async def test_the_first_refusal_is_the_answer(gated, error, status, reason):
    """If nobody else knows the caller."""
    service = gated([Says(error), Says(None)])
    response = await service.get("/viewer")
    assert (response.status_code, response.json()["detail"]) == (status, error.message)
    assert service.failures() == {reason: 1}


async def test_a_damaged_file_keeps_the_configured_key_good(service, store, keys):
    """There is a way in to put it right, and no other."""
    store.path.write_text("damaged")
    assert (await service.get("/admin", X_API_Key="configured")).status_code == 200
    assert (await service.get("/admin", X_API_Key=keys[Role.ADMIN])).status_code == 503


async def test_a_guarded_router_asks_before_it_reads(gated):
    """Who may not in learns nothing about the body, however wrong it is."""
    app = create_service_app(title="t", version="1", registry=CollectorRegistry())
    gate = require(Role.VIEWER, authenticators=[ConfiguredKey("configured")])
    router = APIRouter(route_class=guarded_route(gate))

    @router.post("/number")
    async def number(body: dict[str, int]) -> int:
        return body["n"]

    app.include_router(router)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        assert (await client.post("/number", content=b"{")).status_code == 401
        assert (await client.post("/number", content=b"{", headers={"x-api-key": "configured"})).status_code == 422
        response = await client.post("/number", json={"n": 3}, headers={"x-api-key": "configured"})
    assert response.json() == 3


async def test_a_service_without_any_key_gets_a_first_one(gated, tmp_path):
    """And says where; with a configured one it makes none."""
    authenticators, place = key_authenticators(configured="", keys_file=tmp_path / "made" / "keys")
    response = await gated(authenticators).get("/admin", X_API_Key=place.read_text().strip())
    assert response.json() == {"name": "first", "role": "admin"}
    authenticators, place = key_authenticators(configured="configured", keys_file=tmp_path / "other" / "keys")
    assert place is None
    assert not (tmp_path / "other").exists()
    assert (await gated(authenticators).get("/admin", X_API_Key="configured")).status_code == 200
