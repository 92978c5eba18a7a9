"""What a ledger promises to waiting rooms: every ticket is kept, in its order, and lets its owner in once."""

import asyncio
from array import array
from collections.abc import AsyncIterator

import pytest
from contract.ledgers import LEDGERS, Shop, postgres, shards, shop, together
from core.shop import OPENING_MS, a_draft, a_product, a_sale, an_attempt, refusal_of

from flashsale.core.catalogue import CreateSale, DeleteSale, EditSale, SwitchSale
from flashsale.core.dead_letters import attempt_of
from flashsale.core.draw import merkle_root, order, ticket_hash
from flashsale.core.pending import fresh_id
from flashsale.core.questions import AdmissionOf, DrawnOrder, EntrantsOf, FindRooms, FindTickets
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.request import Item, Request
from flashsale.core.reservation import Status
from flashsale.core.sale import Mode, RoomTerms, Sale, Switch
from flashsale.core.stock import Decided, Granted
from flashsale.core.waiting_room import Called, Closed, Drawn, Figures, Joining, Phase, Room, Rooted, Ticket, Turn

LATER_MS = OPENING_MS + 60_000
ROOMS = FindRooms(("sale",))
TERMS = RoomTerms(admit_per_second=10, burst=5, max_waiting=1000, pass_seconds=30, prequeue_seconds=120)


class Hall:
    """A ledger with one sale that has a waiting room."""

    def __init__(self, it: Shop) -> None:
        self.it = it
        self.ledger = it.ledger
        self.pass_ms = it.clock.pass_ms

    async def join(self, *users: str) -> list[Ticket | Refused]:
        return await self.ledger.join("sale", [Joining(user) for user in users])

    async def numbers(self, *users: str) -> list[int]:
        tickets = await self.join(*users)
        assert all(isinstance(each, Ticket) for each in tickets), tickets
        return [each.number for each in tickets]

    async def room(self) -> Room:
        [room] = await self.ledger.find(ROOMS)
        return room

    async def ticket(self, number: int) -> Ticket:
        _, [ticket] = await self.ledger.find(FindTickets("sale", (number,)))
        return ticket

    async def begin(self) -> None:
        """The sale starts, and with nobody in the draw the line is open."""
        self.it.clock.at_ms = max(self.it.clock.at_ms, LATER_MS)
        await self.ledger.draw("sale", Closed())

    async def call(self, *line: int, gone: tuple[int, ...] = (), returned: tuple[int, ...] = ()) -> list[int]:
        """Calls these places, which are the tickets' numbers; returns who was let in."""
        called = tuple(Called(number, number, number not in gone) for number in line)
        turned = await self.ledger.admit(Turn("sale", returned, called))
        return [each.number for each in turned.admitted]

    async def reserve(self, user: str, pass_number: int | None, *items: tuple[str, int]):
        attempt = an_attempt(user, *items)
        attempt.pass_number = pass_number
        return await self.it.asks(attempt)

    async def figures(self) -> Figures:
        found = await self.ledger.find(AdmissionOf("sale", self.it.clock.now_ms()))
        assert found is not None
        return found[1]


@pytest.fixture(params=LEDGERS)
async def hall(request, tmp_path) -> AsyncIterator[Hall]:
    async with shop(request.param, tmp_path) as it:
        it.clock.at_ms = OPENING_MS
        await it.opens(a_sale(a_product(limit=5), starts_at_ms=LATER_MS, waiting_room=TERMS))
        yield Hall(it)


def lamps(**terms) -> Sale:
    given = {"starts_at_ms": LATER_MS, "waiting_room": TERMS, **terms}
    return a_sale(a_product(limit=5), **given)


# Tickets


async def test_tickets_have_numbers_in_the_order_of_arrival_without_a_gap(hall):
    assert await hall.numbers("ann", "bob") == [1, 2]
    assert await hall.numbers("cy") == [3]
    assert [await hall.ledger.find(EntrantsOf("sale", after)) for after in (0, 2)] == [
        [(1, "ann"), (2, "bob"), (3, "cy")],
        [(3, "cy")],
    ]


