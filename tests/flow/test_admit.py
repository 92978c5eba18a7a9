"""Letting people in, with a clock in hand: the draw and its crashes, turns, who has gone and who is back."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from contract.ledgers import HandClock, Shop, sqlite
from core.shop import OPENING_MS, a_draft, a_product, a_sale
from msgspec.structs import replace

from flashsale.backends.memory import MemoryGate
from flashsale.core.catalogue import CreateSale, EditSale, SwitchSale
from flashsale.core.draw import merkle_root, order
from flashsale.core.questions import DrawnOrder, EntrantsOf, FindRooms
from flashsale.core.sale import RoomTerms, Sale, Switch
from flashsale.core.signs import PAUSE_MS
from flashsale.core.wait_estimate import Reason
from flashsale.core.waiting_room import Closed, Phase, Room, Standing
from flashsale.counts import Counts
from flashsale.flow.admit import ROOT_TOLD_MS, Admitting, hashes_of
from flashsale.flow.lease import Always, Never
from flashsale.flow.rooms import OVER_MS, RoomsSeen
from flashsale.flow.storefront import Storefront
from flashsale.flow.visit import Seen, Visiting
from flashsale.ports import GateAway

START_MS = OPENING_MS + 60_000
GRACE_MS = 30_000
TERMS = RoomTerms(admit_per_second=1, burst=1, pass_seconds=600, prequeue_seconds=120)


class LostGate(MemoryGate):
    """One that can be away."""

    away = False

    async def ask_signs(self, *asked, **more):
        if self.away:
            raise GateAway("it was unplugged")
        return await super().ask_signs(*asked, **more)

    async def tell_signs(self, *told, **more):
        if self.away:
            raise GateAway("it was unplugged")
        await super().tell_signs(*told, **more)


class Process:
    """What one process of a fleet has of the waiting room."""

    def __init__(self, it: Shop, gate: LostGate, storefront: Storefront, leads: bool = True) -> None:
        self.clock = it.clock
        self.counts = Counts()
        self.rooms = RoomsSeen(it.ledger, storefront, it.clock)
        self.visiting = Visiting(it.ledger, gate, self.rooms, it.clock, GRACE_MS)
        turn = Always() if leads else Never()
        self.admitting = Admitting(it.ledger, gate, self.rooms, turn, it.clock, self.counts, GRACE_MS)

    async def tick(self) -> None:
        await self.rooms.look()
        await self.visiting.tell()
        await self.admitting.admit()

    async def join(self, user: str) -> str:
        seen = await self.visiting.join("sale", user)
        assert isinstance(seen, Seen), seen
        return seen.ticket

    async def ask(self, ticket: str) -> Seen:
        seen = await self.visiting.ask("sale", ticket, None)
        assert isinstance(seen, Seen), seen
        return seen

    async def passes(self, seconds: int, *asking: str) -> list[str]:
        """Time passes second by second, while these tickets' owners ask. Returns who was let in, in order."""
        let_in: list[str] = []
        for _ in range(seconds):
            self.clock.pass_ms(1_000)
            for ticket in asking:
                if ticket not in let_in and (await self.ask(ticket)).standing is Standing.ADMITTED:
                    let_in.append(ticket)
            await self.tick()
        return let_in


class World:
    def __init__(self, it: Shop, storefront: Storefront) -> None:
        self.it = it
        self.storefront = storefront
        self.gate = LostGate(it.clock)

    def process(self, leads: bool = True) -> Process:
        return Process(self.it, self.gate, self.storefront, leads)

    async def opens(
        self, starts_at_ms: int = OPENING_MS, terms: RoomTerms = TERMS, units: int = 100, sale_id: str = "sale"
    ) -> None:
        product = a_product(f"lamp-of-{sale_id}", limit=5)
        sale = a_sale(product, sale_id=sale_id, starts_at_ms=starts_at_ms, waiting_room=terms)
        made = await self.it.ledger.change_sale(CreateSale(a_draft(sale, units), "operator"))
        assert isinstance(made, Sale), made

    async def draws(self) -> Process:
        """A sale that has just started with an entrant, whose root was told a moment ago."""
        await self.opens(START_MS)
        process = self.process()
        await process.rooms.look()
        await process.join("ann")
        self.it.clock.at_ms = START_MS
        for _ in range(3):
            await process.tick()
        return process

    async def changes(self, terms: RoomTerms, **more: Any) -> None:
        """Other terms for the room of the sale."""
        sale = replace(self.storefront.sales["sale"], waiting_room=replace(terms, **more))
        made = await self.it.ledger.change_sale(EditSale(a_draft(sale, 100), None, "operator"))
        assert isinstance(made, Sale), made

    async def room(self) -> Room:
        [room] = await self.it.ledger.find(FindRooms(("sale",)))
        return room


