"""The limits in force, and the buckets a request takes out of.

From the thresholds (core/thresholds.py) follow the `Rates` that a process goes by, and from these and from who asks
the buckets of a request:

    at the door    his address (of IPv6 the networks /64, /56 and /48 together), and everybody: before his body is read
    inside         himself, and the sale of a purchase attempt: once it is known who asks, and for what

A tier is so many purchase attempts a minute in the place of the user's default. To read, to poll and to pay are no
purchase attempts: nobody is kept from paying by having bought.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from flashsale.core.rate_limit import Allowance, Draft, Pace, pace_of
from flashsale.core.refusal import Refusal, Refused
from flashsale.core.thresholds import Thresholds, Tier

NETWORKS_MAX = 65_536
"""Addresses of IPv6 whose networks are kept ready."""


# What a process goes by


class Limit(NamedTuple):
    """A limit in force. In a process's own buckets it has its share of it."""

    scope: str
    """What it is counted for: address, network, user, tier, sale or global."""
    per_second: float
    burst: int
    pace: Pace
    share: tuple[float, int]
    """Rate and burst of this process; `pace` is theirs."""


Bucket = tuple[str, Limit]
"""One out of it is wanted."""


class Rates(msgspec.Struct, frozen=True):
    """The thresholds as limits; None: there is none."""

    address: Limit | None
    networks: tuple[Limit, ...]
    """Of an address of IPv6: its /64, as an address of IPv4, its /56 and its /48."""
    everybody: Limit | None
    user: Limit | None
    sale: Limit | None
    tiers: dict[Tier, Limit | None]
    door: bool
    """Whether anything is counted before it is known who asks."""


def rates_of(thresholds: Thresholds, processes: int = 1) -> Rates:
    """`processes`: how many keep buckets of their own, among which the limits are divided."""
    t, n = thresholds, max(processes, 1)
    address = _limit("address", t.address_per_second, t.address_burst, n)
    everybody = _limit("global", t.global_per_second, t.global_burst, n)
    return Rates(
        address,
        tuple(_wider(address, times, n) for times in (1, t.network56_times, t.network48_times)) if address else (),
        everybody,
        _limit("user", t.user_per_second, t.user_burst, n),
        _limit("sale", t.sale_per_second, t.sale_burst, n),
        {
            "LIMITED": _tier(t.tier_limited_per_minute, n),
            "STANDARD": _tier(t.tier_standard_per_minute, n),
            "PREFERRED": _tier(t.tier_preferred_per_minute, n),
            "VIP": _tier(t.tier_vip_per_minute, n),
        },
        bool(address or everybody),
    )


def _limit(scope: str, per_second: float, burst: int, processes: int) -> Limit | None:
    if not per_second:
        return None
    return _shared(scope, per_second, burst or max(1, int(per_second)), processes)