async def test_who_joins_again_has_the_ticket_that_he_had(hall):
    first = await hall.join("ann", "bob", "ann")
    assert [each.number for each in first] == [1, 2, 1]
    hall.pass_ms(5_000)
    assert await hall.join("ann") == [first[0]]


async def test_of_many_who_join_at_once_each_has_a_number_of_his_own(hall):
    answers = await together(hall.join(*(f"user-{each}-{part}" for each in range(20))) for part in range(10))
    assert sorted(ticket.number for tickets in answers for ticket in tickets) == list(range(1, 201))


async def test_one_user_who_joins_many_times_at_once_has_one_ticket(hall):
    answers = await together(hall.join("ann") for _ in range(20))
    assert {ticket.number for [ticket] in answers} == {1}


@pytest.mark.parametrize("opening", LEDGERS)
async def test_what_was_joined_is_there_after_a_restart(opening, tmp_path):
    async with shop(opening, tmp_path) as it:
        await it.opens(lamps())
        before = [await it.ledger.join("sale", [Joining("ann", 5_000)]), await it.ledger.find(ROOMS)]
    async with shop(opening, tmp_path) as it:
        assert [
            await it.ledger.join("sale", [Joining("ann", 9_000)]),
            await it.ledger.find(ROOMS),
        ] == before


async def test_a_room_opens_before_the_start_and_not_sooner(hall):
    hall.it.clock.at_ms = LATER_MS - TERMS.prequeue_seconds * 1000 - 1
    [refused] = await hall.join("ann")
    assert (refusal_of(refused), refused.details["queueOpensAtMs"]) == (Refusal.NOT_STARTED, LATER_MS - 120_000)
    hall.pass_ms(1)
    assert await hall.numbers("ann") == [1]


async def test_nobody_joins_a_sale_that_is_over_or_is_not_there_or_has_no_room(hall):
    await hall.it.opens(a_sale(a_product("vase"), sale_id="plain"))
    await hall.it.opens(a_sale(a_product("cup"), sale_id="draft", starts_at_ms=None, waiting_room=TERMS))
    for sale_id in ("plain", "draft", "nowhere"):
        assert refusal_of((await hall.ledger.join(sale_id, [Joining("ann")]))[0]) is Refusal.NOT_FOUND
    await hall.begin()
    await hall.ledger.change_sale(SwitchSale("sale", Switch.END, "operator"))
    assert refusal_of((await hall.join("ann"))[0]) is Refusal.ENDED


@pytest.mark.parametrize("opening", LEDGERS)
async def test_the_line_is_as_long_as_it_may_be_and_no_longer(opening, tmp_path):
    async with shop(opening, tmp_path) as it:
        terms = RoomTerms(max_waiting=2)
        await it.opens(lamps(waiting_room=terms, starts_at_ms=OPENING_MS))
        hall = Hall(it)
        await hall.begin()
        answers = await hall.join("ann", "bob", "cy", "ann")
        assert [refusal_of(each) if isinstance(each, Refused) else each.number for each in answers] == [
            1, 2, Refusal.UNAVAILABLE, 1
        ]  # fmt: skip
        await hall.call(1)
        assert await hall.numbers("cy") == [3]


# The draw


async def test_who_comes_before_the_start_takes_part_in_the_draw_and_nobody_else(hall):
    await hall.numbers("ann", "bob")
    hall.it.clock.at_ms = LATER_MS
    await hall.numbers("cy")
    assert ((await hall.room()).entrants, (await hall.room()).arrivals) == (2, 3)
    room = await hall.ledger.draw("sale", Closed())
    assert (room.phase, room.entrants) == (Phase.CLOSED, 2)


async def test_before_the_start_the_draw_is_not_closed(hall):
    await hall.numbers("ann")
    room = await hall.ledger.draw("sale", Closed())
    assert room.phase is Phase.OPEN