@pytest.fixture
async def world(tmp_path) -> AsyncIterator[World]:
    clock = HandClock()
    storefront = Storefront(clock)
    async with sqlite(tmp_path, clock, storefront) as ledger:
        yield World(Shop(ledger, clock, None), storefront)


# The draw


async def test_whatever_step_a_crash_comes_between_the_draw_is_the_same(world):
    await world.opens(START_MS)
    first = world.process()
    await first.rooms.look()
    for number in range(40):
        await first.join(f"user-{number}")
    world.it.clock.at_ms = START_MS
    phases = []
    while (room := await world.room()).phase is not Phase.DRAWN:
        phases.append(room.phase)
        fresh = world.process()  # each step by another process, which knows nothing
        await fresh.tick()
        world.it.clock.pass_ms(ROOT_TOLD_MS)
        if room.phase is Phase.ROOTED:
            await fresh.tick()
    assert phases == [Phase.OPEN, Phase.CLOSED, Phase.ROOTED]
    room = await world.room()
    hashes = hashes_of(world.it.ledger.secret, "sale", await world.it.ledger.find(EntrantsOf("sale")))
    assert room.root == merkle_root(hashes)
    drawn = memoryview(await world.it.ledger.find(DrawnOrder("sale"))).cast("I").tolist()
    assert drawn == order(room.seed, room.root, hashes)


async def test_the_root_is_told_a_second_before_the_seed(world):
    process = await world.draws()
    assert (await world.room()).phase is Phase.ROOTED
    world.it.clock.pass_ms(ROOT_TOLD_MS - 1)
    await process.tick()
    assert (await world.room()).phase is Phase.ROOTED
    world.it.clock.pass_ms(1)
    await process.tick()
    assert (await world.room()).phase is Phase.DRAWN


@pytest.mark.parametrize("same", [True, False])
async def test_the_seed_of_a_draw_is_told_also_if_its_sale_ends_before(world, same):
    """Whoever has a receipt was promised it; by another process too, which has never seen the sale go on."""
    process = await world.draws()
    assert await world.it.ledger.change_sale(SwitchSale("sale", Switch.END, "operator")) is not None
    process = process if same else world.process()
    await process.tick()
    world.it.clock.pass_ms(ROOT_TOLD_MS)
    await process.tick()
    assert (await world.room()).phase is Phase.DRAWN
    assert len(await world.it.ledger.find(DrawnOrder("sale"))) == 4


async def test_a_draw_that_was_closed_behind_the_back_of_a_process_is_found_within_a_minute(world):
    await world.opens(START_MS)
    process = world.process()
    await process.rooms.look()
    await process.join("ann")
    world.it.clock.at_ms = START_MS
    await world.it.ledger.change_sale(SwitchSale("sale", Switch.END, "operator"))
    await process.tick()
    assert list(process.rooms.pictures) == []
    assert (await world.it.ledger.draw("sale", Closed())).phase is Phase.CLOSED  # by another, which was slow
    for pause_ms in (OVER_MS, ROOT_TOLD_MS):
        world.it.clock.pass_ms(pause_ms)
        await process.tick()
    assert (await world.room()).phase is Phase.DRAWN


async def test_a_sale_that_has_ended_is_not_looked_at_for_a_while(world, monkeypatch):
    await world.opens(sale_id="other")
    process = await world.draws()
    for _ in range(2):
        await world.it.ledger.change_sale(SwitchSale("sale", Switch.END, "operator"))
        world.it.clock.pass_ms(ROOT_TOLD_MS)
        await process.tick()
    assert list(process.admitting._drawings) == []
    assert list(process.admitting._paces) == list(process.rooms.pictures) == ["other"]
    asked = []
    find = world.it.ledger.find

    async def finds(query):
        asked.append(query)
        return await find(query)

    monkeypatch.setattr(world.it.ledger, "find", finds)
    await process.rooms.look()
    assert asked == [FindRooms(("other",))]


