"""Composition: which backends and flows the settings make.

Here and nowhere else a setting becomes a ledger, a gate, a queue, a provider; `engine.py` puts them to work.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

from flashsale.backends.challenges import AltchaChallenges
from flashsale.backends.clock import HeardClock, SteadyClock
from flashsale.backends.jwks import json_web_keys
from flashsale.backends.memory import BUCKETS_MAX, MEMBERS_MAX, MemoryGate
from flashsale.backends.sandbox import KeptSandbox, SandboxProvider
from flashsale.backends.sqlite.history import SqliteHistory
from flashsale.backends.sqlite.leases import SqliteLeases
from flashsale.backends.sqlite.ledger import SqliteLedger
from flashsale.backends.sqlite.limits import SqliteLimits
from flashsale.backends.sqlite.risk_log import SqliteRiskLog
from flashsale.core.rate_limit import Buckets
from flashsale.core.thresholds import Thresholds
from flashsale.flow import admit, consume, expire, publish, settle
from flashsale.flow.decisions import Decisions, RiskLog
from flashsale.flow.in_force import InForce, LimitBook
from flashsale.flow.judging import Challenges, Judging
from flashsale.flow.lease import Always, Lease, Never, Turn
from flashsale.flow.ledger_queue import LedgerQueue, LedgerQueues
from flashsale.flow.limiting import Limiting
from flashsale.flow.prune import Keeping
from flashsale.flow.publish import Publishing, Source
from flashsale.flow.relays import Relays
from flashsale.flow.reserve import Granting
from flashsale.flow.storefront import Storefront
from flashsale.ports import (
    Clock,
    Deliveries,
    Gate,
    History,
    Leases,
    LedgerUnavailable,
    PaymentProvider,
    Queue,
    WholeLedger,
)
from flashsale.settings import Settings
from flashsale.token_keys import TokenKeys

try:
    from flashsale.backends import postgres as installed
except ModuleNotFoundError as missing:
    if missing.name != "asyncpg":
        raise
    installed = None  # type: ignore[assignment]  # the extra is not installed

try:
    from flashsale.backends import kafka as installed_kafka
except ModuleNotFoundError as missing:
    if missing.name != "confluent_kafka":
        raise
    installed_kafka = None  # type: ignore[assignment]  # the extra is not installed

try:
    from flashsale.backends import redis as installed_redis
except ModuleNotFoundError as missing:
    if missing.name != "redis":
        raise
    installed_redis = None  # type: ignore[assignment]  # the extra is not installed


RATES = {"open": (0.0, 0.0)}
RATES_OF_STRANGERS = (10.0, 20.0)
"""Requests a second of an address and of a user, by the setting `identity`."""

Fatal = Callable[[Exception], None]


class ExtraMissing(Exception):
    """The settings name a backend whose driver is not installed; the message says how to install it."""


class End(Protocol):
    """One end of a queue at a broker."""

    @property
    def trouble(self) -> str | None:
        """Why nothing goes in, or comes out, in words for the operator; None while it does."""


class Line(NamedTuple):
    """Where the requests of queued sales wait: the way in, the ways out, and a gate that all processes share, which
    keeps the losers away. None: there is none, and the shop window has to do."""

    queue: Queue
    sources: Sequence[Deliveries]
    permits: Gate | None
    ends: Sequence[End] = ()
    """At a broker, if there is one: those that this process has."""


class Database(NamedTuple):
    """What has its own events, leases and history: the ledger, or each of its databases."""

    source: Source
    leases: Leases
    history: History


class Store(NamedTuple):
    """A ledger as it was opened."""

    ledger: WholeLedger
    databases: Sequence[Database]
    limits: LimitBook
    risk_log: RiskLog
    away: Callable[[], Mapping[int, str]] = dict
    """Of each of several databases that is away, why."""


class Risk(NamedTuple):
    """What judges visitors, what it has decided, and what a suspect has to do. No judge: nobody is judged."""

    judging: Judging | None
    decisions: Decisions
    challenges: Challenges

    @property
    def granted(self) -> Granting | None:
        """Who is to hear of what was reserved."""
        return None if self.judging is None else self.judging.granted


class Turns(NamedTuple):
    """What one process of a ledger does at a time, and whether that is this one."""

    sweep: Turn
    resume: Turn
    admit: Turn


def _postgres() -> ModuleType:
    if installed is None:
        raise ExtraMissing("a ledger on PostgreSQL needs asyncpg: pip install 'flashsale[postgres]'")
    return installed


def _kafka() -> ModuleType:
    if installed_kafka is None:
        raise ExtraMissing("a broker needs confluent-kafka: pip install 'flashsale[kafka]'")
    return installed_kafka


def _redis() -> ModuleType:
    if installed_redis is None:
        raise ExtraMissing("a gate on Redis needs redis: pip install 'flashsale[redis]'")
    return installed_redis


async def migrate_postgres(urls: Sequence[str]) -> list[str]:
    """Brings the schema of a ledger on PostgreSQL up to this version, and several databases into their places; the
    names of what was applied."""
    applied: list[str] = await _postgres().migrate_all(urls)
    return applied


async def postgres_facts(url: str, shard_id: int = 0, shards: int = 1, ledger_id: str | None = None) -> Any:
    """What `flashsale doctor` wants to know of a server: `backends.postgres.facts.Facts`."""
    return await _postgres().facts(url, shard_id, shards, ledger_id)


def kafka_facts(settings: Settings) -> Any:
    """What `flashsale doctor` wants to know of the broker: `backends.kafka.topics.Facts`. Raises BrokerUnavailable."""
    kafka = _kafka()
    return kafka.facts(kafka.Connection(settings.broker), kafka.Plan(settings.partitions, settings.replication))


async def redis_facts(url: str) -> list[Any]:
    """What `flashsale doctor` wants to know of the gate's servers: `backends.redis.connect.Facts`."""
    return list(await _redis().facts(url))


