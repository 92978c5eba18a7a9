"""A queued sale over HTTP: 202 at once, the outcome when it is there, and the same answer to whoever asks again."""

import asyncio
from typing import Any

import httpx
import pytest
from contract.queues import until
from edge.shop import OPERATOR, Shop, faults, product, said

from flashsale.core.letter import DeadLetter
from flashsale.core.pending import fresh_id
from flashsale.core.request import Item, Request, encode
from flashsale.ports import LedgerUnavailable


@pytest.fixture
async def queue(shop: Shop) -> Shop:
    await shop.open(product(stock=3), product("CASE", stock=3), mode="queued")
    return shop


async def asks(shop: Shop, user: str = "alice", key: str | None = "k", wait: str | None = None, **more: Any) -> Any:
    headers = {name: value for name, value in (("Idempotency-Key", key), ("Prefer", wait)) if value is not None}
    return await shop.ask("POST", "reservations", {"skuId": "PHONE", "userId": user} | more, headers=headers)


async def settled(shop: Shop, answer: httpx.Response) -> dict[str, Any]:
    """What becomes of a pending reservation."""
    told: dict[str, Any] = (await shop.ask("GET", answer.headers["location"] + "?wait=5")).json()
    return told


async def paused(shop: Shop) -> None:
    assert (await shop.operate("POST", "sales/S1/pause")).status_code == 200


def pending(shop: Shop, user: str = "alice") -> str:
    """The id of a request that has been given out, and that nobody has decided."""
    return fresh_id(shop.engine.secret, user, 1, user.encode()[:6].ljust(6))


# -- The answer.


async def test_a_request_is_pending_and_says_where_to_look(queue: Shop) -> None:
    answer = await asks(queue)
    assert answer.status_code == 202
    told = answer.json()
    assert (told["status"], told["userId"], told["skuId"], told["quantity"]) == ("PENDING", "alice", "PHONE", 1)
    assert answer.headers["location"] == f"/api/v1/reservations/{told['reservationId']}"
    assert answer.headers["retry-after"] == "1"
    final = await settled(queue, answer)
    assert (final["status"], final["unitPrice"], final["reservationId"]) == ("RESERVED", 999.99, told["reservationId"])


async def test_who_prefers_to_wait_hears_what_a_direct_sale_would_have_said(queue: Shop) -> None:
    answer = await asks(queue, wait="wait=10")
    assert (answer.status_code, answer.json()["status"]) == (201, "RESERVED")
    for user in ("bob", "cid"):
        assert (await asks(queue, user, wait="respond-async, wait=5")).status_code == 201
    assert said(await asks(queue, "late", wait="wait=10")) == (409, "SOLD_OUT")


async def test_a_repeated_request_has_the_same_status_and_id_and_says_what_became_of_it(queue: Shop) -> None:
    first = await asks(queue)
    await settled(queue, first)
    again = await asks(queue)
    assert (again.status_code, again.json()["reservationId"]) == (202, first.json()["reservationId"])
    assert (again.json()["status"], again.headers["idempotent-replay"]) == ("RESERVED", "true")
    assert (await asks(queue, wait="wait=1")).status_code == 201
    assert (await queue.ask("GET", "products/PHONE/availability")).json()["availableCount"] == 2


async def test_a_key_for_something_else_is_refused(queue: Shop) -> None:
    await settled(queue, await asks(queue))
    assert said(await asks(queue, skuId="CASE")) == (422, "KEY_REUSED")
    assert said(await asks(queue, quantity=2)) == (422, "KEY_REUSED")


async def test_what_visibly_cannot_win_is_refused_at_the_door_and_leaves_the_key_unused(queue: Shop) -> None:
    await asks(queue, wait="wait=5")
    assert said(await asks(queue, key="another")) == (403, "LIMIT_EXCEEDED")
    assert said(await asks(queue, "bob", skuId="WATCH")) == (404, "NOT_FOUND")
    await paused(queue)
    assert said(await asks(queue, "bob")) == (409, "PAUSED")
    await queue.operate("POST", "sales/S1/resume")
    assert (await asks(queue, "bob", wait="wait=5")).status_code == 201


async def test_a_cart_is_pending_whole_and_decided_whole(queue: Shop) -> None:
    cart = {"userId": "alice", "items": [{"skuId": "PHONE"}, {"skuId": "CASE"}], "requestKey": "c"}
    answer = await queue.ask("POST", "reservations/cart", cart)
    assert answer.status_code == 202
    rows = answer.json()["reservations"]
    assert [(row["status"], row["skuId"]) for row in rows] == [("PENDING", "PHONE"), ("PENDING", "CASE")]
    again = await queue.ask("POST", "reservations/cart", cart, headers={"Prefer": "wait=5"})
    assert again.status_code == 201
    assert [row["reservationId"] for row in again.json()["reservations"]] == [row["reservationId"] for row in rows]
    fewer = cart | {"items": [{"skuId": "PHONE"}]}
    assert said(await queue.ask("POST", "reservations/cart", fewer)) == (422, "KEY_REUSED")


