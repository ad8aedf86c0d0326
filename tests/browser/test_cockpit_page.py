"""The cockpit in a real browser, fed by a real WebSocket with scripted statuses."""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
import socket
import time

import pytest
import pytest_asyncio
import uvicorn
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import async_playwright, expect
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from market_data_orchestrator.cockpit import cockpit_routes

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DEADLINE_S = 10.0

pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason=f"Chromium is not at {CHROMIUM}"),
]


def status_of(**changes):
    """A service that is well: two sources, a log, two consumers, a store."""
    status = {
        "service": "market-data-orchestrator",
        "running": True,
        "paused": False,
        "runtime": {"state": "running", "mode": "dag"},
        "feedback": "connected",
        "version": "0.1.0",
        "node": "node-a",
        "region": "local",
        "cluster": "default",
        "ts": time.time(),
        "uptime_s": 4210.5,
        "health": {
            "state": "healthy",
            "components": [
                {"name": name, "state": "healthy", "detail": "ok", "details": "ok"}
                for name in ("provider", "log", "consumers", "store")
            ],
        },
        "provider": {"name": "synthetic", "state": "live", "symbols": 40, "events": 1_204_331, "rate_events_s": 1204.2},
        "sources": [
            {
                "name": "synthetic",
                "state": "live",
                "events": 1_204_331,
                "rate_events_s": 1204.2,
                "refused": 0,
                "age_s": 0.1,
            },
            {"name": "replay-nasdaq", "state": "done", "events": 50_000, "rate_events_s": 0, "refused": 3, "age_s": 61},
        ],
        "log": {
            "id": "l1",
            "epoch": 3,
            "end": 1_254_331,
            "durable_end": 1_254_300,
            "size_bytes": 73_400_320,
            "full": False,
        },
        "store": {
            "url": "file:lake",
            "tenant": "default",
            "tables": {
                "trades": {"rows": 402_113, "files": 12, "size_bytes": 9_000_000},
                "quotes": {"rows": 790_002, "files": 14, "size_bytes": 19_000_000},
                "bars": {"rows": 8_120, "files": 3, "size_bytes": 400_000},
            },
            "commit_age_s": 1.2,
        },
        "consumers": [
            {
                "name": "history",
                "state": "running",
                "position": 1_254_300,
                "lag_events": 31,
                "commit_age_s": 1.2,
                "restarts": 0,
                "rate_events_s": 1203.9,
                "unaccounted": 0,
                "nodes": [],
            },
            {
                "name": "bars",
                "state": "running",
                "position": 1_254_310,
                "lag_events": 21,
                "commit_age_s": 0.8,
                "restarts": 1,
                "rate_events_s": 1204.0,
                "unaccounted": 0,
                "nodes": [],
            },
        ],
        "ledger": {
            "received": 1_254_331,
            "stored": 1_200_235,
            "absorbed": 54_000,
            "duplicate": 12,
            "filtered": 40,
            "late": 1,
            "suppressed": 0,
            "quarantined": 9,
            "failed": 0,
            "in_flight": 3,
            "queued": 31,
            "unaccounted": 0,
        },
        "attention": [],
        "symbols": symbols_of(40),
        "jobs": [
            {
                "id": "replay-7",
                "kind": "replay",
                "state": "running",
                "rows": 50_000,
                "rejected": 3,
                "fraction": 0.42,
                "detail": "nasdaq 2024-05-06",
                "error": None,
            },
            {
                "id": "replay-6",
                "kind": "replay",
                "state": "failed",
                "rows": 120,
                "rejected": 0,
                "fraction": 0.01,
                "detail": "lse 2024-05-07",
                "error": "file ends in the middle of a row",
            },
        ],
    }
    return status | changes


def symbols_of(count):
    """Quotes of as many symbols, the fourth without an event for a while."""
    return [
        {
            "vendor": "synthetic",
            "symbol": f"SYM{i:04d}",
            "bid": 100 + i / 4,
            "ask": 100.01 + i / 4,
            "last": 100.01 + i / 4,
            "age_s": 90.0 if i == 3 else 0.2,
            "events": 1000 + i,
            "decimals": 2,
        }
        for i in range(count)
    ]