def _shared(scope: str, per_second: float, burst: int, processes: int) -> Limit:
    share = per_second / processes, max(1, burst // processes)
    return Limit(scope, per_second, burst, pace_of(*share), share)


def _wider(address: Limit, times: int, processes: int) -> Limit:
    return _shared("network", address.per_second * times, address.burst * times, processes)


def _tier(per_minute: float, processes: int) -> Limit | None:
    """Its burst is what it has in a minute."""
    return _limit("tier", per_minute / 60, max(1, int(per_minute)), processes)


# What a request takes out of


def at_door(rates: Rates, address: str | None) -> list[Bucket]:
    """Before anything is known but where a request comes from; None: from this machine, or nobody knows."""
    found: list[Bucket] = []
    if rates.address is not None and address is not None:
        if ":" not in address:
            found.append(("a:" + address, rates.address))
        else:
            names = networks(address)
            found += zip(names, rates.networks if len(names) > 1 else (rates.address,), strict=True)
    if rates.everybody is not None:
        found.append(("g", rates.everybody))
    return found


def inside(rates: Rates, user_id: str | None, tier: Tier | None, attempt_at: str | None = None) -> list[Bucket]:
    """Once it is known who asks. `attempt_at`: the sale at which this is a purchase attempt, empty if there is no such
    sale; None: it is none."""
    found: list[Bucket] = []
    if user_id is not None:
        by_tier = tier is not None and attempt_at is not None
        limit = rates.tiers[tier] if by_tier else rates.user  # type: ignore[index]
        if limit is not None:
            found.append((("t:" if by_tier else "u:") + user_id, limit))
    if attempt_at and rates.sale is not None:
        found.append(("s:" + attempt_at, rates.sale))
    return found


def of_user(user_id: str) -> tuple[str, str]:
    """All buckets of a user."""
    return "u:" + user_id, "t:" + user_id


@lru_cache(maxsize=NETWORKS_MAX)
def networks(address: str) -> tuple[str, ...]:
    """The buckets of an address of IPv6: its /64, /56 and /48. One that is IPv4 inside is counted as that."""
    parsed = IPv6Address(address.partition("%")[0])
    if parsed.ipv4_mapped is not None:
        return (f"a:{parsed.ipv4_mapped}",)
    number = int(parsed)
    return tuple(f"n{width}:{number >> (128 - width):x}" for width in (64, 56, 48))


def drafts_of(wanted: Sequence[Bucket]) -> list[Draft]:
    """For a gate that all processes share."""
    return [Draft(name, limit.per_second, limit.burst) for name, limit in wanted]


def own_drafts_of(wanted: Sequence[Bucket]) -> list[Draft]:
    """For the buckets of one process."""
    return [Draft(name, *limit.share) for name, limit in wanted]


def look_at(drafts: Sequence[Draft]) -> list[Draft]:
    """The same buckets, to take nothing out of them."""
    return [replace(draft, cost=0) for draft in drafts]


# What is said of it

IN_WORDS = {
    "address": "from this address",
    "network": "from this network",
    "global": "in all",
    "user": "of this user",
    "tier": "to buy, of this user",
    "sale": "at this sale",
}


def refused(wanted: Sequence[Bucket], answers: Sequence[Allowance], tier: Tier | None = None) -> Refused | None:
    """The refusal of whoever is not allowed by all his buckets: of those that refuse, the one for which he has to wait
    longest."""
    refusing = [pair for pair in zip(wanted, answers, strict=True) if not pair[1].allowed]
    if not refusing:
        return None
    (_, limit), answer = max(refusing, key=lambda pair: pair[1].retry_after_ms)
    seconds = seconds_of(answer.retry_after_ms)
    details: dict[str, Any] = {
        "scope": limit.scope,
        "limit": limit.burst,
        "remaining": answer.remaining,
        "resetSeconds": seconds_of(answer.reset_ms),
        "retryAfterSeconds": seconds,
    }
    if tier is not None:
        details["tier"] = tier
    message = f"Too many requests {IN_WORDS[limit.scope]}: try again in {seconds} s"
    return Refused(Refusal.RATE_LIMITED, message, details)


def seconds_of(ms: int) -> int:
    """Whole seconds, never less than it takes."""
    return max(1, -(-ms // 1000))


# What an operator can do


class SetThresholds(msgspec.Struct, frozen=True, rename="camel"):
    """None: back to the default."""

    values: dict[str, float | None]
    actor: str


class SetTier(msgspec.Struct, frozen=True, rename="camel"):
    """None: as everybody. His buckets are full again."""

    user_id: str
    tier: Tier | None
    actor: str


class ResetUser(msgspec.Struct, frozen=True, rename="camel"):
    """His buckets are full again, in every process."""

    user_id: str
    actor: str


LimitsChange = SetThresholds | SetTier | ResetUser

AUDITED: dict[type[LimitsChange], str] = {
    SetThresholds: "limits.change",
    SetTier: "limits.tier",
    ResetUser: "limits.reset",
}
"""What the audit calls each."""

TIERS_MAX = 100_000
"""Users who have a tier of their own from an operator: every process knows all of them. Others have it by claim."""
FORGOTTEN_AFTER = 1_000
"""Changes, after which the row of a user without a tier is thrown away."""


class Fleet(NamedTuple):
    """The processes that answer buyers."""

    live: int
    behind: int
    """Of these, who go by an older version of the limits."""


LIVE_SECONDS = 3.0
"""For so long a process lives that says nothing more."""

Row = tuple[str, str | None]
"""A user and his tier; None: he has none, but was changed."""


class News(NamedTuple):
    """What has changed since a version of the limits."""

    version: int
    rows: dict[str, Any]
    """All thresholds that were set."""
    users: Sequence[Row]
    """Those that were changed since."""
    whole: bool
    """Whether `users` is all there are: who is not among them has no tier."""


class State(NamedTuple):
    """Of the book of limits."""

    version: int
    tiers: int
    """How many users have one."""
    forgotten: int
    """Users without a tier may be missing up to this version."""

    def is_whole_after(self, version: int) -> bool:
        """Whether somebody with this version needs everything: he has missed something, or the book was restored."""
        return version < self.forgotten or version == 0 or version > self.version


class Turn(NamedTuple):
    """What a change writes."""

    state: State
    thresholds: Mapping[str, float | None]
    users: Sequence[tuple[str, str | None, int]]
    forget_to: int

    def after(self, gone: int) -> State:
        """The state, once so many users were forgotten."""
        return self.state._replace(forgotten=self.forget_to) if gone else self.state


def subject_of(change: LimitsChange) -> str:
    """Whom it is about."""
    return "limits" if isinstance(change, SetThresholds) else change.user_id


def turned(state: State, change: LimitsChange, tier: str | None) -> Turn | Refused:
    """`tier`: what the user has whom it is about."""
    version = state.version + 1
    if isinstance(change, SetThresholds):
        return Turn(state._replace(version=version), change.values, (), version - FORGOTTEN_AFTER)
    wanted = change.tier if isinstance(change, SetTier) else tier
    more = (wanted is not None) - (tier is not None)
    if more > 0 and state.tiers >= TIERS_MAX:
        message = f"{TIERS_MAX} users have a tier of their own, which is the most: give tiers by a claim of the token"
        return Refused(Refusal.ILLEGAL_STATE, message, {"limit": TIERS_MAX})
    after = state._replace(version=version, tiers=state.tiers + more)
    return Turn(after, {}, [(change.user_id, wanted, version)], version - FORGOTTEN_AFTER)
