"""What a gate promises about signs of life: who was heard of lately is alive; not knowing is not being gone."""

from collections.abc import AsyncIterator, Sequence

import pytest
from contract.gates import Held, fresh, held

from flashsale.core.signs import BACK_MAX, NUMBER_MAX, PAUSE_MS, Back, Signs

GRACE_MS = 30_000


class Room:
    def __init__(self, opened: Held) -> None:
        self.gate = opened.gate
        self.sale = fresh()
        self.opened = opened

    async def hear(self, *numbers: int, back: Sequence[Back] = ()) -> None:
        await self.gate.tell_signs(self.sale, numbers, back, GRACE_MS)

    async def ask(self, *numbers: int, done: Sequence[int] = (), most: int = 100) -> Signs:
        return await self.gate.ask_signs(self.sale, numbers, done, most, GRACE_MS)

    async def alive(self, *numbers: int) -> list[bool]:
        return (await self.ask(*numbers)).alive

    async def pass_ms(self, ms: int, *heard: int) -> None:
        """Time passes while somebody who tells signs goes on telling those of these tickets."""
        while ms > 0:
            step = min(ms, PAUSE_MS)
            self.opened.pass_ms(step)
            ms -= step
            await self.hear(*heard)


@pytest.fixture(params=["memory", "redis"])
async def room(request) -> AsyncIterator[Room]:
    async with held(request.param) as opened:
        yield Room(opened)


async def test_who_was_heard_of_within_the_grace_time_is_alive(room):
    await room.pass_ms(10 * GRACE_MS)
    await room.hear(7)
    assert await room.alive(7, 8) == [True, False]
    await room.pass_ms(GRACE_MS)
    assert await room.alive(7) == [True]


async def test_who_was_not_heard_of_for_twice_the_grace_time_is_gone(room):
    await room.pass_ms(10 * GRACE_MS)
    await room.hear(7)
    await room.pass_ms(2 * GRACE_MS, 8)
    assert await room.alive(7, 8) == [False, True]


async def test_until_a_grace_time_has_been_heard_without_a_pause_everybody_is_alive(room):
    await room.hear(1)
    await room.pass_ms(GRACE_MS - 1)
    assert await room.alive(1, 2, 3) == [True] * 3
    await room.pass_ms(1)
    assert await room.alive(2, 3) == [False] * 2


async def test_of_a_room_of_which_nothing_was_heard_everybody_is_alive(room):
    assert await room.ask(1, 2, 3) == Signs([True] * 3, [])


async def test_after_a_silence_everybody_is_alive_again_for_a_grace_time(room):
    await room.pass_ms(10 * GRACE_MS)
    room.opened.pass_ms(PAUSE_MS + 1)
    assert await room.alive(1) == [True]
    await room.hear()
    assert await room.alive(1) == [True]
    await room.pass_ms(GRACE_MS - 1)
    assert await room.alive(1) == [True]
    await room.pass_ms(1)
    assert await room.alive(1) == [False]


async def test_a_clock_that_was_set_back_lets_nobody_die(room):
    await room.pass_ms(10 * GRACE_MS)
    room.opened.pass_ms(-60_000)
    assert await room.alive(1) == [True]
    await room.hear()
    assert await room.alive(1) == [True]


async def test_who_is_back_is_told_of_in_the_order_of_the_places(room):
    await room.hear(back=[Back(30, 1), Back(10, 2)])
    await room.hear(back=[Back(20, 3), Back(30, 1)])
    assert (await room.ask()).back == [2, 3, 1]
    assert (await room.ask(most=2)).back == [2, 3]
    assert (await room.ask(most=0)).back == []
    assert (await room.ask(done=[3, 9])).back == [2, 1]


async def test_many_are_heard_of_in_one_call(room):
    await room.pass_ms(2 * GRACE_MS)
    numbers = range(1, 3001)
    await room.hear(*numbers)
    assert all(await room.alive(*numbers))
    assert await room.alive(3001) == [False]


async def test_numbers_and_the_list_of_those_who_are_back_have_their_ends(room):
    await room.pass_ms(2 * GRACE_MS)
    await room.hear(NUMBER_MAX, 0, -1)
    assert await room.alive(NUMBER_MAX, NUMBER_MAX + 1) == [True, True]
    for first in range(0, BACK_MAX + 500, 500):
        await room.hear(back=[Back(number, number) for number in range(first + 1, first + 501)])
    assert len((await room.ask(most=BACK_MAX + 1000)).back) == BACK_MAX


async def test_rooms_do_not_hear_of_each_other(room):
    other = Room(room.opened)
    await room.pass_ms(2 * GRACE_MS, 1)
    await other.hear(back=[Back(1, 1)])
    assert (await room.ask(1, 2)).back == []
    assert await room.alive(2) == [False]