@pytest.mark.parametrize("wait", ["wait=soon", "wait=-1", 'wait="x"'])
async def test_a_wait_that_is_no_number_is_named(queue: Shop, wait: str) -> None:
    assert list(faults(await asks(queue, wait=wait))) == ["Prefer"]


async def test_a_preference_that_is_not_ours_is_ignored_and_a_long_wait_is_cut(queue: Shop) -> None:
    assert (await asks(queue, wait="return=minimal")).status_code == 202
    assert (await asks(queue, "bob", wait="wait=100000000000")).status_code == 201


# -- Pending reservations.


async def test_a_pending_reservation_is_its_owners_and_an_invented_one_is_nobodys(queue: Shop) -> None:
    mine = pending(queue)
    told = await queue.ask("GET", f"reservations/{mine}", headers={"X-User-ID": "alice"})
    assert (told.status_code, told.json()) == (200, {"reservationId": mine, "status": "PENDING", "userId": "alice"})
    assert (await queue.ask("GET", f"reservations/{mine}")).json()["status"] == "PENDING"
    for method in ("GET", "DELETE"):
        answer = await queue.ask(method, f"reservations/{mine}", headers={"X-User-ID": "bob"})
        assert said(answer) == (404, "NOT_FOUND")
    invented = mine[:-1] + ("0" if mine[-1] != "0" else "1")
    answer = await queue.ask("GET", f"reservations/{invented}", headers={"X-User-ID": "alice"})
    assert said(answer) == (404, "NOT_FOUND")


async def test_a_pending_reservation_can_be_given_up(queue: Shop) -> None:
    mine = pending(queue)
    for _ in range(2):
        assert (await queue.ask("DELETE", f"reservations/{mine}", headers={"X-User-ID": "alice"})).status_code == 204
    told = await queue.ask("GET", f"reservations/{mine}", headers={"X-User-ID": "alice"})
    assert told.json() == {"reservationId": mine, "status": "CANCELLED", "userId": "alice"}
    assert said(await queue.ask("GET", f"reservations/{mine}", headers={"X-User-ID": "bob"})) == (404, "NOT_FOUND")


async def test_a_long_poll_ends_with_the_outcome_or_with_its_time(queue: Shop) -> None:
    mine = pending(queue)
    answer = await queue.ask("GET", f"reservations/{mine}?wait=1", headers={"X-User-ID": "alice"})
    assert answer.json()["status"] == "PENDING"
    assert list(faults(await queue.ask("GET", f"reservations/{mine}?wait=11"))) == ["wait"]


async def test_a_pending_or_rejected_reservation_cannot_be_paid(queue: Shop) -> None:
    assert said(await queue.checkout(pending(queue)))[0] in (404, 409)
    for user in ("bob", "cid", "dan"):
        await asks(queue, user, wait="wait=5")
    letter = await rejected(queue)
    assert said(await queue.checkout(letter)) == (409, "ILLEGAL_STATE")


async def rejected(shop: Shop) -> str:
    """The id of a request that was refused in the queue."""
    reservation_id = fresh_id(shop.engine.secret, "late", 1, b"late01")
    request = Request((reservation_id,), "late", "S1", (Item("PHONE", 1),), shop.engine.clock.now_ms())
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    shop.engine.ledger.enqueue(request, done.set_result)
    assert await done
    told = (await shop.ask("GET", f"reservations/{reservation_id}?wait=5")).json()
    assert (told["status"], told["refusal"]["code"]) == ("REJECTED", "SOLD_OUT")
    return reservation_id


async def test_who_repeats_a_request_that_waits_is_told_so_though_the_sale_is_paused_or_over(queue: Shop) -> None:
    queue.engine.ledger.reserve = lambda *_: None  # nothing is decided any more
    first = await asks(queue)
    for switch in ("pause", "end"):
        assert (await queue.operate("POST", f"sales/S1/{switch}")).status_code == 200
        again = await asks(queue)
        assert (again.status_code, again.json()) == (202, first.json())
    assert said(await asks(queue, "bob")) == (409, "ENDED")


async def test_who_waits_for_what_he_has_given_up_is_told_that_it_is_cancelled(queue: Shop) -> None:
    queue.engine.ledger.reserve = lambda *_: None
    first = await asks(queue)
    mine = first.json()["reservationId"]
    for user in ({}, {"X-User-ID": "alice"}, {"X-User-ID": "alice"}):
        assert (await queue.ask("DELETE", f"reservations/{mine}", headers=user)).status_code == 204
    again = await asks(queue, wait="wait=1")
    assert (again.status_code, again.json()["status"]) == (202, "CANCELLED")


async def test_a_process_that_leaves_keeps_nobody_waiting(queue: Shop) -> None:
    waits = asyncio.create_task(queue.ask("GET", f"reservations/{pending(queue)}?wait=10"))
    await until(lambda: queue.engine.waiting.number == 1)
    queue.engine.waiting.leave()
    assert (await waits).json()["status"] == "PENDING"
    assert (await queue.ask("GET", f"reservations/{pending(queue)}?wait=10")).json()["status"] == "PENDING"


