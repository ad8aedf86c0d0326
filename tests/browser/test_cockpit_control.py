"""Signing in and controlling the real service from the cockpit, in a real browser."""

from __future__ import annotations

import itertools
import json
import re
import shutil

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import async_playwright, expect

from market_data_core.web.auth import KeyStore, Role
from support.service import RunningService, eventually

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
DEADLINE_S = 15.0
_NUMBERS = itertools.count()
expect.set_options(timeout=DEADLINE_S * 1000)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason=f"Chromium is not at {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service that starts for the first time: it makes a key, and prints a link that signs in once."""
    with RunningService(tmp_path_factory.mktemp("cockpit") / "data", LOG_LEVEL="INFO") as running:
        running.wait_healthy()
        yield running
        running.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser():
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield chromium
        await chromium.close()


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser, service):
    """A page of a browser that knows nobody; afterwards nothing may have been thrown or refused by the policy."""
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    made = await context.new_page()
    made.set_default_timeout(DEADLINE_S * 1000)
    faults = []
    made.on("pageerror", lambda error: faults.append(str(error)))
    made.on("console", lambda line: faults.append(line.text) if line.type in ("error", "warning") else None)
    await made.goto(f"{service.url}/ui")
    yield made
    await context.close()
    # Chromium logs the answers that refuse by itself.
    assert [fault for fault in faults if not re.search("status of (401|403|404|429)", fault)] == []


def key_of(service, role):
    return KeyStore(service.data_dir / "api-keys.jsonl").add(f"{role}-{next(_NUMBERS)}", role)


async def sign_in(page, key):
    await page.locator("#account").click()
    await page.locator("#sign-in-key").fill(key)
    await page.locator("#sign-in-form button:not([type])").click()


async def confirm(page, name):
    await page.locator(f"#control-{name}").click()
    await expect(page.locator("#confirm")).to_be_visible()
    await expect(page.locator("#confirm button").first).to_be_focused()
    await page.locator("#confirm-do").click()


async def test_nobody_may_control_and_is_told_why(page):
    """The buttons are there, out of use, and say what is missing."""
    button = page.locator("#control-pause")
    await expect(button).to_have_attribute("aria-disabled", "true")
    await expect(page.locator("#why-pause")).to_have_text("sign in first")
    await button.click(force=True)
    await expect(page.locator("#outcome")).to_contain_text("sign in first")


async def test_the_first_link_signs_in_once(page, service):
    """The link that the first start prints opens the cockpit as an admin; the second time it is refused."""
    link = eventually(
        lambda: re.search(r"http://\S+/auth/login\?token=\S+", service.output()), DEADLINE_S, "the link is printed"
    )[0]
    await page.goto(link)
    await expect(page).to_have_url(f"{service.url}/ui")
    await expect(page.locator("#account")).to_have_text("first · admin")
    await page.locator("#account").click()
    await page.locator("#confirm-do").click()
    await expect(page.locator("#account")).to_have_text("Sign in")
    answer = await page.goto(link)
    assert answer.status == 401


async def test_an_operator_pauses_and_resumes(page, service):
    """Each action is asked about, does what it says, and tells what came of it; reload is not theirs."""
    await sign_in(page, key_of(service, Role.OPERATOR))
    await expect(page.locator("#account")).to_contain_text("operator")
    await expect(page.locator("#why-resume")).to_have_text("it is not paused")
    await expect(page.locator("#why-reload")).to_have_text("needs the role admin; you are operator")
    await confirm(page, "pause")
    await expect(page.locator("#outcome")).to_contain_text("Orchestrator paused")
    assert service.get("/status").json()["paused"] is True
    await expect(page.locator("#why-pause")).to_have_text("it is paused already")
    await confirm(page, "resume")
    await expect(page.locator("#outcome")).to_contain_text("Orchestrator resumed")
    assert service.get("/status").json()["paused"] is False
    actions = [json.loads(line)["action"] for line in (service.data_dir / "audit.jsonl").read_text().splitlines()]
    assert {"pause", "resume"} <= set(actions)


async def test_cancel_does_nothing(page, service):
    """A dialog that is left changes nothing, by its button or by Escape."""
    await sign_in(page, key_of(service, Role.OPERATOR))
    await expect(page.locator("#account")).to_contain_text("operator")
    for leave in (page.locator("#confirm button").first.click, lambda: page.keyboard.press("Escape")):
        await page.locator("#control-pause").click()
        await expect(page.locator("#confirm")).to_be_visible()
        await leave()
        await expect(page.locator("#confirm")).to_be_hidden()
    assert service.get("/status").json()["paused"] is False


async def test_a_wrong_key_is_refused_and_not_kept(page):
    """The service's own words are shown; nothing stays in the browser."""
    await sign_in(page, "no-such-key")
    await expect(page.locator("#sign-in-problem")).not_to_be_empty()
    assert await page.evaluate("sessionStorage.length") == 0
    await page.keyboard.press("Escape")
    await expect(page.locator("#account")).to_have_text("Sign in")


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
async def test_dialogs_are_accessible(browser, service, width, dark):
    """No violations of WCAG in the dialogs, on a desk and on a phone, light and dark."""
    context = await browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
    )
    page = await context.new_page()
    await page.goto(f"{service.url}/ui")
    await page.locator("#account").click()
    await expect(page.locator("#sign-in")).to_be_visible()
    results = await Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    await context.close()