async def test_a_draw_nobody_takes_part_in_is_over_at_the_start(hall):
    await hall.begin()
    assert (await hall.room()).phase is Phase.DRAWN


async def test_the_steps_of_a_draw_come_in_their_order_each_once(hall):
    users = [f"user-{each}" for each in range(50)]
    await hall.numbers(*users)
    hashes = [ticket_hash(user) for user in users]
    root = merkle_root(hashes)
    seed = (await hall.room()).seed
    numbers = array("I", order(seed, root, hashes)).tobytes()
    assert (await hall.ledger.draw("sale", Rooted(root))).phase is Phase.OPEN
    hall.it.clock.at_ms = LATER_MS
    phases = []
    for step in (Drawn(numbers), Closed(), Drawn(numbers), Closed(), Rooted(root), Rooted(bytes(32)), Drawn(numbers)):
        phases.append((await hall.ledger.draw("sale", step)).phase.value)
    assert phases == ["OPEN", "CLOSED", "CLOSED", "CLOSED", "ROOTED", "ROOTED", "DRAWN"]
    await hall.ledger.draw("sale", Drawn(bytes(200)))
    assert (await hall.room()).root == root
    assert await hall.ledger.find(DrawnOrder("sale")) == numbers


async def test_a_large_draw_is_kept_in_parts(hall):
    numbers = bytes(range(256)) * 3000
    await hall.numbers("ann")
    hall.it.clock.at_ms = LATER_MS
    for step in (Closed(), Rooted(bytes(32)), Drawn(numbers)):
        await hall.ledger.draw("sale", step)
    assert await hall.ledger.find(DrawnOrder("sale")) == numbers


async def test_nobody_is_let_in_before_the_draw_is_over(hall):
    await hall.numbers("ann")
    hall.it.clock.at_ms = LATER_MS
    assert await hall.call(1) == []
    await hall.ledger.draw("sale", Closed())
    assert await hall.call(1) == []


# Letting in


async def test_people_are_let_in_one_place_after_the_other(hall):
    await hall.begin()
    await hall.numbers("ann", "bob", "cy")
    assert await hall.call(2, 3) == []
    assert await hall.call(1, 2) == [1, 2]
    assert await hall.call(1, 2, 3) == []
    assert await hall.call(3) == [3]
    assert (await hall.room()).head == 3


async def test_a_pass_lasts_as_long_as_the_terms_say(hall):
    await hall.begin()
    await hall.numbers("ann")
    await hall.call(1)
    assert (await hall.ticket(1)).pass_until_ms == LATER_MS + 30_000


async def test_as_many_are_let_in_as_burst_and_rate_allow(hall):
    await hall.begin()
    await hall.numbers(*(f"user-{each}" for each in range(20)))
    assert await hall.call(*range(1, 21)) == [1, 2, 3, 4, 5]
    assert await hall.call(*range(6, 21)) == []
    hall.pass_ms(200)
    assert await hall.call(*range(6, 21)) == [6, 7]
    hall.pass_ms(60_000)
    assert await hall.call(*range(8, 21)) == [8, 9, 10, 11, 12]


async def test_two_who_let_people_in_at_the_same_time_let_in_no_more(hall):
    await hall.begin()
    await hall.numbers(*(f"user-{each}" for each in range(20)))
    admitted = await asyncio.gather(*(hall.call(*range(1, 21)) for _ in range(5)))
    assert sorted(number for numbers in admitted for number in numbers) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("opening", LEDGERS)
