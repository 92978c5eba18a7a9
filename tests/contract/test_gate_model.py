"""Redis and the rules of core/permits.py give the same answers, whatever the sequence."""

import asyncio

from contract.gates import Held, fresh, held
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flashsale.core.permits import Permit, Synchronised, Wish
from flashsale.core.rate_limit import Draft

SKUS = st.sampled_from(["PHONE", "CASE"])
NAMES = st.sampled_from([f"res_{each}" for each in "abcdefgh"])
WISHES = st.builds(
    Wish, NAMES, st.sampled_from(["ann", "bob", "eve"]), st.just(""), SKUS, st.integers(1, 3), st.integers(1, 4),
    st.sampled_from(["p", "p", "p", "q"]),
)  # fmt: skip
ROWS = st.tuples(SKUS, st.integers(0, 6), st.integers(1, 5))
DRAFTS = st.builds(
    Draft, st.sampled_from("xy"), st.sampled_from([0.3, 1.0, 7.0, 33.3]), st.integers(1, 5), st.integers(0, 6)
)

STEPS = st.one_of(
    st.tuples(st.just("permit"), st.lists(WISHES, max_size=6)),
    st.tuples(st.just("appended"), st.lists(WISHES, max_size=3)),
    st.tuples(st.just("queued"), st.lists(WISHES, max_size=3)),
    st.tuples(st.just("settle"), st.lists(st.tuples(SKUS, st.lists(NAMES, max_size=3)), max_size=2), st.lists(ROWS)),
    st.tuples(st.just("synchronise"), st.lists(ROWS, max_size=3)),
    st.tuples(st.just("availability"), st.lists(SKUS, max_size=3)),
    st.tuples(st.just("take"), st.lists(DRAFTS, max_size=4)),
    st.tuples(
        st.just("together"), st.lists(st.lists(DRAFTS, max_size=3, unique_by=lambda each: each.bucket), max_size=3)
    ),
    st.tuples(st.just("forget"), st.lists(st.sampled_from("xyz"), min_size=1, max_size=2)),
    st.tuples(st.just("pass"), st.sampled_from([0, 1, 100, 250, 251, 1001, 2999, 3000, 60_000, 600_000])),
)


SLOW, REFUSED = Draft("y", 0.3, 2, 2), Draft("x", 0.3, 1, 2)
SMALLER, AS_BEFORE = Draft("y", 0.3, 1, 0), Draft("y", 0.3, 2, 0)


@settings(max_examples=150, deadline=None)
@example([("together", [[SLOW], [REFUSED, SMALLER]]), ("take", [AS_BEFORE])])
@given(st.lists(STEPS, max_size=25))
def test_redis_answers_as_the_rules_do(steps):
    asyncio.run(compare(steps))


async def compare(steps: list[tuple]) -> None:
    sale = fresh()
    async with held("memory") as model, held("redis") as tried:
        for step in steps:
            assert await done(tried, sale, *step) == await done(model, sale, *step), step


async def done(on: Held, sale: str, what: str, *told: object) -> list[Permit] | list[int | None] | None:
    gate = on.gate
    match what, *told:
        case "pass", ms:
            on.pass_ms(ms)
        case "settle", lines, rows:
            return await gate.settle([((sale, sku), ids) for sku, ids in lines], rows_of(sale, rows))
        case "synchronise", rows:
            return await gate.synchronise(rows_of(sale, rows))
        case "availability", skus:
            return await gate.availability([(sale, sku) for sku in skus])
        case "take", drafts:
            return await gate.take(of(sale, drafts))
        case "together", requests:
            return await gate.take_together([of(sale, drafts) for drafts in requests])
        case "forget", names:
            return await gate.forget([sale + name for name in names])
        case _, wishes:
            of_sale = [
                Wish(each.reservation_id, each.user_id, sale, each.sku_id, each.quantity, each.per_user_limit,
                     each.fingerprint)
                for each in wishes
            ]  # fmt: skip
            return await getattr(gate, what)(of_sale)
    return None


def of(sale: str, drafts: list[Draft]) -> list[Draft]:
    return [Draft(sale + each.bucket, each.rate_per_second, each.burst, each.cost) for each in drafts]


def rows_of(sale: str, rows: list[tuple[str, int, int]]) -> list[Synchronised]:
    return [Synchronised(sale, *row) for row in rows]
