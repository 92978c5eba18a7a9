"""Holding the line: who is woken, who is not, and what it costs when very many hold on."""

import asyncio

from contract.ledgers import OPENING_MS

from flashsale.core.sale import Product, RoomTerms, Sale
from flashsale.core.waiting_room import Phase, Room
from flashsale.flow.rooms import HOLDING_MAX, OVER_MIN, Picture

CROWD = HOLDING_MAX * 3 // 4


def picture(head: int = 5) -> Picture:
    terms = RoomTerms(admit_per_second=1, burst=1)
    sale = Sale(
        "sale", "A sale", (Product("lamp", "A lamp", "USD", 200, 100, 1),), OPENING_MS, None, waiting_room=terms
    )
    made = Picture(sale, Room("sale", bytes(32), arrivals=100_000, phase=Phase.DRAWN, head=head))
    made.wake(("calm",))
    return made


async def test_whoever_has_his_turn_is_woken_and_those_behind_him_are_not():
    room = picture(head=5)
    first, second = (asyncio.create_task(room.hold(place, 10)) for place in (6, 7))
    await asyncio.sleep(0)
    room.room.head = 6
    room.wake(("calm",))
    await asyncio.wait_for(first, 1)
    assert not second.done()
    room.wake(("sold out",))
    await asyncio.wait_for(second, 1)


async def test_whoever_was_passed_over_is_not_woken_by_everybody_elses_questions():
    room = picture(head=5)
    holding = asyncio.create_task(room.hold(3, 10))
    for _ in range(100):
        await asyncio.sleep(0)
        room.wake(("calm",))
    assert not holding.done()
    room.wake(("sold out",))
    await asyncio.wait_for(holding, 1)


async def test_a_question_does_not_go_through_all_who_hold_the_line():
    room = picture()
    crowd = [asyncio.create_task(room.hold(100 + place, 60)) for place in range(CROWD)]
    await asyncio.sleep(0)
    before = room._holding
    room.wake(("calm",))
    assert room._holding is before, "it was not made anew"
    room.let_go()
    await asyncio.gather(*crowd)


async def test_those_who_have_given_up_are_forgotten_and_their_places_are_free():
    room = picture()
    for _ in range(2):
        crowd = [asyncio.create_task(room.hold(100 + place, 60)) for place in range(CROWD)]
        await asyncio.sleep(0)
        assert len([task for task in crowd if task.done()]) == 0, "nobody is one too many"
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)
    room.wake(("calm",))
    assert len(room._holding) <= OVER_MIN