async def test_no_more_than_so_many_have_a_pass_or_an_unpaid_reservation(opening, tmp_path):
    async with shop(opening, tmp_path) as it:
        terms = RoomTerms(admit_per_second=1000, burst=1000, max_active=2, pass_seconds=30)
        await it.opens(lamps(waiting_room=terms, starts_at_ms=OPENING_MS, reservation_seconds=60))
        hall = Hall(it)
        await hall.begin()
        await hall.numbers("ann", "bob", "cy", "dan")
        assert await hall.call(1, 2, 3, 4) == [1, 2]
        assert await hall.call(3, 4) == []
        held = await hall.reserve("ann", 1)
        assert isinstance(held, Granted)
        assert (await hall.figures(), await hall.call(3, 4)) == (Figures(9, 1, 1), [])
        await it.ledger.release(held.reservations[0].reservation_id, None)
        assert await hall.call(3, 4) == [3]
        it.clock.pass_ms(30_000)
        assert await hall.call(4) == [4]


async def test_who_has_gone_without_a_word_is_passed_over_and_his_turn_is_the_next_ones(hall):
    await hall.begin()
    await hall.numbers("ann", "bob", "cy")
    assert await hall.call(1, 2, 3, gone=(1, 2)) == [3]
    assert (await hall.room()).head == 3


async def test_who_was_passed_over_and_is_back_is_let_in_before_anybody_behind_him(hall):
    await hall.begin()
    await hall.numbers(*(f"user-{each}" for each in range(10)))
    await hall.call(1, 2, 3, 4, 5, 6, gone=(1, 2))
    hall.pass_ms(100)
    assert await hall.call(7, 8, returned=(1,)) == [1, 7]
    assert await hall.call(8, returned=(1,)) == []


async def test_who_has_left_is_not_let_in_and_costs_nobody_his_turn(hall):
    await hall.begin()
    await hall.numbers(*(f"user-{each}" for each in range(7)))
    await hall.ledger.leave("sale", 1)
    await hall.ledger.leave("sale", 6)
    assert await hall.call(*range(1, 8)) == [2, 3, 4, 5, 7]
    assert await hall.call(returned=(1, 6)) == []
    assert [(await hall.ticket(number)).left for number in (1, 2)] == [True, False]


async def test_who_has_left_while_he_waited_has_his_ticket_again_when_he_joins_again(hall):
    await hall.begin()
    assert await hall.numbers("ann", "bob", "cy") == [1, 2, 3]
    for _ in range(3):
        await hall.ledger.leave("sale", 2)
        assert (await hall.ticket(2)).left
        assert await hall.numbers("bob", "dan", "bob") == [2, 4, 2]
        assert not (await hall.ticket(2)).left
    assert (await hall.room()).arrivals == 4
    assert await hall.call(1, 2, 3, 4) == [1, 2, 3, 4]


async def test_who_has_left_and_comes_back_after_his_turn_joins_at_the_end(hall):
    await hall.begin()
    await hall.numbers("ann", "bob", "cy")
    await hall.ledger.leave("sale", 2)
    assert await hall.call(1, 2, 3) == [1, 3]
    assert await hall.numbers("bob") == [4]
    assert await hall.call(4) == [4]


async def test_who_has_given_up_his_pass_or_let_it_expire_joins_at_the_end(hall):
    await hall.begin()
    await hall.numbers("ann", "bob", "cy")
    await hall.call(1, 2)
    await hall.ledger.leave("sale", 2)
    assert await hall.numbers("ann", "bob", "cy") == [1, 4, 3]
    hall.pass_ms(30_000)
    assert await hall.numbers("ann", "bob") == [5, 4]


async def test_while_a_sale_is_paused_nobody_is_let_in(hall):
    await hall.begin()
    await hall.numbers("ann")
    await hall.ledger.change_sale(SwitchSale("sale", Switch.PAUSE, "operator"))
    assert await hall.call(1) == []
    await hall.ledger.change_sale(SwitchSale("sale", Switch.RESUME, "operator"))
    assert await hall.call(1) == [1]


