"""The cockpit's files over HTTP, in an app that adds nothing of its own."""

from __future__ import annotations

import re

import httpx
import pytest
from starlette.applications import Starlette

from market_data_orchestrator.cockpit import COCKPIT_CSP, cockpit_routes


@pytest.fixture
def client():
    """A client of an app that has the cockpit's routes and no middleware."""
    app = Starlette(routes=cockpit_routes())
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/ui", "text/html; charset=utf-8"),
        ("/ui/cockpit.js", "text/javascript; charset=utf-8"),
        ("/ui/scale.js", "text/javascript; charset=utf-8"),
        ("/ui/cockpit.css", "text/css; charset=utf-8"),
        ("/ui/icon.svg", "image/svg+xml"),
    ],
)
async def test_each_file_comes_with_its_type(client, path, media_type):
    """Each file has its media type; with nosniff a wrong one would not load."""
    response = await client.get(path)

    assert response.status_code == 200
    assert response.headers["content-type"] == media_type
    assert response.content


@pytest.mark.parametrize("path", ["/ui", "/ui/cockpit.js", "/ui/none.js"])
async def test_every_answer_carries_the_policy(client, path):
    """The page, its files and what is missing all carry the content policy and its companions."""
    headers = (await client.get(path)).headers

    assert headers["content-security-policy"] == COCKPIT_CSP
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    [
        "/ui/none.js",
        "/ui/index.html",
        "/ui/",
        "/ui/routes.py",
        "/ui/../routes.py",
        "/ui/%2e%2e/routes.py",
        "/ui/a/b.js",
    ],
)
async def test_all_else_is_not_found(client, path):
    """Nothing but the listed files is served, whatever the path says."""
    assert (await client.get(path)).status_code == 404


async def test_a_known_version_is_not_sent_again(client):
    """A browser that has the current version, or one weakened by a proxy, gets a 304 without a body."""
    first = await client.get("/ui")
    etag = first.headers["etag"]

    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await client.get("/ui", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
        assert again.headers["content-security-policy"] == COCKPIT_CSP
    assert first.headers["cache-control"] == "no-cache"
    assert (await client.get("/ui", headers={"if-none-match": '"other"'})).status_code == 200


async def test_the_page_names_only_files_that_exist(client):
    """Whatever the page and its modules load is served."""
    seen, open_paths = set(), ["/ui"]
    while open_paths:
        path = open_paths.pop()
        response = await client.get(path)
        assert response.status_code == 200, path
        seen.add(path)
        named = re.findall(r'(?:src|href)="(/ui/[^"]+)"', response.text) if path == "/ui" else []
        named += [f"/ui/{name}" for name in re.findall(r'from "\./([^"]+)"', response.text)]
        open_paths += [name for name in named if name not in seen]

    assert {"/ui/cockpit.js", "/ui/cockpit.css", "/ui/icon.svg", "/ui/transport.js"} <= seen
