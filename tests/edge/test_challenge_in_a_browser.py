"""The page of a challenge in a real browser: solved with the keyboard alone, without a picture, from our own origin."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from edge.shop import Shop, product, served
from edge.test_risk import GATEWAY, GONE, made_suspicious, wants, who
from playwright.async_api import Page
from servers import chromium

SOLVED_WITHIN_MS = 60_000
FOCUSED = "(document.activeElement.shadowRoot?.activeElement ?? document.activeElement).type"


@pytest.fixture
async def shop(tmp_path: Path, sandbox_url: str) -> AsyncIterator[Shop]:
    async with served(tmp_path, sandbox_url, "on", **GATEWAY) as opened:
        yield opened


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    async with chromium.page() as opened:
        yield opened


async def test_whoever_solves_it_with_the_keyboard_alone_buys(shop: Shop, page: Page) -> None:
    await shop.open(product(), GONE)
    refused = await made_suspicious(shop)
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    await page.goto(str(shop.client.base_url.join(refused.json()["details"]["challengePage"])))
    await page.keyboard.press("Tab")
    assert await page.evaluate(FOCUSED) == "checkbox"
    await page.keyboard.press("Space")
    await page.wait_for_selector("#solved:not([hidden])", timeout=SOLVED_WITHIN_MS)
    assert await page.inner_text("[role=status]") == "Done."
    bought = await wants(shop, who() | {"X-Flashsale-Challenge": await page.input_value("#solution")})
    assert bought.status_code == 201
    assert complaints == []
    assert asked, "the page is looked at"
    assert [url for url in asked if not url.startswith((str(shop.client.base_url), "data:", "blob:"))] == []
    assert await page.evaluate("document.images.length") == 0


async def test_what_can_be_done_has_a_name_for_those_who_hear_the_page(shop: Shop, page: Page) -> None:
    await page.goto(str(shop.client.base_url.join("/challenge")))
    await page.wait_for_selector("altcha-widget input")
    assert await page.get_by_role("checkbox", name="not a robot").count() == 1
    assert await page.get_by_role("heading", name="One moment").count() == 1
    assert await page.get_by_role("status").count() == 1