class Service:
    """The service as the page sees it: a status that tests change, and a WebSocket that they take away."""

    def __init__(self):
        self.message = None
        self.up = True
        self.changed = asyncio.Condition()

    async def say(self, status, *, raw=None):
        """Send a status, or raw text, to every page."""
        await self._change(message=raw if raw is not None else json.dumps({"type": "status", "data": status}))

    async def go_away(self):
        """Close every connection and refuse new ones."""
        await self._change(up=False)

    async def come_back(self):
        """Take connections again."""
        await self._change(up=True)

    async def _change(self, **fields):
        async with self.changed:
            for name, value in fields.items():
                setattr(self, name, value)
            self.changed.notify_all()

    async def endpoint(self, websocket):
        """Send the message of now, and each one after it, while up."""
        if not self.up:
            await websocket.close()
            return
        await websocket.accept()
        sent = None
        try:
            while self.up:
                if self.message is not None and self.message is not sent:
                    sent = self.message
                    await websocket.send_text(sent)
                async with self.changed:
                    await self.changed.wait_for(lambda known=sent: self.message is not known or not self.up)
            await websocket.close()
        except WebSocketDisconnect:
            return


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server():
    """The cockpit's routes and the scripted WebSocket on a free loopback port; one service for each test."""
    current = []

    async def endpoint(websocket):
        await current[-1].endpoint(websocket)

    async def nobody(request):
        return JSONResponse({"detail": "Not authenticated"}, status_code=401)

    app = Starlette(
        routes=[*cockpit_routes(), WebSocketRoute("/ws/status", endpoint), Route("/auth/me", nobody, methods=["GET"])]
    )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, http="httptools", ws="websockets-sansio", lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve(sockets=[listener]), name="served")
        deadline = time.monotonic() + DEADLINE_S
        while not server.started:
            assert time.monotonic() < deadline, "uvicorn did not start"
            await asyncio.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", current
        server.should_exit = True
        await asyncio.wait_for(task, DEADLINE_S)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser():
    """Chromium, once for the module."""
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield chromium
        await chromium.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def contexts(browser):
    """Browser contexts by size and colour scheme; a new one for every test would take most of the time."""
    made = {}

    async def get(width, height, dark):
        if (width, height, dark) not in made:
            made[width, height, dark] = await browser.new_context(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
            )
        return made[width, height, dark]

    return get


@pytest_asyncio.fixture(loop_scope="module")
async def service(server):
    """The service behind the page of one test."""
    made = Service()
    server[1].append(made)
    yield made
    await made.go_away()


@pytest_asyncio.fixture(loop_scope="module")
async def open_page(server, service, contexts):
    """Opens the cockpit; afterwards nothing may have been thrown, logged as an error or refused by the policy."""
    pages, faults = [], []
    # Chromium logs each refused connection itself; pages of tests that take the service away have these. And the
    # service's answer to who has not signed in.
    expected = ["WebSocket connection to", "status of 401"]

    async def make(path="/ui", *, width=1440, height=900, dark=False, fast_clock=False):
        page = await (await contexts(width, height, dark)).new_page()
        pages.append(page)
        if fast_clock:
            await page.clock.install()
        page.set_default_timeout(DEADLINE_S * 1000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if line.type in ("error", "warning") else None)
        await page.goto(server[0] + path)
        return page

    make.expected = expected
    yield make
    for page in pages:
        await page.close()
    assert [fault for fault in faults if not any(words in fault for words in expected)] == []


async def test_it_says_that_it_waits_until_the_first_status(service, open_page):
    """Before the first status there is a sentence and no figures."""
    page = await open_page()

    await expect(page.locator("#waiting")).to_contain_text("Waiting for the first status from 127.0.0.1")
    await expect(page.locator("#fact-connection")).to_contain_text("connecting")