async def test_whoever_asks_when_he_is_told_to_asks_twice_within_the_grace_time(world):
    await world.opens(terms=RoomTerms(admit_per_second=0.01, burst=1))
    process = world.process()
    hasty = Visiting(world.it.ledger, world.gate, process.rooms, world.it.clock, grace_ms=6_000)
    await process.tick()
    tickets = [await process.join(f"user-{number}") for number in range(100)]
    assert (await process.ask(tickets[-1])).poll_after_seconds == 15
    assert (await hasty.ask("sale", tickets[-1], None)).poll_after_seconds == 3


async def test_where_no_gate_is_shared_no_signs_of_life_are_gathered(world):
    await world.opens()
    process = world.process()
    alone = Visiting(world.it.ledger, None, process.rooms, world.it.clock, GRACE_MS)
    await process.tick()
    seen = await alone.join("sale", "ann")
    await alone.ask("sale", seen.ticket, None)
    assert not alone._signs
    assert not alone._back


# Turns


async def test_people_are_let_in_in_the_order_in_which_they_came(world):
    await world.opens()
    process = world.process()
    await process.tick()
    tickets = [await process.join(f"user-{number}") for number in range(6)]
    assert await process.passes(8, *reversed(tickets)) == tickets


async def test_a_raised_rate_lets_people_in_at_once_and_they_are_told_so(world):
    slow = RoomTerms(admit_per_second=0.02, burst=1, pass_seconds=600)
    await world.opens(terms=slow)
    process = world.process()
    await process.tick()
    tickets = [await process.join(f"user-{number}") for number in range(11)]
    assert await process.passes(2, *tickets) == tickets[:1]
    waited = (await process.ask(tickets[-1])).wait
    await world.changes(slow, admit_per_second=10, burst=1)
    assert await process.passes(1, *tickets[1:]) == []
    told = (await process.ask(tickets[-1])).wait
    assert waited is not None and waited.likely_seconds == 450
    assert told is not None and told.likely_seconds <= 1
    for _ in range(10):
        world.it.clock.pass_ms(100)
        await process.tick()
    assert [(await process.ask(each)).standing for each in tickets[1:]] == [Standing.ADMITTED] * 10


async def test_before_the_start_too_the_wait_is_that_of_the_rate_in_force(world):
    slow = RoomTerms(admit_per_second=1, burst=1, prequeue_seconds=120)
    await world.opens(START_MS, slow)
    process = world.process()
    await process.rooms.look()
    tickets = [await process.join(f"user-{number}") for number in range(1_000)]
    before = (await process.ask(tickets[0])).wait
    sale = replace(world.storefront.sales["sale"], waiting_room=replace(slow, admit_per_second=100, burst=100))
    assert isinstance(await world.it.ledger.change_sale(EditSale(a_draft(sale, 100), None, "operator")), Sale)
    after = (await process.ask(tickets[0])).wait
    assert before is not None and after is not None
    assert before.likely_seconds - after.likely_seconds >= 490


async def test_a_lowered_rate_is_told_with_a_reason(world):
    fast = RoomTerms(admit_per_second=10, burst=1, pass_seconds=600)
    await world.opens(terms=fast)
    process = world.process()
    await process.tick()
    tickets = [await process.join(f"user-{number}") for number in range(400)]
    for _ in range(300):
        world.it.clock.pass_ms(100)
        await process.tick()
        await process.visiting.ask("sale", tickets[-1], None)
    before = (await process.ask(tickets[-1])).wait
    await world.changes(fast, admit_per_second=1, burst=1)
    await process.passes(2, tickets[-1])
    after = (await process.ask(tickets[-1])).wait
    assert before is not None and before.reason is None
    assert after is not None and after.likely_seconds > 5 * before.likely_seconds
    assert after.reason is Reason.STARTING


async def test_one_room_in_trouble_holds_up_no_other(world):
    await world.opens()
    await world.opens(sale_id="other")
    process = world.process()
    await process.rooms.look()
    first, last = process.rooms.pictures
    healthy = process.admitting._room

    async def room(sale_id, picture):
        if sale_id == first:
            raise RuntimeError("its shard is away")
        await healthy(sale_id, picture)

    process.admitting._room = room
    seen = await process.visiting.join(last, "ann")
    for _ in range(5):
        world.it.clock.pass_ms(1_000)
        with pytest.raises(RuntimeError, match="its shard is away"):
            await process.tick()
    assert (await process.visiting.ask(last, seen.ticket, None)).standing is Standing.ADMITTED