def clock_of(settings: Settings) -> Clock:
    """The ledger's time; a ledger that others share tells it."""
    return HeardClock() if settings.postgres_url else SteadyClock()


async def open_store(
    settings: Settings, clock: Clock, storefront: Storefront, on_fatal: Fatal | None, stack: AsyncExitStack
) -> Store:
    """Closed by the stack."""
    store = await _opened(settings, clock, storefront, on_fatal)
    stack.push_async_callback(store.ledger.close)
    stack.push_async_callback(store.limits.close)
    stack.push_async_callback(store.risk_log.close)
    for database in store.databases:
        stack.push_async_callback(database.leases.close)
        stack.push_async_callback(database.history.close)
    return store


async def _opened(settings: Settings, clock: Clock, storefront: Storefront, on_fatal: Fatal | None) -> Store:
    queue_max, batch_max, urls = settings.queue_max, settings.batch_max, settings.postgres_urls
    if not urls:
        file = await SqliteLedger.open(settings.ledger_path, clock, storefront, queue_max, batch_max, on_fatal)
        database = Database(file, SqliteLeases(file.move), SqliteHistory(file.move))
        return Store(file, [database], SqliteLimits(file.move), SqliteRiskLog(file.move))
    postgres = _postgres()
    # Each database has its own time; the window and the loops go by that of the first.
    clocks = [clock, *(HeardClock() for _ in urls[1:])]
    beside = [
        (postgres.PostgresLeases(url, heard), postgres.PostgresHistory(url))
        for url, heard in zip(urls, clocks, strict=True)
    ]
    limits, risk_log = postgres.PostgresLimits(urls[0]), postgres.PostgresRiskLog(urls[0])
    if len(urls) == 1:
        ledger = await postgres.PostgresLedger.open(urls[0], clock, storefront, queue_max, batch_max)
        return Store(ledger, [Database(ledger, *beside[0])], limits, risk_log)
    shards = await postgres.ShardedLedger.open(urls, clocks, storefront, queue_max, batch_max)
    databases = [Database(shard, *each) for shard, each in zip(shards.shards, beside, strict=True)]
    return Store(shards, databases, limits, risk_log, lambda: shards.away)


class Owned:
    """The leases of this process, each given back at its end."""

    def __init__(self, databases: Sequence[Database], clock: Clock, stack: AsyncExitStack) -> None:
        self._databases = databases
        self.clock = clock
        self._stack = stack
        self.owner = secrets.token_hex(8)
        self.taken: list[Lease] = []

    def take(self, name: str, number: int = 0) -> Lease:
        """A lease of one of the ledger's databases: the first, if what it is for concerns all of them."""
        shown = f"{name} {number}" if number else name
        lease = Lease(self._databases[number].leases, name, self.owner, self.clock, shown)
        self._stack.push_async_callback(_leave, lease)
        self.taken.append(lease)
        return lease


async def _leave(lease: Lease) -> None:
    with suppress(LedgerUnavailable):  # it runs out by itself
        await lease.close()


def keeping_of(settings: Settings) -> Keeping:
    relays = (publish.LEASE,) if settings.broker else ()
    return Keeping(settings.keep_events_days, settings.keep_events, relays)


def turns_of(settings: Settings, owned: Owned) -> Turns:
    if settings.postgres_url is None:
        return Turns(Always(), Always(), Always())
    if not settings.runs("sweep"):
        return Turns(Never(), Never(), Never())
    return Turns(owned.take(expire.LEASE), owned.take(settle.LEASE), owned.take(admit.LEASE))


def _consuming_turn(settings: Settings, owned: Owned, number: int) -> Turn:
    if settings.postgres_url is None:
        return Always()
    return owned.take(consume.LEASE, number) if settings.runs("consume") else Never()


