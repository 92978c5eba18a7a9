"""What a ledger promises to queued sales: each request is decided once, and has an answer that stays."""

from collections.abc import AsyncIterator
from itertools import count

import pytest
from contract.ledgers import LEDGERS, Shop, answered, shop, together
from core.shop import OPENING_MS, a_product, a_sale, refusal_of

from flashsale.core.catalogue import SwitchSale
from flashsale.core.dead_letters import attempt_of
from flashsale.core.letter import DeadLetter
from flashsale.core.pending import fresh_id, is_genuine, keyed_id, keyed_ids
from flashsale.core.questions import (
    AuditPage,
    DeadLetterCount,
    DeadLetters,
    EventsAfter,
    FindDeadLetter,
    FindReservations,
    QueuedPage,
    QueueFigures,
)
from flashsale.core.refusal import Refusal, recalled
from flashsale.core.request import Item, Priority, Request, encode
from flashsale.core.reservation import RequestKind, Status
from flashsale.core.sale import Mode, Switch
from flashsale.core.stock import Decided, Granted, Slip

CHANCE = count(1)
START_MS, END_MS = OPENING_MS - 10_000, OPENING_MS + 60_000


@pytest.fixture(params=LEDGERS)
async def lamps(request, tmp_path) -> AsyncIterator[Shop]:
    """A queued sale of 10 lamps and 10 vases, one of each to a buyer."""
    async with shop(request.param, tmp_path) as it:
        products = (a_product(), a_product("vase"))
        await it.opens(a_sale(*products, mode=Mode.QUEUED, starts_at_ms=START_MS, ends_at_ms=END_MS))
        yield it


def wants(
    it: Shop, user: str, *skus: str, key: str | None = None, at_ms: int = OPENING_MS, quantity: int = 1
) -> Request:
    items = tuple(Item(sku, quantity) for sku in skus or ("lamp",))
    secret, mark = it.ledger.secret, it.ledger.mark_of("sale")
    if key is None:
        ids = tuple(fresh_id(secret, user, at_ms, next(CHANCE).to_bytes(6, "big"), mark) for _ in items)
    else:
        ids = keyed_ids(secret, user, "sale", key, items, mark)
    kind = RequestKind.SINGLE if len(items) == 1 else RequestKind.CART
    return Request(ids, user, "sale", items, at_ms, kind)


async def decided(it: Shop, *requests: Request) -> list:
    return await together(it.asks(attempt_of(each)) for each in requests)


async def statuses(it: Shop, request: Request) -> list[Status]:
    rows = await it.ledger.find(FindReservations(request.reservation_ids))
    return [row.status for row in rows]


async def told(it: Shop) -> list[str]:
    """The events of reservations that moved no unit."""
    return [row.type for _, row in await it.ledger.find(EventsAfter(0, 1000)) if hasattr(row, "type")]


async def test_a_request_gets_units_under_the_id_it_came_with(lamps: Shop) -> None:
    request = wants(lamps, "ann")
    (outcome,) = await decided(lamps, request)
    assert isinstance(outcome, Decided)
    assert [(row.reservation_id, row.status) for row in outcome.reservations] == [
        (request.reservation_ids[0], Status.RESERVED)
    ]
    assert await lamps.counters() == (9, 1, 0)
    assert await lamps.discrepancies() == []


async def test_a_request_that_comes_again_is_found_decided(lamps: Shop) -> None:
    request = wants(lamps, "ann", "lamp", "vase")
    first, second = await decided(lamps, request, request)
    (third,) = await decided(lamps, request)
    assert first.reservations == second.reservations == third.reservations
    assert (await lamps.counters(), await lamps.counters("vase")) == ((9, 1, 0), (9, 1, 0))
    assert len(await lamps.journal()) == 4