async def test_a_pause_is_said_at_once(world):
    await world.opens()
    process = world.process()
    await process.tick()
    tickets = [await process.join(f"user-{number}") for number in range(3)]
    await process.passes(1, *tickets)
    await world.it.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))
    assert (await process.ask(tickets[-1])).wait.reason is Reason.PAUSED


async def test_only_the_process_whose_turn_it_is_lets_people_in(world):
    await world.opens()
    leader, other = world.process(), world.process(leads=False)
    await leader.tick()
    ticket = await other.join("ann")
    assert await other.passes(3, ticket) == []
    await leader.tick()
    assert (await other.ask(ticket)).standing is Standing.ADMITTED


async def test_turns_go_on_past_those_who_have_gone(world):
    await world.opens(terms=RoomTerms(admit_per_second=0.05, burst=1, pass_seconds=600))
    process = world.process()
    await process.tick()
    first, _, third = [await process.join(user) for user in ("first", "gone", "third")]
    assert await process.passes(2, first, third) == [first]
    assert await process.passes(25, third) == []  # a token came after 20 s, for the one who was still within his grace
    let_in = await process.passes(120, third)
    assert let_in == [third]
    assert (await world.room()).head == 3


async def test_who_was_passed_over_and_is_back_is_next(world):
    await world.opens(terms=RoomTerms(admit_per_second=0.02, burst=1, pass_seconds=6000))
    process = world.process()
    await process.tick()
    tickets = [await process.join(f"user-{number}") for number in range(5)]
    first, gone, third, fourth = tickets[:4]
    assert await process.passes(2, first, third, fourth) == [first]
    await skip(world, process, third, fourth)
    assert await process.passes(30, third, fourth) == [third]
    assert (await world.room()).head >= 3
    seen = await process.ask(gone)
    assert (seen.standing, seen.ahead) == (Standing.WAITING, 0)
    assert await process.passes(60, gone, fourth) == [gone]


async def skip(world: World, process: Process, *asking: str) -> None:
    """Nobody is let in (there is no token), and whoever does not ask is gone in the end."""
    for _ in range(2 * GRACE_MS // PAUSE_MS):
        world.it.clock.pass_ms(PAUSE_MS - 1)
        for ticket in asking:
            await process.ask(ticket)
        await process.visiting.tell()


async def test_while_the_gate_is_away_nobody_is_let_in_and_then_everybody_in_his_turn(world):
    await world.opens()
    process = world.process()
    await process.tick()
    tickets = [await process.join(f"user-{number}") for number in range(3)]
    world.gate.away = True
    assert await process.passes(60, *tickets) == []
    world.gate.away = False
    assert await process.passes(5, *tickets) == tickets


# The pace


async def test_two_processes_tell_the_same_wait(world):
    await world.opens(terms=RoomTerms(admit_per_second=10, burst=1, max_active=10_000, pass_seconds=600), units=10_000)
    leader, other = world.process(), world.process(leads=False)
    await leader.tick()
    tickets = [await leader.join(f"user-{number}") for number in range(200)]
    for _ in range(70):
        world.it.clock.pass_ms(500)  # half of what its terms say
        await leader.tick()
        for ticket in tickets[-20:]:
            await leader.ask(ticket)
    await other.rooms.look()
    told = [(await each.ask(tickets[-1])).wait for each in (leader, other, world.process(leads=False))]
    assert told[0] == told[1] == told[2]
    assert told[0] is not None
    assert told[0].reason is Reason.SLOWED


async def test_how_many_waits_came_true_is_counted(world):
    await world.opens()
    process = world.process()
    await process.tick()
    tickets = [await process.join(f"user-{number}") for number in range(10)]
    await process.passes(15, *tickets)
    assert process.counts.waits[1] >= 9
    assert sum(process.counts.waits) == 10


async def test_an_empty_line_is_no_line_that_stands_still(world):
    await world.opens(terms=RoomTerms(admit_per_second=0.5, burst=1, pass_seconds=600))
    process = world.process()
    await process.tick()
    await process.passes(1, await process.join("first"))
    for _ in range(100):
        world.it.clock.pass_ms(1_000)
        await process.tick()
    await process.passes(1, await process.join("second"))
    seen = await process.ask(await process.join("third"))
    assert seen.wait is None or seen.wait.reason is not Reason.PAUSED
