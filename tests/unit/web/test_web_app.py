"""The frame of a service: docs, CORS, lifespan and exports."""

from __future__ import annotations

import base64
import hashlib
import re
from contextlib import asynccontextmanager

import httpx
import pytest

from market_data_core import web
from market_data_core.web import PROBLEM_JSON, create_service_app

PAGE_ORIGIN = "https://ops.example"


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_docs_allow_exactly_what_they_load(path, app, client_of):
    """Each script and style of the page is allowed by its policy, and inline scripts only by hash."""
    async with client_of(app) as client:
        response = await client.get(path)
    assert response.status_code == 200
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    loaded = re.findall(r'(?:script src|stylesheet" href)="(https?:[^"]+)"', response.text)
    source = next(word for word in policy["script-src"].split() if word.startswith("https:"))
    assert loaded
    assert all(url.startswith(source) for url in loaded)
    assert "unsafe" not in policy["script-src"]
    for script in re.findall(r"<script>(.*?)</script>", response.text, re.DOTALL):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy["script-src"]
    assert policy["frame-ancestors"] == "'none'"


async def test_openapi_describes_errors_as_they_are(app, client_of):
    """Every operation documents problem+json and not FastAPI's own error body."""

    @app.get("/bars")
    async def bars(limit: int):
        return limit

    async with client_of(app) as client:
        document = (await client.get("/openapi.json")).json()
    assert document["info"] == {"title": "test", "version": "1.2.3"}
    responses = document["paths"]["/bars"]["get"]["responses"]
    assert set(responses) == {"200", "default"}
    assert set(responses["default"]["content"]) == {PROBLEM_JSON}


async def test_a_slash_too_many_is_not_redirected(app, client_of):
    """A redirect would send the caller to whatever Host it named."""
    async with client_of(app) as client:
        response = await client.get("/metrics/", headers={"Host": "evil.example"})
    assert response.status_code == 404


async def test_without_configured_origins_no_other_page_may_read(app, client_of):
    """CORS is off by default."""
    async with client_of(app) as client:
        response = await client.get("/metrics", headers={"Origin": PAGE_ORIGIN})
    assert "access-control-allow-origin" not in response.headers


async def test_a_configured_origin_may_read_errors_too(registry, client_of):
    """A page elsewhere sees the problem and its request id, but gets no cookies sent along."""
    app = create_service_app(title="t", version="1", registry=registry, cors_origins=[PAGE_ORIGIN])
    async with client_of(app) as client:
        allowed = await client.get("/no/such", headers={"Origin": PAGE_ORIGIN})
        other = await client.get("/no/such", headers={"Origin": "https://evil.example"})
    assert allowed.headers["access-control-allow-origin"] == PAGE_ORIGIN
    assert "X-Request-ID" in allowed.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in allowed.headers
    assert "access-control-allow-origin" not in other.headers


async def test_the_lifespan_is_the_services_own(registry, served):
    """What the service opens is there while it serves and closed after."""
    events = []

    @asynccontextmanager
    async def lifespan(app):
        events.append("opened")
        yield
        events.append("closed")

    app = create_service_app(title="t", version="1", registry=registry, lifespan=lifespan)
    async with served(app) as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        assert (await client.get("/metrics")).status_code == 200
        assert events == ["opened"]
    assert events == ["opened", "closed"]


def test_everything_exported_exists_and_is_sorted():
    """`__all__` is what the package offers."""
    assert all(hasattr(web, name) for name in web.__all__)
    constants = [name for name in web.__all__ if name.isupper()]
    classes = [name for name in web.__all__ if name[0].isupper() and not name.isupper()]
    functions = [name for name in web.__all__ if name[0].islower()]
    assert web.__all__ == sorted(constants) + sorted(classes) + sorted(functions)
