"""Pages: opaque cursors, and walks that give every row once."""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response

from market_data_core.errors import ValidationError
from market_data_core.web import create_service_app
from market_data_core.web.paging import (
    MAX_CURSOR_CHARS,
    Cursor,
    Limit,
    decode_cursor,
    encode_cursor,
    page_response,
)

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ROWS: set[int] = set()


@given(INT64, TEXT, st.lists(st.one_of(st.none(), TEXT, INT64), max_size=4))
def test_a_cursor_comes_back_as_the_place_it_names(number, text, scope):
    """Whatever the place and the list, and in characters that need no escape in a URL."""
    cursor = encode_cursor((number, text), scope=scope)
    assert decode_cursor(cursor, (int, str), scope=scope) == (number, text)
    assert set(cursor) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(st.text(max_size=60))
def test_what_is_no_cursor_is_refused(text):
    """Nothing a caller makes up is taken for a place, and nothing but one kind of error comes of it."""
    with pytest.raises(ValidationError):
        decode_cursor(text, (int,))


@pytest.mark.parametrize(
    ("position", "types"),
    [(("1",), (int,)), ((1,), (str,)), ((True,), (int,)), ((1, 2), (int,)), ((), (int,)), ((2**64 - 1,), (int,))],
)
def test_a_place_of_another_shape_is_refused(position, types):
    """Number and types of the parts are those of the list's order."""
    with pytest.raises(ValidationError, match="cursor"):
        decode_cursor(encode_cursor(position), types)


def test_a_cursor_is_good_for_its_own_list_alone():
    """With other filters the place would mean something else."""
    cursor = encode_cursor((1,), scope=("bars", "AAPL"))
    with pytest.raises(ValidationError, match="another list"):
        decode_cursor(cursor, (int,), scope=("bars", "MSFT"))


def test_a_long_cursor_is_refused_before_it_is_read():
    """No more is looked at than a cursor can have."""
    with pytest.raises(ValidationError, match="at most"):
        decode_cursor("A" * (MAX_CURSOR_CHARS + 1), (int,))


@pytest.fixture
def client():
    app = create_service_app(title="t", version="1", registry=CollectorRegistry())

    @app.get("/rows")
    async def rows(request: Request, name: str = "", limit: Limit = 3, cursor: Cursor = None) -> Response:
        after = -1 if cursor is None else decode_cursor(cursor, (int,), scope=(name,))[0]
        found = sorted(row for row in ROWS if row > after)[: limit + 1]
        more = encode_cursor((found[limit - 1],), scope=(name,)) if len(found) > limit else None
        return page_response(request, found[:limit], more)

    ROWS.clear()
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test")


async def test_a_walk_gives_every_row_once_while_others_come(client):
    """Those that were there from the start, each once; those that come behind the walker, not at all."""
    ROWS.update(range(0, 40, 2))
    seen, cursor = [], None
    while True:
        page = (await client.get("/rows", params={"cursor": cursor} if cursor else {})).json()
        seen += page["items"]
        ROWS.update({seen[-1] - 1, seen[-1] + 1})
        cursor = page["next"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen))
    assert set(range(0, 40, 2)) <= set(seen)


async def test_the_link_leads_to_the_next_page(client):
    """It is relative, keeps what was asked, and is absent with the last page."""
    ROWS.update(range(5))
    first = await client.get("/rows", params={"name": "a b&c", "limit": 2})
    link = first.headers["link"]
    address = link[link.index("<") + 1 : link.index(">")]
    assert link.endswith('rel="next"')
    assert parse_qs(urlsplit(address).query)["name"] == ["a b&c"]
    assert not urlsplit(address).netloc
    second = await client.get(address)
    third = await client.get(second.headers["link"].split(">")[0][1:])
    assert [*first.json()["items"], *second.json()["items"], *third.json()["items"]] == [0, 1, 2, 3, 4]
    assert "link" not in third.headers
    assert third.json()["next"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "cursor=%00", "cursor=" + "A" * 2000])
async def test_wrong_parameters_are_problems(client, query):
    """422, naming the parameter, and never a 500."""
    answer = await client.get(f"/rows?{query}")
    assert answer.status_code == 422
    assert query.split("=")[0] in answer.text
