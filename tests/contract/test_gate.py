"""What a gate promises: permits, availability, rate limits, shared settings. Asked of every backend."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from contract.gates import Held, forget_settings, fresh, held, wish

from flashsale.backends.gate_calls import SHARED_SETTINGS_MAX
from flashsale.core.permits import APPEND_SECONDS, FRESH_MS, PERMIT_SECONDS, SHOWN_MS, Permit, Synchronised, Verdict
from flashsale.core.rate_limit import Draft

APPEND_MS = APPEND_SECONDS * 1000
PERMIT_MS = PERMIT_SECONDS * 1000
PERMITTED = Permit(Verdict.PERMITTED)
QUEUED = Permit(Verdict.QUEUED)
UNSURE = Permit(Verdict.UNSURE)
REUSED = Permit(Verdict.KEY_REUSED)


def limit(on_their_way: int) -> Permit:
    return Permit(Verdict.LIMIT, on_their_way)


def sold_out(available: int) -> Permit:
    return Permit(Verdict.SOLD_OUT, available)


@pytest.fixture(params=["memory", "redis"])
async def shop(request) -> AsyncIterator["Shop"]:
    async with held(request.param) as opened:
        yield Shop(opened)


class Shop:
    """One product at a gate."""

    def __init__(self, opened: Held) -> None:
        self.gate = opened.gate
        self.pass_ms = opened.pass_ms
        self.sale = fresh()
        self.line = (self.sale, "PHONE")

    async def ask(self, *reservations: str, **more: object) -> list[Permit]:
        return await self.gate.permit([wish(self.sale, each, **more) for each in reservations])

    async def has(self, available: int, sku_seq: int = 1) -> None:
        """What the ledger says."""
        await self.gate.synchronise([Synchronised(*self.line, available, sku_seq)])

    async def settle(self, *reservations: str, available: int | None = None, sku_seq: int = 2) -> None:
        ids = [f"res_{each}" for each in reservations]
        rows = [] if available is None else [Synchronised(*self.line, available, sku_seq)]
        await self.gate.settle([(self.line, ids)], rows)


# Units


async def test_so_many_are_permitted_as_there_are_units(shop):
    await shop.has(3)
    assert await shop.ask(*"abcde") == [PERMITTED] * 3 + [sold_out(0)] * 2


async def test_the_last_unit_is_permitted_and_not_mistaken_for_none(shop):
    await shop.has(1)
    assert await shop.ask("a") == [PERMITTED]
    assert await shop.ask("b") == [sold_out(0)]


async def test_units_are_counted_not_requests(shop):
    await shop.has(5)
    assert await shop.ask("a", quantity=3) == [PERMITTED]
    assert await shop.ask("b", quantity=3) == [sold_out(2)]
    assert await shop.ask("c", quantity=2) == [PERMITTED]


async def test_permits_of_one_product_leave_the_others_alone(shop):
    other = fresh()
    await shop.gate.synchronise([Synchronised(shop.sale, "PHONE", 1, 1), Synchronised(other, "PHONE", 2, 1)])
    wishes = [wish(sale, f"{sale}{number}") for number in range(2) for sale in (shop.sale, other)]
    assert await shop.gate.permit(wishes) == [PERMITTED, PERMITTED, sold_out(0), PERMITTED]


async def test_of_a_product_that_was_never_synchronised_nothing_is_known_and_nothing_taken(shop):
    assert await shop.ask(*"abc") == [UNSURE] * 3
    await shop.has(3)
    assert await shop.ask(*"defg") == [PERMITTED] * 3 + [sold_out(0)]


async def test_nothing_asked_is_nothing_answered(shop):
    assert (await shop.gate.permit([]), await shop.gate.availability([]), await shop.gate.take([])) == ([], [], [])
    await shop.gate.appended([])
    await shop.gate.settle([], [])


async def test_a_batch_of_any_size_is_decided_in_its_order(shop):
    await shop.has(1000)
    verdicts = [each.verdict for each in await shop.ask(*map(str, range(1300)))]
    assert (set(verdicts[:1000]), set(verdicts[1000:])) == ({Verdict.PERMITTED}, {Verdict.SOLD_OUT})


# The same request again


async def test_an_id_that_is_outstanding_is_permitted_again_and_takes_nothing(shop):
    await shop.has(2)
    assert await shop.ask("a", "a", "a") == [PERMITTED] * 3
    assert await shop.ask("b", "c") == [PERMITTED, sold_out(0)]


async def test_a_request_that_is_in_the_queue_already_need_not_be_appended_again(shop):
    await shop.has(2)
    assert await shop.ask("a") == [PERMITTED]
    await shop.gate.appended([wish(shop.sale, "a")])
    assert await shop.ask("a", "a", "b", "c") == [QUEUED, QUEUED, PERMITTED, sold_out(0)]
    others = [wish(shop.sale, "a", print_="another"), wish(shop.sale, "b"), wish(shop.sale, "c")]
    assert await shop.gate.queued([wish(shop.sale, "a"), *others]) == [True, False, False, False]


async def test_an_id_that_is_outstanding_for_something_else_is_a_key_that_was_used(shop):
    await shop.has(100)
    assert await shop.ask("a") == [PERMITTED]
    assert await shop.ask("a", print_="another") == [REUSED]
    assert await shop.ask("a") == [PERMITTED]


async def test_asking_again_keeps_a_permit_alive(shop):
    await shop.has(1)
    await shop.ask("a")
    shop.pass_ms(APPEND_MS - 1)
    await shop.ask("a")
    shop.pass_ms(APPEND_MS - 1)
    await shop.has(1)
    assert await shop.ask("b") == [sold_out(0)]


# The limit of a user


async def test_a_user_has_no_more_on_the_way_than_his_limit(shop):
    await shop.has(100)
    assert await shop.ask("a", "b", "c", user="ann", limit=2) == [PERMITTED, PERMITTED, limit(2)]
    assert await shop.ask("d", user="ann", quantity=2, limit=3) == [limit(2)]
    assert await shop.ask("e", user="bob", limit=2) == [PERMITTED]


async def test_the_limit_comes_before_the_stock(shop):
    await shop.has(0)
    assert await shop.ask("a", quantity=2, limit=1) == [limit(0)]


async def test_what_is_settled_no_longer_counts_against_the_limit(shop):
    await shop.has(100)
    await shop.ask("a", user="ann", limit=1)
    await shop.settle("a")
    assert await shop.ask("b", user="ann", limit=1) == [PERMITTED]


# The age of what the ledger said


async def test_sold_out_is_said_from_a_fresh_synchronisation_only(shop):
    await shop.has(0)
    shop.pass_ms(FRESH_MS)
    assert await shop.ask("a") == [sold_out(0)]
    shop.pass_ms(1)
    assert await shop.ask("a") == [UNSURE]


async def test_who_is_told_unsure_has_taken_nothing(shop):
    await shop.has(1)
    shop.pass_ms(FRESH_MS + 1)
    assert await shop.ask("a", quantity=2) == [UNSURE]
    assert await shop.ask("b") == [PERMITTED]


async def test_units_are_permitted_however_old_the_synchronisation_is(shop):
    await shop.has(1)
    shop.pass_ms(FRESH_MS * 100)
    assert await shop.ask("a") == [PERMITTED]


async def test_a_synchronisation_that_is_older_than_what_is_known_changes_nothing(shop):
    await shop.has(0, sku_seq=8)
    await shop.has(5, sku_seq=7)
    assert await shop.ask("a") == [sold_out(0)]


async def test_the_same_synchronisation_again_renews_its_age(shop):
    await shop.has(0, sku_seq=8)
    shop.pass_ms(FRESH_MS + 1)
    await shop.has(0, sku_seq=8)
    assert await shop.ask("a") == [sold_out(0)]


async def test_a_clock_that_was_set_back_makes_nothing_fresh(shop):
    await shop.has(0)
    shop.pass_ms(-60_000)
    assert await shop.ask("a") == [UNSURE]
    assert await shop.gate.availability([shop.line]) == [None]


# The life of a permit


async def test_a_permit_whose_request_never_reached_the_queue_lapses_after_3_seconds(shop):
    await shop.has(1)
    await shop.ask("a")
    shop.pass_ms(APPEND_MS - 1)
    await shop.has(1)
    assert await shop.ask("b") == [sold_out(0)]
    shop.pass_ms(1)
    assert await shop.ask("b") == [PERMITTED]


async def test_a_permit_whose_request_is_in_the_queue_lives_10_minutes(shop):
    await shop.has(1)
    await shop.ask("a")
    await shop.gate.appended([wish(shop.sale, "a")])
    shop.pass_ms(PERMIT_MS - 1)
    await shop.has(1)
    assert await shop.ask("b") == [sold_out(0)]
    shop.pass_ms(1)
    assert await shop.ask("b") == [PERMITTED]


async def test_what_has_lapsed_no_longer_counts_against_the_limit(shop):
    await shop.has(100)
    await shop.ask("a", user="ann", limit=1)
    shop.pass_ms(APPEND_MS)
    assert await shop.ask("b", user="ann", limit=1) == [PERMITTED]


async def test_a_permit_that_was_settled_before_its_append_was_told_stays_settled(shop):
    await shop.has(2)
    await shop.ask("a", "b")
    await shop.settle("a", available=2)
    await shop.gate.appended([wish(shop.sale, "a")])
    assert await shop.ask("c", "d") == [PERMITTED, sold_out(0)]


async def test_settling_takes_the_permit_away_and_the_figure_in_together(shop):
    await shop.has(2)
    await shop.ask("a", "b")
    await shop.settle("a", available=1)
    assert await shop.ask("c") == [sold_out(0)]
    await shop.settle("b", available=1, sku_seq=3)
    assert await shop.ask("c") == [PERMITTED]


async def test_settling_what_is_not_there_does_nothing(shop):
    await shop.has(1)
    await shop.settle("nobody", "nobody", "noone")
    assert await shop.ask("a", "b") == [PERMITTED, sold_out(0)]


async def test_any_number_is_settled_in_one_call(shop):
    ids = list(map(str, range(1300)))
    await shop.has(1300)
    await shop.ask(*ids)
    await shop.settle(*ids, available=2)
    assert await shop.ask("a", "b", "c") == [PERMITTED, PERMITTED, sold_out(0)]


# Availability


async def test_availability_is_what_the_ledger_said(shop):
    await shop.has(7)
    await shop.ask("a")
    assert await shop.gate.availability([shop.line, (shop.sale, "OTHER")]) == [7, None]
    await shop.has(0, sku_seq=2)
    assert await shop.gate.availability([shop.line]) == [0]


async def test_availability_is_unknown_when_the_ledger_said_it_more_than_a_second_ago(shop):
    await shop.has(7)
    shop.pass_ms(SHOWN_MS)
    assert await shop.gate.availability([shop.line]) == [7]
    shop.pass_ms(1)
    assert await shop.gate.availability([shop.line]) == [None]


# Rate limits


async def take(shop: Shop, bucket: str, rate: float, burst: int, cost: int = 1) -> tuple[bool, int, int, int]:
    return tuple((await shop.gate.take([Draft(bucket, rate, burst, cost)]))[0])


async def test_a_bucket_allows_its_burst_and_then_its_rate(shop):
    bucket = fresh("bucket")
    assert [await take(shop, bucket, 2, 3) for _ in range(4)] == [
        (True, 2, 0, 500), (True, 1, 0, 1000), (True, 0, 0, 1500), (False, 0, 500, 1500)
    ]  # fmt: skip
    shop.pass_ms(499)
    assert (await take(shop, bucket, 2, 3))[:3] == (True, 0, 0)  # rounding may allow a millisecond early
    assert (await take(shop, bucket, 2, 3))[0] is False
    shop.pass_ms(60_000)
    assert (await take(shop, bucket, 2, 3))[:2] == (True, 2)


async def test_a_bucket_is_not_filled_more_than_a_millisecond_early(shop):
    bucket = fresh("bucket")
    await take(shop, bucket, 0.01, 1)
    shop.pass_ms(100_000 - 2)
    assert await take(shop, bucket, 0.01, 1) == (False, 0, 2, 2)


async def test_a_refused_draft_costs_nothing(shop):
    bucket = fresh("bucket")
    await take(shop, bucket, 1, 5, cost=4)
    assert [(await take(shop, bucket, 1, 5, cost=2))[:3] for _ in range(3)] == [(False, 1, 1000)] * 3
    assert (await take(shop, bucket, 1, 5))[0] is True


async def test_a_cost_above_the_burst_is_never_allowed(shop):
    assert (await take(shop, fresh("bucket"), 1, 2, cost=3))[0] is False


async def test_a_clock_that_was_set_back_closes_a_bucket_for_no_longer_than_its_burst_takes(shop):
    bucket = fresh("bucket")
    await take(shop, bucket, 1, 2)
    shop.pass_ms(-3_600_000)
    assert await take(shop, bucket, 1, 2) == (False, 0, 1001, 2001)
    shop.pass_ms(1_000)
    assert (await take(shop, bucket, 1, 2))[0] is True


async def test_a_bucket_whose_rate_was_raised_owes_no_more_than_its_new_burst_takes(shop):
    bucket = fresh("bucket")
    await take(shop, bucket, 0.02, 1)
    assert (await take(shop, bucket, 10, 10))[0] is False
    shop.pass_ms(100)
    assert [(await take(shop, bucket, 10, 10))[0] for _ in range(2)] == [True, False]
    shop.pass_ms(1_000)
    assert [(await take(shop, bucket, 10, 10))[0] for _ in range(11)] == [True] * 10 + [False]


async def test_the_drafts_of_one_call_are_taken_one_after_the_other(shop):
    one, two = fresh("bucket"), fresh("bucket")
    drafts = [Draft(one, 1, 1), Draft(two, 1, 2), Draft(one, 1, 1), Draft(two, 1, 2), Draft(two, 1, 2)]
    assert [each.allowed for each in await shop.gate.take(drafts)] == [True, True, False, True, False]


async def test_32_callers_at_once_get_what_is_in_the_bucket_and_not_one_more(shop):
    draft = Draft(fresh("bucket"), 0.001, 1000)
    taken = await asyncio.gather(*(shop.gate.take([draft] * 50) for _ in range(32)))
    assert sum(each.allowed for allowances in taken for each in allowances) == 1000


async def test_a_request_is_allowed_by_all_its_buckets_or_takes_nothing_out_of_any(shop):
    small, large = fresh("bucket"), fresh("bucket")
    both = [Draft(small, 1, 1), Draft(large, 1, 10)]
    first, *others = await shop.gate.take_together([both] * 5)
    assert [tuple(each) for each in first] == [(True, 0, 0, 1000), (True, 9, 0, 1000)]
    assert [[tuple(each) for each in answers] for answers in others] == [
        [(False, 0, 1000, 1000), (True, 9, 0, 1000)]
    ] * 4
    assert (await take(shop, large, 1, 10, cost=9))[0] is True


async def test_what_requests_ask_for_together_is_answered_in_their_order_however_much_it_is(shop):
    buckets = [fresh("bucket") for _ in range(3)]
    requests = [[Draft(each, 0.001, 200) for each in buckets]] * 600 + [[]]
    taken = [[each.allowed for each in answers] for answers in await shop.gate.take_together(requests)]
    assert taken == [[True] * 3] * 200 + [[False] * 3] * 400 + [[]]


async def test_a_bucket_that_is_forgotten_is_full_again(shop):
    one, other = fresh("bucket"), fresh("bucket")
    for bucket in (one, other):
        await take(shop, bucket, 1, 1)
    await shop.gate.forget([one, fresh("nobody")])
    assert [(await take(shop, bucket, 1, 1))[0] for bucket in (one, other)] == [True, False]


async def test_looking_into_a_bucket_costs_nothing(shop):
    bucket = fresh("bucket")
    await take(shop, bucket, 1, 5, cost=4)
    assert [await take(shop, bucket, 1, 5, cost=0) for _ in range(3)] == [(True, 1, 0, 4000)] * 3


@pytest.mark.parametrize(
    "wrong", [{"rate_per_second": 0}, {"burst": 0}, {"cost": -1}, {"rate_per_second": float("inf")}]
)
def test_a_bucket_that_makes_no_sense_is_a_mistake(wrong):
    with pytest.raises(ValueError, match="a bucket has a rate above 0"):
        Draft(**{"bucket": "b", "rate_per_second": 1, "burst": 1} | wrong)


# Shared settings


@pytest.fixture
async def shared(shop):
    await forget_settings()
    yield shop.gate
    await forget_settings()


async def test_nothing_is_shared_before_something_is_set(shared):
    assert await shared.settings() == {}


async def test_changes_add_up_whatever_their_order(shared):
    await shared.put_settings({"rate": "20", "burst": "a:b"}, 7)
    await shared.put_settings({"rate": "10", "tier": ""}, 6)
    assert await shared.settings() == {"rate": "20", "burst": "a:b", "tier": "", "version": "7"}


async def test_shared_settings_stay_small(shared):
    with pytest.raises(ValueError, match="at most"):
        await shared.put_settings({str(each): "" for each in range(SHARED_SETTINGS_MAX + 1)}, 1)
    await shared.put_settings({str(each): "" for each in range(SHARED_SETTINGS_MAX)}, 1)
    with pytest.raises(ValueError, match="at most"):
        await shared.put_settings({"0": "changed", "one": "more"}, 2)
    with pytest.raises(ValueError, match="characters"):
        await shared.put_settings({"0": "x" * 1000}, 2)
    with pytest.raises(ValueError, match="name of its own"):
        await shared.put_settings({"version": "2"}, 2)
    found = await shared.settings()
    assert (len(found), found["0"], found["version"]) == (SHARED_SETTINGS_MAX + 1, "", "1")
