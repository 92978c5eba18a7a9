"""Limiting: whether a request may go on, by the buckets it takes out of.

Where buckets are in this process it is answered at once, without a task, a future or an answer that nobody reads: a
reservation passes all its limits in about 3 us. Where all processes share a gate, what comes in one turn of the loop is
one call. While that gate is away, each process goes by its own buckets and its share of each limit: the whole divided
by the number of processes that live. So do several processes without a shared gate: together they never allow more
than the limit, and who always meets the same one of them gets less.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import copy_context
from typing import NamedTuple

from flashsale.answering import tell
from flashsale.core.limits import (
    Bucket,
    Limit,
    Rates,
    drafts_of,
    inside,
    look_at,
    of_user,
    own_drafts_of,
    rates_of,
    refused,
)
from flashsale.core.rate_limit import Allowance, Buckets, at_us
from flashsale.core.refusal import Refused
from flashsale.core.thresholds import TIERS, Thresholds, Tier
from flashsale.flow.gathering import Gathering
from flashsale.ports import Clock, Gate, GateAway

REQUESTS_MAX = 128
"""Of one call to the gate."""

Told = Callable[[Refused | None], None]
"""Takes the refusal; None: the request may go on."""


class Wanted(NamedTuple):
    """What a request takes out of, and who is told."""

    buckets: Sequence[Bucket]
    tier: Tier | None
    reply: Told


class Limiting:
    """For one event loop. What is in force is set by `flow/in_force.py`."""

    def __init__(self, thresholds: Thresholds, own: Buckets, clock: Clock, gate: Gate | None = None) -> None:
        """`own`: the buckets of this process; `gate`: one that all processes share."""
        self._own = own
        self._clock = clock
        self._gate = gate
        self._gathering = Gathering(self._ask, REQUESTS_MAX)
        self.thresholds = thresholds
        self.processes = 1
        self.tiers: dict[str, Tier] = {}
        """Of the users to whom an operator gave one."""
        self.rates: Rates = rates_of(thresholds)

    def set(self, thresholds: Thresholds, processes: int) -> None:
        if (thresholds, processes) != (self.thresholds, self.processes):
            self.thresholds, self.processes = thresholds, processes
            self.rates = rates_of(thresholds, processes)

    def attempt(
        self, user_id: str, claimed: str | None, sale_id: str, reply: Told, wanted: Sequence[Bucket] = ()
    ) -> None:
        """Takes out what a purchase attempt needs, once it is known who asks and at which sale; empty: there is no
        such sale. `claimed`: the tier that his identity names; `wanted`: what else it needs."""
        tier = self.tier_of(user_id, claimed)
        buckets = inside(self.rates, user_id, tier, sale_id)
        self.take([*wanted, *buckets] if wanted else buckets, reply, tier)

    def tier_of(self, user_id: str, claimed: str | None) -> Tier | None:
        """What an operator gave him; else what his token says."""
        given = self.tiers.get(user_id)
        return given if given is not None or claimed is None else TIERS.get(claimed)

    def take(self, buckets: Sequence[Bucket], reply: Told, tier: Tier | None = None) -> None:
        """One out of each, or none out of any. `reply` is called once, maybe before this returns."""
        if not buckets:
            reply(None)
        elif self._gate is None:
            reply(self._taken_here(buckets, tier))
        else:
            # What follows belongs to the request, and not to those that go with it to the gate.
            context = copy_context()
            self._gathering.add(Wanted(buckets, tier, lambda refused: context.run(reply, refused)))

    def _taken_here(self, buckets: Sequence[Bucket], tier: Tier | None) -> Refused | None:
        now_us = at_us(self._clock.now_ms())
        if self._own.admits(buckets, now_us):
            return None
        return refused(buckets, self._own.take_together(own_drafts_of(buckets), now_us), tier)

    async def _ask(self, asked: list[Wanted]) -> None:
        assert self._gate is not None
        try:
            answers = await self._gate.take_together([drafts_of(each.buckets) for each in asked])
        except GateAway:
            told = [self._taken_here(each.buckets, each.tier) for each in asked]
        else:
            told = [refused(each.buckets, answer, each.tier) for each, answer in zip(asked, answers, strict=True)]
        for each, refusal in zip(asked, told, strict=True):
            tell(each.reply, refusal)

    # What operators ask

    async def standing(self, user_id: str) -> list[tuple[Limit, Allowance]]:
        """How a user's buckets stand; nothing is taken out of them."""
        buckets = [*inside(self.rates, user_id, None), *inside(self.rates, user_id, self.tiers.get(user_id), "")]
        buckets = [each for each in dict(buckets).items() if each[1].scope in ("user", "tier")]
        return [*zip((limit for _, limit in buckets), await self._look(buckets), strict=True)]

    async def _look(self, buckets: Sequence[Bucket]) -> list[Allowance]:
        if self._gate is not None:
            with suppress(GateAway):
                return await self._gate.take(look_at(drafts_of(buckets)))
        now_us = at_us(self._clock.now_ms())
        return [self._own.take(draft, now_us) for draft in look_at(own_drafts_of(buckets))]

    def forget_here(self, user_id: str) -> None:
        self._own.forget(of_user(user_id))

    async def forget(self, user_id: str) -> None:
        """A user's buckets are full again, at the gate too. Raises GateAway."""
        self.forget_here(user_id)
        if self._gate is not None:
            await self._gate.forget(of_user(user_id))