async def test_a_refusal_is_a_row_and_stays_the_answer(lamps: Shop) -> None:
    winners = [wants(lamps, f"u{number}") for number in range(10)]
    loser = wants(lamps, "late")
    outcomes = await decided(lamps, *winners, loser)
    assert [outcome.reservations[0].status for outcome in outcomes] == [Status.RESERVED] * 10 + [Status.REJECTED]
    await lamps.ledger.release(winners[0].reservation_ids[0], "u0")
    (again,) = await decided(lamps, loser)
    (row,) = again.reservations
    assert row.status is Status.REJECTED and recalled(row.refusal).refusal is Refusal.SOLD_OUT
    assert await lamps.counters() == (1, 9, 0)
    assert await told(lamps) == ["reservation.rejected"]


async def test_a_cart_is_granted_whole_or_rejected_whole(lamps: Shop) -> None:
    await decided(lamps, *(wants(lamps, f"u{number}", "vase") for number in range(10)))
    cart = wants(lamps, "ann", "lamp", "vase")
    (outcome,) = await decided(lamps, cart)
    assert [row.status for row in outcome.reservations] == [Status.REJECTED] * 2
    assert await lamps.counters() == (10, 0, 0)


async def test_the_limit_holds_within_a_batch_and_between_batches(lamps: Shop) -> None:
    outcomes = await decided(lamps, wants(lamps, "ann"), wants(lamps, "ann"))
    outcomes += await decided(lamps, wants(lamps, "ann"))
    assert [each.reservations[0].status for each in outcomes] == [Status.RESERVED, Status.REJECTED, Status.REJECTED]


@pytest.mark.parametrize(
    ("at_ms", "status"),
    [(START_MS - 1, "NOT_STARTED"), (START_MS, None), (END_MS - 1, None), (END_MS, "ENDED")],
)
async def test_a_request_is_judged_by_the_time_it_was_taken_in(lamps: Shop, at_ms: int, status: str | None) -> None:
    lamps.clock.at_ms = END_MS + 1_000
    (outcome,) = await decided(lamps, wants(lamps, "ann", at_ms=at_ms))
    (row,) = outcome.reservations
    assert (recalled(row.refusal).refusal.code if row.refusal else None) == status


async def test_an_operators_end_drains_what_waits_and_refuses_what_comes_later(lamps: Shop) -> None:
    before = wants(lamps, "ann")
    lamps.clock.pass_ms(1_000)
    await lamps.ledger.change_sale(SwitchSale("sale", Switch.END, "operator"))
    after = wants(lamps, "bob", at_ms=lamps.clock.now_ms())
    outcomes = await decided(lamps, before, after)
    assert [each.reservations[0].status for each in outcomes] == [Status.RESERVED, Status.REJECTED]


async def test_a_paused_sale_decides_nothing_and_goes_on_later(lamps: Shop) -> None:
    known, request = wants(lamps, "zoe"), wants(lamps, "ann")
    await decided(lamps, known)
    await lamps.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))
    again, held = await decided(lamps, known, request)
    assert isinstance(again, Decided) and refusal_of(held) is Refusal.PAUSED
    assert await statuses(lamps, request) == []
    await lamps.ledger.change_sale(SwitchSale("sale", Switch.RESUME, "operator"))
    assert [each.reservations[0].status for each in await decided(lamps, request)] == [Status.RESERVED]


# -- Giving up.


async def test_a_request_given_up_before_it_arrives_is_never_granted(lamps: Shop) -> None:
    request = wants(lamps, "ann")
    (reservation_id,) = request.reservation_ids
    gone = await lamps.ledger.withdraw(reservation_id, "ann")
    assert gone.status is Status.CANCELLED
    assert (await lamps.ledger.withdraw(reservation_id, "ann")).status is Status.CANCELLED
    assert (await lamps.ledger.withdraw(reservation_id, None)).status is Status.CANCELLED
    (outcome,) = await decided(lamps, request)
    (row,) = outcome.reservations
    assert (row.status, row.user_id, row.sku_id) == (Status.CANCELLED, "ann", "lamp")
    assert await lamps.counters() == (10, 0, 0)
    await decided(lamps, request)
    assert await told(lamps) == ["reservation.cancelled"]


