"""Passes and tickets that are forged, foreign or torn are refused before any store is touched.

A flood of them must cost the ledger nothing: every call that reaches it is counted, but for the looks that the loops
take by themselves.
"""

import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from edge.shop import Shop, product, said, sale, served

from flashsale.core.passes import new_pass, new_ticket
from flashsale.core.questions import AdmissionOf, DueWork, FindRooms, QueuedPage

ROOM = {"enabled": True, "admitPerSecond": 1000, "burst": 1000}
FLOOD = 150
OF_THE_LOOPS = (FindRooms, AdmissionOf, QueuedPage, DueWork)


@pytest.fixture(params=["on", "off"])
async def shop(request: pytest.FixtureRequest, tmp_path: Path, sandbox_url: str) -> AsyncIterator[Shop]:
    async with served(tmp_path, sandbox_url, request.param) as shop:
        for name, mode in (("S1", "direct"), ("S2", "queued")):
            body = sale(product(f"{name}-PHONE", perUserLimit=100), id=name, mode=mode, waitingRoom=ROOM)
            assert (await shop.operate("POST", "sales", body)).status_code == 201
        await shop.engine.rooms.look()
        yield shop


@pytest.fixture
def calls(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What reached the ledger, by name."""
    counted: Counter[str] = Counter()
    ledger: Any = shop.engine.ledger

    def counting(name: str, call: Any) -> Any:
        def counts(*args: Any) -> Any:
            if not isinstance(args[0], OF_THE_LOOPS):
                counted[type(args[0]).__name__ if name == "find" else name] += 1
            return call(*args)

        return counts

    for name in ("reserve", "refuse", "find", "join", "leave", "release"):
        monkeypatch.setattr(ledger, name, counting(name, getattr(ledger, name)))
    return counted


async def joined(shop: Shop, sale_id: str = "S1", user: str = "alice") -> dict[str, Any]:
    """Somebody who has been let in."""
    told: dict[str, Any] = (await shop.ask("POST", f"sales/{sale_id}/queue", {"userId": user})).json()
    while told["state"] != "ADMITTED":
        told = (await shop.ask("GET", f"sales/{sale_id}/queue/{told['ticket']}?wait=5")).json()
    return told


def torn(text: str, prefix: int) -> list[str]:
    """The same with something else in it, again and again."""
    dice, made = random.Random(7), []
    while len(made) < FLOOD:
        at = dice.randrange(prefix, len(text))
        other = dice.choice("0123456789abcdefABCDEFxyz _-")
        changed = dice.choice(
            (text[:at] + other + text[at + 1 :], text[:at] + text[at + 1 :], text[:at] + other + text[at:])
        )
        if changed != text:
            made.append(changed.strip())
    return made


async def buy(shop: Shop, sale_id: str, pass_text: str, **more: Any) -> httpx.Response:
    wish = {"skuId": f"{sale_id}-PHONE", "userId": "alice"} | more
    return await shop.ask("POST", "reservations", wish, headers={"X-Flashsale-Pass": pass_text})


@pytest.mark.parametrize("sale_id", ["S1", "S2"])
async def test_a_flood_of_forged_passes_does_not_reach_the_ledger(
    shop: Shop, calls: Counter[str], sale_id: str
) -> None:
    genuine = (await joined(shop, sale_id))["pass"]
    foreign = [
        (await joined(shop, sale_id, "bob"))["pass"],
        (await joined(shop, "S1" if sale_id == "S2" else "S2"))["pass"],
    ]
    elsewhere = new_pass(bytes(32), sale_id, "alice", 1, 2**40)
    calls.clear()
    for number, forged in enumerate([*foreign, elsewhere, *torn(genuine, len("pass_"))]):
        key = {"requestKey": f"key-{number}"} if number % 2 else {}
        assert said(await buy(shop, sale_id, forged, **key)) == (403, "PASS_REQUIRED"), forged
        cart = {"items": [{"skuId": f"{sale_id}-PHONE"}], "userId": "alice"}
        answer = await shop.ask("POST", "reservations/cart", cart, headers={"X-Flashsale-Pass": forged})
        assert said(answer) == (403, "PASS_REQUIRED"), forged
    assert calls == {}
    assert (await buy(shop, sale_id, genuine)).status_code in (201, 202)


async def test_a_flood_of_forged_tickets_does_not_reach_the_ledger(shop: Shop, calls: Counter[str]) -> None:
    genuine = (await joined(shop))["ticket"]
    elsewhere = new_ticket(bytes(32), "S1", 1, "alice")
    foreign = (await joined(shop, "S2"))["ticket"]
    calls.clear()
    for forged in [foreign, elsewhere, *torn(genuine, len("tkt_"))]:
        path = f"sales/S1/queue/{forged.replace(' ', '%20')}"
        for method, more in (("GET", ""), ("GET", "?wait=10"), ("GET", "/events"), ("DELETE", "")):
            assert said(await shop.ask(method, path + more)) == (404, "NOT_FOUND"), forged
    assert calls == {}
    assert (await shop.ask("GET", f"sales/S1/queue/{genuine}")).json()["state"] == "ADMITTED"
    assert calls["FindTickets"] > 0