async def test_after_a_sale_was_sold_out_no_more_are_let_in_than_units_have_come_back(hall):
    await hall.begin()
    await hall.numbers("ann", "bob", "cy", "dan", "eve", "fay", "guy", "hal")
    await hall.call(1, 2, 3, 4, 5)
    holds = [await hall.reserve(user, number, ("lamp", 5)) for user, number in (("ann", 1), ("bob", 2))]
    hall.pass_ms(10_000)
    assert (await hall.figures()).available == 0
    assert await hall.call(6, 7, 8) == []
    assert (await hall.room()).sold_out
    await hall.ledger.release(holds[0].reservations[0].reservation_id, None)
    assert (await hall.figures()) == Figures(available=5, reservations=1, passes=3)
    assert await hall.call(6, 7, 8) == [6, 7]


# Passes


async def test_a_pass_is_spent_by_the_reservation_that_it_buys(hall):
    await hall.begin()
    await hall.numbers("ann")
    await hall.call(1)
    assert isinstance(await hall.reserve("ann", 1), Granted)
    assert (await hall.ticket(1)).spent
    assert refusal_of(await hall.reserve("ann", 1)) is Refusal.PASS_REQUIRED


async def test_without_a_pass_nobody_gets_a_unit_whoever_has_let_him_through(hall):
    await hall.begin()
    assert refusal_of(await hall.reserve("ann", None)) is Refusal.PASS_REQUIRED


async def test_a_refused_reservation_leaves_its_pass_unspent(hall):
    await hall.begin()
    await hall.numbers("ann")
    await hall.call(1)
    assert refusal_of(await hall.reserve("ann", 1, ("lamp", 6))) is Refusal.LIMIT_EXCEEDED
    assert not (await hall.ticket(1)).spent
    assert isinstance(await hall.reserve("ann", 1), Granted)


async def test_of_two_reservations_with_one_pass_at_the_same_time_one_is_made(hall):
    await hall.begin()
    await hall.numbers("ann")
    outcomes = await together(hall.reserve("ann", 1) for _ in range(10))
    assert sum(isinstance(each, Granted) for each in outcomes) == 1
    assert {refusal_of(each) for each in outcomes if isinstance(each, Refused)} == {Refusal.PASS_REQUIRED}


@pytest.mark.parametrize("opening", LEDGERS)
async def test_a_cart_spends_one_pass(opening, tmp_path):
    async with shop(opening, tmp_path) as it:
        await it.opens(a_sale(a_product(), a_product("vase"), waiting_room=TERMS))
        hall = Hall(it)
        assert isinstance(await hall.reserve("ann", 1, ("lamp", 1), ("vase", 1)), Granted)
        assert refusal_of(await hall.reserve("bob", 1, ("lamp", 1), ("vase", 1))) is Refusal.PASS_REQUIRED


async def test_who_leaves_gives_his_pass_up(hall):
    await hall.begin()
    await hall.numbers("ann")
    await hall.call(1)
    await hall.ledger.leave("sale", 1)
    assert refusal_of(await hall.reserve("ann", 1)) is Refusal.PASS_REQUIRED
    assert (await hall.figures()).passes == 0


@pytest.mark.parametrize("opening", LEDGERS)
async def test_a_queued_request_spends_its_pass_with_its_decision(opening, tmp_path):
    async with shop(opening, tmp_path) as it:
        await it.opens(a_sale(a_product(), mode=Mode.QUEUED, waiting_room=TERMS))
        requests = [_request(it, user, 7) for user in ("ann", "bob")]
        first, second = [await it.asks(attempt_of(each)) for each in requests]
        assert isinstance(first, Decided)
        assert isinstance(second, Decided)
        assert [each.reservations[0].status for each in (first, second)] == [Status.RESERVED, Status.REJECTED]
        assert "PASS_REQUIRED" in (second.reservations[0].refusal or "")


def _request(it: Shop, user: str, pass_number: int) -> Request:
    reservation_id = fresh_id(it.ledger.secret, user, OPENING_MS, user.encode().ljust(6), it.ledger.mark_of("sale"))
    return Request((reservation_id,), user, "sale", (Item("lamp", 1),), OPENING_MS, pass_number=pass_number)