async def test_giving_up_after_the_decision_gives_the_units_back(lamps: Shop) -> None:
    request = wants(lamps, "ann")
    await decided(lamps, request)
    assert (await lamps.ledger.withdraw(request.reservation_ids[0], "ann")).status is Status.CANCELLED
    assert await lamps.counters() == (10, 0, 0)


async def test_giving_up_and_deciding_at_once_agree(lamps: Shop) -> None:
    requests = [wants(lamps, f"u{number}") for number in range(10)]
    await together(
        step
        for each in requests
        for step in (lamps.asks(attempt_of(each)), lamps.ledger.withdraw(each.reservation_ids[0], each.user_id))
    )
    await decided(lamps, *requests)
    assert [await statuses(lamps, each) for each in requests] == [[Status.CANCELLED]] * 10
    assert await lamps.counters() == (10, 0, 0)
    assert await lamps.discrepancies() == []


async def test_one_item_of_a_cart_may_be_given_up_while_it_waits(lamps: Shop) -> None:
    cart = wants(lamps, "ann", "lamp", "vase", key="k")
    await lamps.ledger.withdraw(cart.reservation_ids[0], "ann")
    (outcome,) = await decided(lamps, cart)
    assert [row.status for row in outcome.reservations] == [Status.CANCELLED, Status.RESERVED]
    assert (await lamps.counters(), await lamps.counters("vase")) == ((10, 0, 0), (9, 1, 0))


# -- Keys.


async def refused(it: Shop, request: Request, key: str, beyond: str | None = None) -> object:
    attempt = attempt_of(request)
    attempt.key, attempt.slip = key, Slip(request.reservation_ids, request.at_ms, beyond=beyond)
    return await answered(it.ledger.refuse, attempt)


async def test_a_read_answers_a_repeated_key_with_its_rows_and_lets_a_new_one_pass(lamps: Shop) -> None:
    request = wants(lamps, "ann", key="k")
    assert await refused(lamps, request, "k") == Decided([], OPENING_MS)
    await decided(lamps, request)
    lamps.clock.at_ms = END_MS
    again = await refused(lamps, request, "k")
    assert again.replayed and [row.status for row in again.reservations] == [Status.RESERVED]


async def test_a_key_used_for_something_else_is_refused(lamps: Shop) -> None:
    await decided(lamps, wants(lamps, "ann", key="k"))
    for other in (wants(lamps, "ann", "vase", key="k"), wants(lamps, "ann", "lamp", "vase", key="k")):
        assert refusal_of(await refused(lamps, other, "k")) is Refusal.KEY_REUSED
    await decided(lamps, wants(lamps, "bob", "lamp", "vase", key="k"))
    fewer = wants(lamps, "bob", "lamp", key="k")
    beyond = keyed_id(lamps.ledger.secret, "bob", "sale", "k", 1, lamps.ledger.mark_of("sale"))
    assert refusal_of(await refused(lamps, fewer, "k", beyond)) is Refusal.KEY_REUSED


async def test_another_request_under_a_used_key_moves_nothing_and_has_its_answer(lamps: Shop) -> None:
    await decided(lamps, wants(lamps, "ann", key="k"))
    cart = wants(lamps, "ann", "lamp", "vase", key="k")
    await decided(lamps, cart)
    assert await lamps.counters("vase") == (10, 0, 0)
    rows = {row.reservation_id: row for row in await lamps.ledger.find(FindReservations(cart.reservation_ids))}
    granted, refused_ = (rows[each] for each in cart.reservation_ids)
    assert (granted.status, refused_.status) == (Status.RESERVED, Status.REJECTED)
    assert recalled(refused_.refusal).refusal is Refusal.KEY_REUSED


