"""What the gate promises of sightings: how many different members a group has had lately."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from contract.gates import Held, fresh, held

from flashsale.core.sighting import MEMBERS_MAX, How, Sighting


@pytest.fixture(params=["memory", "redis"])
async def shop(request: pytest.FixtureRequest) -> AsyncIterator[Held]:
    async with held(request.param) as opened:
        yield opened


async def sees(shop: Held, group: str, *members: str, seconds: int = 60, how: How = How.SEEN) -> list[int]:
    return await shop.gate.sighted([Sighting(group, member, seconds, how) for member in members])


async def test_a_group_counts_each_member_once_however_often_it_is_seen(shop):
    assert await sees(shop, fresh(), "ann", "bob", "ann", "cyd", "bob") == [1, 2, 2, 3, 3]


async def test_each_group_counts_for_itself(shop):
    one, two = fresh(), fresh()
    assert (await sees(shop, one, "ann", "bob"), await sees(shop, two, "ann")) == ([1, 2], [1])
    assert await shop.gate.sighted([Sighting(one, "cyd", 60), Sighting(two, "ann", 60), Sighting(one, "ann", 60)]) == [
        3, 1, 3,
    ]  # fmt: skip


async def test_a_member_that_was_not_seen_for_the_window_is_forgotten_and_one_that_was_is_not(shop):
    group = fresh()
    await sees(shop, group, "ann", "bob")
    shop.pass_ms(59_999)
    assert await sees(shop, group, "ann") == [2]
    shop.pass_ms(1)
    assert await sees(shop, group, "cyd") == [2]


async def test_asking_adds_nobody_and_keeps_nobody_longer(shop):
    group = fresh()
    assert await sees(shop, group, "ann", how=How.ASKED) == [0]
    await sees(shop, group, "ann")
    shop.pass_ms(30_000)
    assert await sees(shop, group, "bob", "ann", how=How.ASKED) == [1, 1]
    shop.pass_ms(30_000)
    assert await sees(shop, group, "ann", how=How.ASKED) == [0]


async def test_a_member_that_is_gone_counts_no_more(shop):
    group = fresh()
    await sees(shop, group, "ann", "bob")
    assert await sees(shop, group, "ann", "nobody", how=How.GONE) == [1, 1]


async def test_a_group_remembers_its_latest_members_and_no_more_than_so_many(shop):
    group = fresh()
    for number in range(MEMBERS_MAX + 10):
        last = await sees(shop, group, f"user-{number:03}")
        shop.pass_ms(1)
    assert last == [MEMBERS_MAX]
    assert await sees(shop, group, "user-000", how=How.GONE) == [MEMBERS_MAX]
    assert await sees(shop, group, f"user-{MEMBERS_MAX + 9:03}", how=How.GONE) == [MEMBERS_MAX - 1]


async def test_many_callers_at_once_are_all_counted(shop):
    group = fresh()
    counts = await asyncio.gather(
        *(sees(shop, group, *(f"{each}-{number}" for number in range(3))) for each in range(20))
    )
    assert sorted(count for each in counts for count in each) == list(range(1, 61))


async def test_more_than_one_call_can_carry_are_answered_in_order(shop):
    group = fresh()
    counts = await shop.gate.sighted([Sighting(group if number % 2 else fresh(), "ann", 60) for number in range(1200)])
    assert counts == [1] * 1200


@pytest.mark.parametrize("seconds", [0, -1, 10**9])
def test_a_window_that_makes_no_sense_is_a_mistake(seconds):
    with pytest.raises(ValueError, match="a window is 1 to"):
        Sighting("group", "member", seconds)
