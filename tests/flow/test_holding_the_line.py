"""Holding the line: who is woken, who is not, and what it costs when very many hold on."""

import asyncio

from contract.ledgers import OPENING_MS

from flashsale.core.sale import Product, RoomTerms, Sale, SaleState
from flashsale.core.waiting_room import Phase, Room
from flashsale.flow.rooms import HOLDING_MAX, OVER_MIN, Mood, Picture

CROWD = HOLDING_MAX * 3 // 4
CALM = Mood(SaleState.ACTIVE, Phase.DRAWN, sold_out=False)
SOLD_OUT = CALM._replace(sold_out=True)


def picture(head: int = 5) -> Picture:
    terms = RoomTerms(admit_per_second=1, burst=1)
    sale = Sale(
        "sale", "A sale", (Product("lamp", "A lamp", "USD", 200, 100, 1),), OPENING_MS, None, waiting_room=terms
    )
    made = Picture(sale, Room("sale", bytes(32), arrivals=100_000, phase=Phase.DRAWN, head=head))
    made.wake(CALM)
    return made


async def test_whoever_has_his_turn_is_woken_and_those_behind_him_are_not():
    room = picture(head=5)
    first, second = (asyncio.create_task(room.hold(place, 10, False)) for place in (6, 7))
    await asyncio.sleep(0)
    room.room.head = 6
    room.wake(CALM)
    await asyncio.wait_for(first, 1)
    assert not second.done()
    room.wake(SOLD_OUT)
    await asyncio.wait_for(second, 1)


async def test_whoever_knows_that_it_is_sold_out_is_not_woken_by_a_unit_that_comes_back_for_somebody_else():
    room = picture(head=5)
    room.wake(SOLD_OUT)
    next_one, knows = (asyncio.create_task(room.hold(place, 10, True)) for place in (6, 7))
    hopes = asyncio.create_task(room.hold(8, 10, False))
    await asyncio.sleep(0)
    room.wake(CALM)
    await asyncio.sleep(0)
    assert not any(each.done() for each in (next_one, knows, hopes))
    room.room.head = 6
    room.wake(CALM)
    await asyncio.wait_for(next_one, 1)
    room.wake(SOLD_OUT)
    await asyncio.wait_for(hopes, 1)
    assert not knows.done()
    room.wake(SOLD_OUT._replace(state=SaleState.ENDED))
    await asyncio.wait_for(knows, 1)


async def test_whoever_was_passed_over_is_not_woken_by_everybody_elses_questions():
    room = picture(head=5)
    holding = asyncio.create_task(room.hold(3, 10, False))
    for _ in range(100):
        await asyncio.sleep(0)
        room.wake(CALM)
    assert not holding.done()
    room.wake(SOLD_OUT)
    await asyncio.wait_for(holding, 1)


async def test_a_question_does_not_go_through_all_who_hold_the_line():
    room = picture()
    crowd = [asyncio.create_task(room.hold(100 + place, 60, False)) for place in range(CROWD)]
    await asyncio.sleep(0)
    before = room._holding._waiting
    room.wake(CALM)
    assert room._holding._waiting is before, "it was not made anew"
    room.let_go()
    await asyncio.gather(*crowd)


async def test_those_who_have_given_up_are_forgotten_and_their_places_are_free():
    room = picture()
    for _ in range(2):
        crowd = [asyncio.create_task(room.hold(100 + place, 60, False)) for place in range(CROWD)]
        await asyncio.sleep(0)
        assert len([task for task in crowd if task.done()]) == 0, "nobody is one too many"
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    room.wake(CALM)
    assert len(room._holding._waiting) <= OVER_MIN


async def test_whoever_gives_up_at_the_moment_in_which_the_others_are_forgotten_is_counted_once():
    room = picture()
    await asyncio.gather(*(room.hold(place, 0.01, False) for place in range(100, 101 + OVER_MIN)))
    one_more = asyncio.create_task(room.hold(500, 9, False))
    await asyncio.sleep(0.01)
    one_more.cancel()
    await asyncio.sleep(0)  # cancelled, and has not counted himself yet
    room.wake(CALM)
    await asyncio.gather(one_more, return_exceptions=True)
    assert room._holding.many == 0
    await room.hold(7, 0.01, False)
    assert room._holding.many == 0
