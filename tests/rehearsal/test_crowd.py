"""The crowd: the same seed makes the same buyers, and each difficult habit is what its name says."""

import random
import time
from collections.abc import Callable

import msgspec

from flashsale.rehearsal import crowd
from flashsale.rehearsal.crowd import BEHAVIOURS, Buyer, Crowd, Shop
from flashsale.rehearsal.evidence import Ask, History, Reservation
from flashsale.rehearsal.http_client import Answer, HttpClient, LostReply

GIVEN = msgspec.json.encode(Reservation("res_1", "RESERVED"))
SOLD_OUT = msgspec.json.encode({"code": "SOLD_OUT"})


class Scripted(HttpClient):
    """A client without a network: `answer` says what comes back, or None for a lost reply."""

    def __init__(self, answer: Callable[[bytes], tuple[int, bytes] | None]) -> None:
        super().__init__("http://shop.test")
        self.answer = answer
        self.sent: list[bytes] = []

    async def send(self, request: bytes) -> Answer:
        self.sent.append(request)
        answered = self.answer(request)
        if answered is None:
            raise LostReply("as scripted")
        return Answer(*answered, time.monotonic(), time.monotonic())

    async def send_and_hang_up(self, request: bytes, patience: float) -> Answer | None:
        return await self.send(request)


def a_shop(answer: Callable[[bytes], tuple[int, bytes] | None]) -> tuple[Shop, Scripted]:
    client = Scripted(answer)
    return Shop(client, "PHONE", time.monotonic(), "run"), client


def a_buyer(answer: Callable[[bytes], tuple[int, bytes] | None]) -> tuple[Buyer, Scripted]:
    shop, client = a_shop(answer)
    return Buyer(shop, History("run-1", "buys"), random.Random(1)), client


def test_the_shares_of_all_behaviours_make_a_hundred():
    assert sum(behaviour.share for behaviour in BEHAVIOURS) == 100


def test_the_same_seed_makes_the_same_buyers():
    shop, _ = a_shop(lambda _: (409, SOLD_OUT))
    first, second, other = (Crowd(shop, 200, seed=seed, patient=50).histories for seed in (7, 7, 8))
    assert first == second != other


async def test_a_buyer_repeats_the_same_bytes_until_there_is_a_proper_answer():
    answers = iter([None, (503, b""), (429, b""), (201, GIVEN)])
    buyer, client = a_buyer(lambda _: next(answers))
    exchange = await buyer.reserve("key")
    assert exchange.status == 201
    assert len(client.sent) == 4 and len(set(client.sent)) == 1
    assert [told.status for told in buyer.history.exchanges] == [0, 503, 429, 201]


async def test_a_buyer_who_lost_a_reply_asks_again_with_the_same_bytes():
    buyer, client = a_buyer(lambda _: (201, GIVEN))
    await crowd.lost_reply(buyer, "key")
    assert len(client.sent) == 2 and len(set(client.sent)) == 1
    assert [told.read for told in buyer.history.exchanges] == [False, True]


async def test_two_tabs_ask_with_two_keys_and_go_by_the_one_that_won():
    buyer, _ = a_buyer(lambda request: (201, GIVEN) if b"key-tab" in request else (409, SOLD_OUT))
    assert (await crowd.two_tabs(buyer, "key")).status == 201
    assert {told.subject for told in buyer.history.exchanges} == {"key", "key-tab"}


async def test_who_pays_twice_uses_one_transaction_and_who_has_two_cards_uses_two():
    twice, _ = a_buyer(lambda _: (201, b"{}"))
    await crowd.pay_twice(twice, "res_1")
    assert [told.subject for told in twice.history.exchanges] == ["pay_ok_run-1_1"] * 3
    cards, _ = a_buyer(lambda _: (201, b"{}"))
    await crowd.pay_with_two_cards(cards, "res_1")
    assert {told.subject for told in cards.history.exchanges} == {"pay_ok_run-1_1", "pay_ok_run-1_2"}


async def test_a_patient_crowd_goes_home_when_the_shop_is_closed():
    shop, _ = a_shop(lambda _: (409, SOLD_OUT))
    visitors = Crowd(shop, 20, patient=20, spread_seconds=0.01)
    shop.closed = True
    await visitors.run()
    assert visitors.gone == 20


async def test_everybody_who_was_given_a_reservation_asks_for_it_again_with_its_key():
    shop, client = a_shop(lambda request: (201, GIVEN) if b"/reservations" in request else (200, b"{}"))
    visitors = Crowd(shop, 20, spread_seconds=0.01)
    await visitors.run()
    keys = {(it.user, told.subject) for it in visitors.histories for told in it.exchanges if told.ask is Ask.RESERVE}
    client.sent.clear()
    await visitors.ask_again()
    assert len(client.sent) == len(keys) > 10