async def test_two_requests_under_one_key_both_wait_until_they_are_decided(lamps: Shop) -> None:
    first, other = wants(lamps, "ann", key="k"), wants(lamps, "ann", "lamp", "vase", key="k")
    await queued(lamps, first, other, first)
    assert [each.message for each in await lamps.ledger.find(QueuedPage(Priority.NORMAL))] == [
        encode(first), encode(other),
    ]  # fmt: skip


async def test_what_has_visibly_lost_is_refused_from_a_read(lamps: Shop) -> None:
    await decided(lamps, *(wants(lamps, f"u{number}") for number in range(10)))
    assert refusal_of(await refused(lamps, wants(lamps, "late", key="k"), "k")) is Refusal.SOLD_OUT
    assert refusal_of(await refused(lamps, wants(lamps, "u1", key="k"), "k")) is Refusal.LIMIT_EXCEEDED


async def test_ids_are_sealed_with_the_ledgers_own_secret(lamps: Shop) -> None:
    secret = lamps.ledger.secret
    (reservation_id,) = wants(lamps, "ann").reservation_ids
    assert len(secret) == 32
    assert is_genuine(secret, reservation_id, "ann") and is_genuine(secret, reservation_id, None)
    assert not is_genuine(secret, reservation_id, "bob")
    for place in range(5, len(reservation_id)):
        other = "0" if reservation_id[place] != "0" else "1"
        assert not is_genuine(secret, reservation_id[:place] + other + reservation_id[place + 1 :], "ann")
    assert not is_genuine(bytes(32), reservation_id, "ann")


# -- The ledger's own queue.


async def queued(it: Shop, *requests: Request) -> list[bool]:
    replies: list[bool] = []
    for each in requests:
        it.ledger.enqueue(each, replies.append)
    await it.ledger.expire()  # behind them
    return replies


async def test_what_is_taken_in_waits_in_its_order_until_it_is_decided(lamps: Shop) -> None:
    first, second = wants(lamps, "ann"), wants(lamps, "bob")
    assert await queued(lamps, first, second, first) == [True, True, True]
    page = await lamps.ledger.find(QueuedPage(Priority.NORMAL))
    assert [each.message for each in page] == [encode(first), encode(second)]
    assert await lamps.ledger.find(QueueFigures()) == {"sale": 2}
    await lamps.asks(attempt_of(first, page[0].place))
    assert [each.message for each in await lamps.ledger.find(QueuedPage(Priority.NORMAL))] == [encode(second)]


async def test_a_request_that_was_decided_elsewhere_leaves_the_queue_too(lamps: Shop) -> None:
    request = wants(lamps, "ann")
    await queued(lamps, request)
    (waiting,) = await lamps.ledger.find(QueuedPage(Priority.NORMAL))
    await decided(lamps, request)
    await lamps.asks(attempt_of(request, waiting.place))
    assert await lamps.ledger.find(QueuedPage(Priority.NORMAL)) == []
    assert await lamps.counters() == (9, 1, 0)


async def test_requests_of_a_paused_sale_stay_and_those_of_some_sales_are_left_out(lamps: Shop) -> None:
    request = wants(lamps, "ann")
    await queued(lamps, request)
    (waiting,) = await lamps.ledger.find(QueuedPage(Priority.NORMAL))
    await lamps.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))
    assert refusal_of(await lamps.asks(attempt_of(request, waiting.place))) is Refusal.PAUSED
    assert len(await lamps.ledger.find(QueuedPage(Priority.NORMAL))) == 1
    assert await lamps.ledger.find(QueuedPage(Priority.NORMAL, but_not=("sale",))) == []
    assert await lamps.ledger.find(QueuedPage(Priority.HIGH)) == []


async def test_direct_and_queued_attempts_and_new_requests_share_a_batch(lamps: Shop) -> None:
    requests = [wants(lamps, f"q{number}") for number in range(4)]
    replies: list[bool] = []
    asked = []
    for each in requests:
        lamps.ledger.enqueue(each, replies.append)
        asked.append(lamps.asks(attempt_of(each)))
        asked.append(lamps.reserve("d" + each.user_id))
    outcomes = await together(asked)
    assert replies == [True] * 4
    assert [type(outcome) for outcome in outcomes] == [Decided, Granted] * 4
    assert [each.reservations[0].user_id for each in outcomes[::2]] == [each.user_id for each in requests]