# The room of a sale


@pytest.mark.parametrize("opening", LEDGERS)
async def test_a_sale_gets_its_room_when_its_terms_first_want_one_and_keeps_its_seed(opening, tmp_path):
    async with shop(opening, tmp_path) as it:
        await it.opens(a_sale())
        assert await it.ledger.find(ROOMS) == []
        await _edit(it, waiting_room=TERMS)
        [room] = await it.ledger.find(ROOMS)
        await _edit(it, waiting_room=RoomTerms(burst=9))
        assert await it.ledger.find(ROOMS) == [room]
        assert len(set(room.seed)) > 8


async def test_a_sale_whose_room_nobody_came_to_leaves_nothing_behind(hall):
    before = await hall.room()
    await hall.ledger.change_sale(DeleteSale("sale", "operator"))
    assert await hall.ledger.find(ROOMS) == []
    await hall.it.opens(lamps())
    assert (await hall.room()).seed != before.seed


async def test_tickets_and_passes_of_a_sale_that_is_deleted_are_never_good_for_another(hall):
    await hall.numbers("ann")
    await hall.ledger.change_sale(DeleteSale("sale", "operator"))
    assert await hall.ledger.find(EntrantsOf("sale")) == []
    again = await hall.ledger.change_sale(CreateSale(a_draft(lamps()), "operator"))
    assert isinstance(again, Refused)
    assert again.refusal is Refusal.ILLEGAL_STATE
    assert "choose another" in again.message


async def test_a_sale_whose_line_has_formed_does_not_start_again(hall):
    await hall.begin()
    await hall.numbers("ann")
    later = lamps(starts_at_ms=hall.it.clock.now_ms() + 60_000)
    refused = await hall.ledger.change_sale(EditSale(a_draft(later), None, "operator"))
    assert isinstance(refused, Refused)
    assert (refused.refusal, refused.details) == (Refusal.ILLEGAL_STATE, {"field": "startsAt"})
    renamed = await hall.ledger.change_sale(EditSale(a_draft(lamps(name="Lamps")), None, "operator"))
    assert isinstance(renamed, Sale), renamed


async def test_a_start_may_be_put_off_as_long_as_nobody_stands_in_line(hall):
    await hall.numbers("ann")
    later = lamps(starts_at_ms=LATER_MS + 600_000)
    assert isinstance(await hall.ledger.change_sale(EditSale(a_draft(later), None, "operator")), Sale)


async def _edit(it: Shop, **terms) -> None:
    edited = await it.ledger.change_sale(EditSale(a_draft(a_sale(**terms)), None, "operator"))
    assert isinstance(edited, Sale), edited


async def test_what_is_asked_of_a_room_that_is_not_there_is_nothing(hall):
    assert await hall.ledger.find(FindTickets("nowhere", (1,))) == (None, [])
    assert await hall.ledger.find(AdmissionOf("nowhere", OPENING_MS)) is None
    assert await hall.ledger.find(DrawnOrder("sale")) == b""
    assert (await hall.ledger.find(FindTickets("sale", (7,))))[1] == []


async def test_the_pace_is_kept_with_the_turn_that_tells_it(hall):
    await hall.begin()
    await hall.numbers("ann", "bob")
    await hall.ledger.admit(Turn("sale", (), (Called(1, 1, True),), b"a pace"))
    assert (await hall.room()).pace == b"a pace"
    await hall.call(2)
    assert (await hall.room()).pace == b"a pace"


@pytest.mark.parametrize("opening", [postgres, shards])
async def test_a_process_that_has_not_heard_of_a_sale_yet_takes_part_in_its_room(opening, tmp_path):
    async with shop(opening, tmp_path) as it, shop(opening, tmp_path) as other:
        await it.opens(lamps(starts_at_ms=OPENING_MS))
        await Hall(other).begin()
        assert await Hall(other).numbers("ann") == [1]
        assert await Hall(other).call(1) == [1]