async def test_the_ledger_shows_every_term(service, open_page):
    """The ledger has each term, exact, and says that it balances."""
    await service.say(status_of())
    page = await open_page()

    ledger = page.locator("#ledger")
    await expect(ledger.locator(".verdict")).to_have_text("● balanced")
    await expect(ledger.locator(".term", has_text="received")).to_contain_text("1,254,331")
    await expect(ledger.locator(".term", has_text="in flight")).to_contain_text("3")
    await expect(ledger.locator(".term")).to_have_count(12)
    await expect(page.locator("#fact-connection")).to_contain_text("● live")


async def test_unaccounted_events_are_loud(service, open_page):
    """One event that nobody can account for turns the verdict and its term into solid alarms."""
    await service.say(status_of(ledger=status_of()["ledger"] | {"unaccounted": 1, "received": 1_254_332}))
    page = await open_page()

    await expect(page.locator("#ledger .verdict")).to_have_text("■ 1 unaccounted")
    await expect(page.locator("#ledger .term[data-level=bad]")).to_contain_text("unaccounted")
    await expect(page.locator("#ledger .verdict")).to_have_css("background-color", "rgb(180, 35, 24)")


async def test_a_balance_that_does_not_add_up_is_not_called_one(service, open_page):
    """The page sums the terms itself and believes no zero that they contradict."""
    await service.say(status_of(ledger=status_of()["ledger"] | {"received": 1_254_341}))
    page = await open_page()

    await expect(page.locator("#ledger .verdict")).to_have_text("◆ terms differ by 10")


async def test_counts_beyond_a_double_stay_exact(service, open_page):
    """Counts above 2**53 are shown digit by digit."""
    ledger = dict.fromkeys(status_of()["ledger"], 0) | {"received": 2**53 + 1, "stored": 2**53 + 1}
    await service.say(status_of(ledger=ledger))
    page = await open_page()

    await expect(page.locator("#ledger .term", has_text="received")).to_contain_text("9,007,199,254,740,993")
    await expect(page.locator("#ledger .verdict")).to_have_text("● balanced")


async def test_a_lost_connection_is_said_and_mended(service, open_page):
    """A lost connection brings a banner and keeps the figures; when it is back, both follow."""
    await service.say(status_of())
    page = await open_page()
    await expect(page.locator("#fact-connection")).to_contain_text("● live")

    await service.go_away()
    await expect(page.locator("#banner")).to_contain_text("■ Connection lost. The figures below are the last received.")
    await expect(page.locator("#fact-connection")).to_contain_text("■ disconnected")
    await expect(page.locator("#ledger .term", has_text="received")).to_contain_text("1,254,331")

    await service.say(status_of(ledger=status_of()["ledger"] | {"received": 7}))
    await service.come_back()
    await expect(page.locator("#banner")).to_be_hidden()
    await expect(page.locator("#ledger .term", has_text="received")).to_contain_text("7")


async def test_a_service_that_is_not_there_is_said(service, open_page):
    """A page that never reached the service says so and what to look at."""
    await service.go_away()
    page = await open_page()

    await expect(page.locator("#waiting")).to_contain_text("Is the service running?")
    await expect(page.locator("#banner")).to_contain_text("Nothing was received yet.")


async def test_attention_is_worst_first(service, open_page):
    """Lines stand worst first, oldest first among equals, each with since and limit."""
    now = time.time()
    lines = [
        {
            "severity": "warn",
            "what": "lag over limit",
            "since_ts": now - 10,
            "limit": "1,000 events",
            "component": "bars",
        },
        {"severity": "bad", "what": "commit refused", "since_ts": now - 5, "limit": None, "component": "store"},
        {
            "severity": "bad",
            "what": "no event for 61 s",
            "since_ts": now - 61,
            "limit": "60 s",
            "component": "provider",
        },
    ]
    await service.say(status_of(attention=lines, health={"state": "unhealthy", "components": []}))
    page = await open_page()

    await expect(page.locator(".attention .what")).to_have_text(
        ["provider: no event for 61 s", "store: commit refused", "bars: lag over limit"]
    )
    await expect(page.locator(".attention .facts").first).to_contain_text("limit 60 s")
    await expect(page.locator(".attention .facts").first).to_contain_text("UTC, 6")
    await expect(page.locator("#fact-health")).to_have_text("■ unhealthy")
    await expect(page.locator("#announce")).to_contain_text("alarm: provider no event for 61 s")