# -- Dead letters.


def a_letter(request: Request | None, letter_id: str = "dlq_1", message: bytes = b"") -> DeadLetter:
    ids = request.reservation_ids if request else ()
    return DeadLetter(letter_id, OPENING_MS, "flashsale.requests", 7, 42, message, "a fault", 3, ids)


async def test_a_dead_letter_is_written_once_and_its_buyer_is_told(lamps: Shop) -> None:
    request = wants(lamps, "ann")
    letter = a_letter(request, message=encode(request))
    await lamps.ledger.bury(letter, request)
    await lamps.ledger.bury(letter, request)
    assert await lamps.ledger.find(DeadLetters()) == [letter]
    assert await lamps.ledger.find(DeadLetterCount()) == 1
    (row,) = await lamps.ledger.find(FindReservations(request.reservation_ids))
    assert row.status is Status.REJECTED and recalled(row.refusal).refusal is Refusal.UNAVAILABLE
    assert await told(lamps) == ["reservation.rejected", "request.dead"]
    assert await lamps.counters() == (10, 0, 0)


async def test_a_message_that_is_no_request_is_kept_as_it_was(lamps: Shop) -> None:
    letter = a_letter(None, message=b"\x00\xff not json")
    await lamps.ledger.bury(letter, None)
    assert await lamps.ledger.find(FindDeadLetter("dlq_1")) == letter
    assert await told(lamps) == ["request.dead"]


async def test_a_dead_letter_does_not_take_back_what_was_granted(lamps: Shop) -> None:
    request = wants(lamps, "ann")
    await decided(lamps, request)
    await lamps.ledger.bury(a_letter(request, message=encode(request)), request)
    assert await statuses(lamps, request) == [Status.RESERVED]


async def test_redriving_makes_a_reservation_of_its_own_once(lamps: Shop) -> None:
    request = wants(lamps, "ann")
    await lamps.ledger.bury(a_letter(request, message=encode(request)), request)
    first = await lamps.ledger.redrive("dlq_1", request, "operator")
    again = await lamps.ledger.redrive("dlq_1", request, "operator")
    assert first.reservations == again.reservations
    (row,) = first.reservations
    assert (row.status, row.redrive_of) == (Status.RESERVED, request.reservation_ids[0])
    assert await lamps.counters() == (9, 1, 0)
    letter = await lamps.ledger.find(FindDeadLetter("dlq_1"))
    assert letter.redriven_as == (row.reservation_id,)
    assert await lamps.ledger.find(DeadLetterCount()) == 0
    assert await lamps.ledger.find(DeadLetters(waiting=True)) == []
    actions = [entry.action for entry in await lamps.ledger.find(AuditPage())]
    assert actions.count("dead-letter.redrive") == 1


async def test_redriving_follows_the_rules_of_that_moment(lamps: Shop) -> None:
    request = wants(lamps, "ann")
    await lamps.ledger.bury(a_letter(request, message=encode(request)), request)
    lamps.clock.at_ms = END_MS
    (row,) = (await lamps.ledger.redrive("dlq_1", request, "operator")).reservations
    assert row.status is Status.REJECTED and recalled(row.refusal).refusal is Refusal.ENDED
    assert refusal_of(await lamps.ledger.redrive("dlq_2", request, "operator")) is Refusal.NOT_FOUND


async def test_redriving_counts_against_the_limit(lamps: Shop) -> None:
    request = wants(lamps, "ann")
    await lamps.ledger.bury(a_letter(request, message=encode(request)), request)
    await decided(lamps, wants(lamps, "ann"))
    (row,) = (await lamps.ledger.redrive("dlq_1", request, "operator")).reservations
    assert recalled(row.refusal).refusal is Refusal.LIMIT_EXCEEDED