def line_of(
    settings: Settings, store: Store, storefront: Storefront, gate: Gate, owned: Owned, stack: AsyncExitStack
) -> Line:
    permits = gate if settings.postgres_url is None or settings.redis_url is not None else None
    own = [
        LedgerQueue(
            store.ledger, storefront, owned.clock, _consuming_turn(settings, owned, number).held,
            database.source, number,
        )
        for number, database in enumerate(store.databases)
    ]  # fmt: skip
    if not settings.broker:
        return Line(LedgerQueues(store.ledger, own), own, permits)
    kafka = _kafka()
    connection, plan = kafka.Connection(settings.broker), kafka.Plan(settings.partitions, settings.replication)
    queue = kafka.KafkaQueue(connection, plan)
    stack.push_async_callback(queue.close)
    if not settings.runs("consume"):
        return Line(queue, (), permits, (queue,))
    deliveries = kafka.KafkaDeliveries(connection, plan)
    stack.push_async_callback(deliveries.close)
    return Line(queue, (*own, deliveries), permits, (queue, deliveries))


def limits_of(settings: Settings) -> Thresholds:
    """The thresholds as long as no operator has set any."""
    per_address, per_user = RATES.get(settings.identity, RATES_OF_STRANGERS)
    return Thresholds(
        address_per_second=per_address if settings.rate_per_address is None else settings.rate_per_address,
        user_per_second=per_user if settings.rate_per_user is None else settings.rate_per_user,
        global_per_second=settings.rate_global,
    )


def limiting_of(settings: Settings, clock: Clock, gate: Gate) -> Limiting:
    """A gate in this process is asked without a coroutine."""
    if isinstance(gate, MemoryGate):
        return Limiting(limits_of(settings), gate.buckets, clock)
    return Limiting(limits_of(settings), Buckets(BUCKETS_MAX), clock, gate)


async def open_in_force(
    settings: Settings, store: Store, limiting: Limiting, owner: str, stack: AsyncExitStack
) -> InForce:
    """Comes with what operators have set."""
    in_force = InForce(store.limits, limiting, limits_of(settings), owner)
    stack.push_async_callback(in_force.leave)
    await in_force.load()
    return in_force


def risk_of(
    settings: Settings, store: Store, clock: Clock, limiting: Limiting, gate: Gate, stack: AsyncExitStack
) -> Risk:
    """Where whoever asks is believed whatever he says, nobody is judged by it."""
    decisions = Decisions(store.risk_log, clock)
    stack.push_async_callback(decisions.write)
    challenges = AltchaChallenges(store.ledger.secret, clock)
    if settings.identity == "open" or settings.risk == "off":
        return Risk(None, decisions, challenges)
    secret, shared = store.ledger.secret, None if isinstance(gate, MemoryGate) else gate
    judging = Judging(clock, limiting, Buckets(BUCKETS_MAX), MEMBERS_MAX, challenges, decisions, secret, shared)
    return Risk(judging, decisions, challenges)


async def open_gate(settings: Settings, clock: Clock) -> Gate:
    """A Redis that is away is no reason not to open: nothing needs it to be right."""
    if settings.redis_url is None:
        return MemoryGate(clock)
    opened: Gate = await _redis().RedisGate.open(settings.redis_url)
    return opened


def publishing_of(
    settings: Settings, databases: Sequence[Database], owned: Owned, stack: AsyncExitStack
) -> Relays | None:
    if not settings.broker or not settings.runs("publish"):
        return None
    kafka = _kafka()
    parts = []
    leases = [owned.take(publish.LEASE, number) for number in range(len(databases))]
    for database, lease in zip(databases, leases, strict=True):
        broker = kafka.KafkaBroker(kafka.Connection(settings.broker))  # each for one caller at a time
        stack.push_async_callback(broker.close)
        parts.append(Publishing(database.source, lease, broker, owned.clock))
    relays = Relays(parts)
    stack.push_async_callback(relays.stop)
    return relays


async def open_keys(settings: Settings, stack: AsyncExitStack) -> TokenKeys | None:
    """A key set that cannot be read now is no reason not to open: it is read again soon, and health says so."""
    if settings.identity != "jwt" or not settings.jwt_jwks:
        return None
    keys = json_web_keys(settings.jwt_jwks)
    stack.push_async_callback(keys.close)
    await keys.look()
    return keys


async def open_provider(settings: Settings, stack: AsyncExitStack) -> PaymentProvider:
    if settings.sandbox_url:
        provider = SandboxProvider(settings.sandbox_url, settings.provider_seconds)
    else:
        sandbox = await stack.enter_async_context(KeptSandbox(Path(settings.data) / "sandbox.db"))
        provider = SandboxProvider(sandbox.url, settings.provider_seconds)
    stack.push_async_callback(provider.close)
    return provider