async def test_an_unwell_service_without_lines_is_not_called_well(service, open_page):
    """Where the service lists nothing, its unwell parts do."""
    parts = [{"name": "log", "state": "degraded", "detail": "disk slow"}, {"name": "store", "state": "healthy"}]
    await service.say(status_of(health={"state": "degraded", "components": parts}))
    page = await open_page()

    await expect(page.locator(".attention .what")).to_have_text(["log: disk slow"])
    await expect(page.locator("#fact-health")).to_have_text("◆ degraded")


async def test_the_keyboard_reaches_every_view(service, open_page):
    """Digits open views, the address follows, ``?`` lists the keys and Esc closes the list."""
    await service.say(status_of())
    page = await open_page()
    await expect(page.locator("#ledger")).to_be_visible()

    for key, path, landmark in (
        ("2", "market", "#symbols"),
        ("4", "jobs", "#jobs"),
        ("9", "status", "#status-json"),
        ("1", "overview", "#ledger"),
    ):
        await page.keyboard.press(key)
        await expect(page.locator(landmark)).to_be_visible()
        assert page.url.endswith(f"#/{path}")
        await expect(page.locator("nav a[aria-current=page]")).to_contain_text(key)
    await page.keyboard.press("3")
    await expect(page.locator("#ledger")).to_be_visible()
    await page.keyboard.press("?")
    await expect(page.locator("#help")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#help")).to_be_hidden()


async def test_a_slash_filters_symbols(service, open_page):
    """``/`` goes to the filter from anywhere; the address keeps it, Esc clears it."""
    await service.say(status_of())
    page = await open_page()
    await expect(page.locator("#ledger")).to_be_visible()

    await page.keyboard.press("/")
    await page.keyboard.type("sym000")
    await expect(page.locator("#symbols tbody tr")).to_have_count(10)
    await expect(page.locator("#symbols [role=status]")).to_have_text("10 of 40")
    assert page.url.endswith("#/market?q=sym000")
    await page.keyboard.type("zz")
    await expect(page.locator("#symbols .empty")).to_contain_text("No symbol has “sym000zz”")
    await page.keyboard.press("Escape")
    await expect(page.locator("#symbols [role=status]")).to_have_text("40 symbols")


async def test_a_filter_in_the_address_is_applied(service, open_page):
    """A view with its filter can be sent as a link."""
    await service.say(status_of())
    page = await open_page("/ui#/market?q=sym0003")

    await expect(page.locator("#symbols tbody tr")).to_have_count(1)
    await expect(page.locator("#symbols tbody .state .cell")).to_have_text("◇ stale")


async def test_old_quotes_of_a_finished_source_are_closed(service, open_page):
    """Stale is for a source that should speak: one that is done has closed quotes."""
    quote = {"vendor": "replay-nasdaq", "symbol": "AAA", "bid": 1, "age_s": 4000, "decimals": 4}
    await service.say(status_of(symbols=[quote]))
    page = await open_page("/ui#/market")

    await expect(page.locator("#symbols tbody .state .cell")).to_have_text("○ closed")
    await expect(page.locator("#symbols tbody .num .cell").first).to_have_text("1.0000")


async def test_jobs_show_progress_and_errors(service, open_page):
    """A job shows how far it is, what it refused and why it failed."""
    await service.say(status_of())
    page = await open_page("/ui#/jobs")

    await expect(page.locator("#jobs tbody tr").first).to_contain_text("42 %")
    await expect(page.locator("#jobs tbody tr").nth(1)).to_contain_text("■ failed")
    await expect(page.locator("#jobs tbody tr").nth(1)).to_contain_text("file ends in the middle of a row")


async def test_the_message_is_there_as_json(service, open_page):
    """View 9 has the whole message to the digit, holds it still, and copies it."""
    fields = r'"node":"a","ts_event":1715003400123456789,"f":1.10,"e":{},"l":[],"s":"a,b: {\"c\"}"'
    raw = '{"type":"status","data":{' + fields + "}}"
    await service.say(None, raw=raw)
    page = await open_page("/ui#/status")

    shown = page.locator("#status-json pre")
    await expect(shown).to_contain_text("1715003400123456789")
    await expect(shown).to_contain_text('"f": 1.10')
    assert json.loads(await shown.text_content()) == json.loads(raw)
    await service.say({"node": "b"})
    await expect(page).to_have_title("◇ Status · b")
    await expect(shown).to_contain_text('"node": "a"')
    await page.get_by_role("button", name="Take the newest").click()
    await expect(shown).to_contain_text('"node": "b"')
    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy").click()
    await expect(page.locator("#status-json [role=status]")).to_have_text("Copied.")
    assert json.loads(await page.evaluate("navigator.clipboard.readText()"))["data"] == {"node": "b"}


@pytest.mark.parametrize("status", [{}, {"symbols": None, "ledger": None, "health": None, "sources": [None, 7, {}]}])
async def test_missing_fields_are_dashes(service, open_page, status):
    """A status that says nothing is shown as such, in every view."""
    await service.say(status)
    page = await open_page()

    await expect(page.locator("#ledger .verdict")).to_have_text("◇ balance unknown")
    await expect(page.locator("#ledger dd").first).to_have_text("\N{EN DASH}")
    await expect(page.locator("#attention .empty")).to_contain_text("silent about its health")
    for key, landmark in (("2", "#symbols"), ("4", "#jobs"), ("9", "#status-json")):
        await page.keyboard.press(key)
        await expect(page.locator(landmark)).to_be_visible()


async def test_no_status_breaks_the_page(service, open_page):
    """Whatever stands in whatever field, the page goes on (open_page fails the test on any error)."""
    rng = random.Random(9)
    page = await open_page()
    odd = [None, 0, -1, 1e308, 2**70, 0.1, "", "x", True, [], {}, [1], {"a": None}, [[]], "9" * 400]

    def spoil(value):
        if rng.random() < 0.3:
            return rng.choice(odd)
        if isinstance(value, dict):
            return {name: spoil(inner) for name, inner in value.items()}
        return [spoil(inner) for inner in value] if isinstance(value, list) else value

    for i in range(16):
        await page.evaluate(
            "path => { location.hash = path; }", ["#/overview", "#/market", "#/jobs", "#/status"][i % 4]
        )
        spoiled = {name: spoil(value) for name, value in status_of(symbols=symbols_of(5)).items()}
        await service.say(spoiled | {"node": f"turn-{i}"})
        await expect(page).to_have_title(
            re.compile(rf"^. {['Overview', 'Market', 'Jobs', 'Status'][i % 4]} · turn-{i}$")
        )


async def test_hostile_text_stays_text(service, open_page):
    """Markup in names and details is shown as it is and never becomes elements."""
    evil = "<img src=x onerror=alert(1)>"
    quote = {"vendor": evil, "symbol": evil, "bid": evil, "decimals": evil}
    await service.say(
        status_of(
            symbols=[quote],
            node=evil,
            attention=[{"severity": "bad", "what": evil, "component": evil, "limit": evil}],
            sources=[{"name": evil, "state": evil, "problem": evil}],
            consumers=[{"name": evil, "state": evil}],
            store={"tables": {evil: {"rows": 1}, "__proto__": {"rows": 2}}},
        )
    )
    page = await open_page()

    await expect(page.locator("#fact-node")).to_contain_text(evil)
    await expect(page.locator("#feed tbody th .cell")).to_have_text(evil)
    await expect(page.locator(".attention .what")).to_contain_text(evil)
    await expect(page.locator("img, main script")).to_have_count(0)


async def test_a_message_that_is_no_status_changes_nothing(service, open_page):
    """Other messages of the socket are passed over."""
    await service.say(status_of())
    page = await open_page()
    await expect(page.locator("#fact-node")).to_contain_text("node-a")

    for raw in ('{"type":"other"}', "[]", "7", "null", '{"type":"status","data":[]}'):
        await service.say(None, raw=raw)
    await service.say(status_of(node="node-b"))
    await expect(page.locator("#fact-node")).to_contain_text("node-b")


async def test_two_thousand_symbols_stay_light(service, open_page):
    """With 2,000 symbols only the rows in sight exist, the last can be reached, and a message costs little time."""
    await service.say(status_of(symbols=symbols_of(2000)))
    page = await open_page("/ui#/market")
    rows = page.locator("#symbols tbody tr")
    await expect(rows.first).to_contain_text("SYM0000")
    assert await rows.count() < 80
    await expect(page.locator("#symbols table")).to_have_attribute("aria-rowcount", "2001")

    await page.locator("#symbols .scroller").focus()
    await page.keyboard.press("End")
    await expect(page.locator("#symbols tbody tr", has_text="SYM1999")).to_be_in_viewport()
    # Processor time of the page's main thread: the clock on the wall would measure the machine's other work as well.
    inspector = await page.context.new_cdp_session(page)
    await inspector.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = await main_thread_s(inspector)
    for i in range(10):
        await service.say(status_of(symbols=symbols_of(2000), node=f"turn-{i}"))
        await expect(page.locator("#fact-node")).to_contain_text(f"turn-{i}")
    assert (await main_thread_s(inspector) - before) / 10 < 0.15


async def main_thread_s(inspector):
    """Processor seconds that the page's main thread has used."""
    metrics = (await inspector.send("Performance.getMetrics"))["metrics"]
    return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")


async def test_a_silent_connection_is_stale_and_then_given_up(service, open_page):
    """An open connection that says nothing is stale after ten seconds and replaced after twenty."""
    await service.say(status_of())
    page = await open_page(fast_clock=True)
    await expect(page.locator("#fact-connection")).to_contain_text("● live")

    await page.clock.run_for(11_500)
    await expect(page.locator("#banner")).to_contain_text(
        "◇ No status arrives. The figures below are the last received."
    )
    await expect(page.locator("#fact-connection")).to_contain_text("◇ silent")
    await page.clock.run_for(10_500)
    await expect(page.locator("#banner")).to_be_hidden()
    await expect(page.locator("#fact-connection")).to_contain_text("● live")


async def test_charts_have_words(service, open_page):
    """Each canvas says in words what it shows."""
    await service.say(status_of())
    page = await open_page()

    words = (
        "Throughput in events/s, last five minutes: "
        "in 1,204, between 1,204 and 1,204; out 2,408, between 2,408 and 2,408"
    )
    await expect(page.locator("canvas").first).to_have_attribute("aria-label", words)
    await expect(page.locator("canvas[role=img][aria-label]")).to_have_count(3)


async def test_scales_end_on_round_numbers(service, open_page):
    """An axis ends on 1, 2 or 5 times a power of ten, and labels are moved apart within their room."""
    page = await open_page()

    found = await page.evaluate(
        "import('/ui/scale.js').then(s => [s.niceCeil(0), s.niceCeil(0.03), s.niceCeil(1204), s.niceCeil(5000),"
        " s.spread([50, 50, 49], 13, 0, 60), s.short(1500), s.short(2e6)])"
    )

    assert found[:4] == [1, 0.05, 2000, 5000]
    low, mid, high = sorted(found[4])
    assert low >= 0
    assert high <= 60
    assert mid - low >= 13
    assert high - mid >= 13
    assert found[5:] == ["1.5k", "2M"]


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
async def test_it_is_accessible(service, open_page, width, dark):
    """No serious fault by axe in any view, wide and light, narrow and dark, well, unwell or disconnected."""
    await service.say(status_of(symbols=symbols_of(6)))
    page = await open_page(width=width, dark=dark)
    await expect(page.locator("#ledger")).to_be_visible()
    axe = Axe()
    for key, landmark in (("1", "#ledger"), ("2", "#symbols"), ("4", "#jobs"), ("9", "#status-json")):
        await page.keyboard.press(key)
        await expect(page.locator(landmark)).to_be_visible()
        assert await serious(axe, page) == []
    await page.keyboard.press("1")
    await service.say(unwell_status() | {"symbols": symbols_of(6)})
    await expect(page.locator("#fact-health")).to_have_text("■ unhealthy")
    assert await serious(axe, page) == []
    await service.go_away()
    await expect(page.locator("#banner")).to_be_visible()
    assert await serious(axe, page) == []


async def serious(axe, page):
    """What axe calls serious or critical: rule and element."""
    found = [v for v in (await axe.run(page)).response["violations"] if v["impact"] in ("serious", "critical")]
    return [(v["id"], node["target"], node.get("failureSummary")) for v in found for node in v["nodes"]]


def unwell_status():
    """A service in trouble of every kind."""
    well = status_of()
    now = time.time()
    return well | {
        "health": {
            "state": "unhealthy",
            "components": [
                {"name": "provider", "state": "degraded", "detail": "no event for 61 s"},
                {"name": "log", "state": "healthy"},
                {"name": "consumers", "state": "unhealthy", "detail": "bars in conflict"},
                {"name": "store", "state": "healthy"},
            ],
        },
        "provider": well["provider"] | {"state": "waiting"},
        "sources": [
            well["sources"][0] | {"state": "waiting", "problem": "no event for 61 s; session open", "age_s": 61.0},
            well["sources"][1] | {"state": "failed", "problem": "connection refused by 10.0.0.7:7497"},
        ],
        "consumers": [
            well["consumers"][0] | {"state": "retrying", "problem": "disk slow", "lag_events": 90_211},
            well["consumers"][1] | {"state": "conflict", "unaccounted": 12, "rate_events_s": 0},
        ],
        "ledger": well["ledger"] | {"unaccounted": 12, "received": 1_254_343},
        "attention": [
            {
                "severity": "warn",
                "what": "no event for 61 s; session open",
                "since_ts": now - 61,
                "limit": "30 s",
                "component": "provider",
            },
            {
                "severity": "bad",
                "what": "12 events unaccounted in bars",
                "since_ts": now - 4000,
                "limit": "0",
                "component": "ledger",
            },
            {
                "severity": "bad",
                "what": "another writer committed to bars",
                "since_ts": now - 90000,
                "limit": None,
                "component": "store",
            },
            {
                "severity": "stale",
                "what": "SYM0003 has no event for 90 s",
                "since_ts": now - 90,
                "limit": "60 s",
                "component": "feed",
            },
        ],
    }


@pytest.mark.parametrize("path", ["overview", "market", "jobs", "status"])
async def test_nothing_sticks_out_of_a_phone(service, open_page, path):
    """At 390 pixels the page itself never scrolls sideways; wide tables do within their panel."""
    await service.say(unwell_status())
    page = await open_page(f"/ui#/{path}", width=390, height=844)
    await expect(page.locator(".view")).to_be_visible()

    assert await page.evaluate("document.documentElement.scrollWidth") <= 390
    rights = "[...document.querySelectorAll('.panel')].map(panel => panel.getBoundingClientRect().right)"
    assert max(await page.evaluate(rights)) <= 390


async def test_the_policy_holds(service, open_page):
    """Text that would become markup is refused by the browser itself."""
    open_page.expected.append("requires 'TrustedHTML'")
    await service.say(status_of())
    page = await open_page()
    await expect(page.locator("#ledger")).to_be_visible()

    refused = await page.evaluate(
        "() => { try { document.body.innerHTML = '<b>x</b>'; return ''; } catch (error) { return error.name; } }"
    )

    assert refused == "TypeError"