# -- Operators.


async def test_a_pause_holds_what_waits_and_the_stats_count_it(queue: Shop) -> None:
    await paused(queue)
    reservation_id = fresh_id(queue.engine.secret, "alice", 1, b"alice1")
    request = Request((reservation_id,), "alice", "S1", (Item("PHONE", 1),), queue.engine.clock.now_ms())
    done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    queue.engine.ledger.enqueue(request, done.set_result)
    assert await done
    stats = (await queue.operate("GET", "sales/S1/stats")).json()
    assert (stats["queuedOrders"], stats["currentQueueSize"]) == (1, 1)
    assert (await queue.ask("GET", f"reservations/{reservation_id}")).json()["status"] == "PENDING"
    await queue.operate("POST", "sales/S1/resume")
    assert (await queue.ask("GET", f"reservations/{reservation_id}?wait=5")).json()["status"] == "RESERVED"
    assert (await queue.operate("GET", "sales/S1/stats")).json()["queuedOrders"] == 0


async def test_the_mode_of_a_sale_is_fixed_once_it_is_scheduled(queue: Shop) -> None:
    body = (await queue.operate("GET", "sales/S1")).json()
    edited = {name: body[name] for name in ("name", "startsAt", "products")} | {"mode": "direct"}
    edited["products"] = [
        {name: each[name] for name in ("skuId", "name", "basePrice", "flashSalePrice", "stock")}
        for each in edited["products"]
    ]
    answer = await queue.operate("PUT", "sales/S1", edited)
    assert (answer.status_code, answer.json()["details"]["field"]) == (409, "mode")


async def buried(shop: Shop, user: str, message: bytes | None = None) -> str:
    reservation_id = fresh_id(shop.engine.secret, user, 1, user.encode()[:6].ljust(6))
    request = Request((reservation_id,), user, "S1", (Item("PHONE", 1),), shop.engine.clock.now_ms())
    readable = request if message is None else None
    letter = DeadLetter(
        f"dlq_{user}", 0, "flashsale.requests", 1, 2, message or encode(request), "a fault", 3,
        (reservation_id,) if readable else (),
    )  # fmt: skip
    await shop.engine.ledger.bury(letter, readable)
    return letter.letter_id


async def test_dead_letters_are_listed_and_redriven_one_by_one(queue: Shop) -> None:
    letter_id = await buried(queue, "alice")
    listed = (await queue.operate("GET", "dead-letters")).json()
    [letter] = listed["deadLetters"]
    assert (letter["id"], letter["error"], letter["tries"], letter["redrivenAt"]) == (letter_id, "a fault", 3, None)
    first = await queue.operate("POST", f"dead-letters/{letter_id}/redrive")
    again = await queue.operate("POST", f"dead-letters/{letter_id}/redrive")
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json() and first.json()["status"] == "RESERVED"
    [new] = first.json()["reservationIds"]
    row = (await queue.ask("GET", f"reservations/{new}", headers={"X-User-ID": "alice"})).json()
    assert row["redriveOf"] == letter["reservationIds"][0]
    assert (await queue.operate("GET", "dead-letters?waiting=true")).json()["deadLetters"] == []


async def test_all_dead_letters_are_redriven_at_once_and_those_that_cannot_be_are_named(queue: Shop) -> None:
    for user in ("alice", "bob"):
        await buried(queue, user)
    await buried(queue, "noise", b"\xff\x00")
    told = (await queue.operate("POST", "dead-letters/redrive")).json()
    assert [each["status"] for each in told["redriven"]] == ["RESERVED", "RESERVED"]
    assert [(each["id"], each["refusal"]) for each in told["left"]] == [("dlq_noise", "ILLEGAL_STATE")]
    [noise] = (await queue.operate("GET", "dead-letters?waiting=true")).json()["deadLetters"]
    assert noise["message"] == "base64:/wA="


async def test_a_letter_that_fails_again_does_not_stop_the_others(queue: Shop) -> None:
    for user in ("alice", "bob"):
        await buried(queue, user)
    redrive = queue.engine.ledger.redrive

    async def failing(letter_id: str, *rest: Any) -> Any:
        if letter_id == "dlq_alice":
            raise LedgerUnavailable("this one again")
        return await redrive(letter_id, *rest)

    queue.engine.ledger.redrive = failing
    told = (await queue.operate("POST", "dead-letters/redrive")).json()
    assert ([each["id"] for each in told["redriven"]], told["left"][0]["refusal"]) == (["dlq_bob"], "UNAVAILABLE")


async def test_dead_letters_are_the_operators(queue: Shop) -> None:
    assert said(await queue.ask("GET", "/api/v1/admin/dead-letters")) == (401, "UNAUTHENTICATED")
    assert said(await queue.ask("POST", "/api/v1/admin/dead-letters/redrive")) == (401, "UNAUTHENTICATED")
    answer = await queue.ask("POST", "/api/v1/admin/dead-letters/none/redrive", headers=OPERATOR)
    assert said(answer) == (404, "NOT_FOUND")
