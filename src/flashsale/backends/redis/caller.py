"""Calls to Redis: bounded, never cancelled, refused while the breaker of their node is open.

A caller may be cancelled; its call goes on to its end in a task of its own, because a connection that is left in the
middle of an answer gives that answer to whoever uses it next (CVE-2023-28858). Calls are bounded instead: by time-outs,
by the number of connections, and by how many may wait for one.

Each node that fails has a breaker of its own, so that one lost master of a cluster takes no other's products away. It
probes where its last failed call went: when a replica has taken over there, the probe finds it.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from flashsale.backends.redis.breaker import Breaker
from flashsale.backends.redis.connect import (
    CALL_SECONDS,
    CLUSTER,
    CLUSTER_CONNECTIONS,
    CONNECTIONS,
    FAILING,
    Address,
    Script,
    connect,
    node_of,
    run,
    words,
)
from flashsale.ports import GateAway

WAITING_MAX = 256
"""Callers whose calls are under way or wait for a connection; beyond it the gate is away for the next one."""


class Call(NamedTuple):
    script: Script
    keys: list[str]
    arguments: tuple[str | int | bytes, ...]


class Caller:
    """For one event loop."""

    def __init__(self, address: Address, probe_at: Callable[[str], Call]) -> None:
        """`probe_at` makes what is tried while a node is away: it writes, as the calls do, at a key's place."""
        self._address = address
        self._client = connect(address)
        self._probe_at = probe_at
        self._connections = asyncio.Semaphore(CLUSTER_CONNECTIONS if address.scheme == CLUSTER else CONNECTIONS)
        self._tasks: set[asyncio.Task[list[Any]]] = set()
        self._breakers: dict[str, Breaker] = {}
        """Of the nodes whose last call failed."""

    @property
    def trouble(self) -> str | None:
        return next((breaker.trouble for breaker in self._breakers.values()), None)

    async def each(self, slots: Sequence[Sequence[Call]]) -> list[Any]:
        """What each call is answered, in order; a GateAway in the place of one that failed. The calls of one slot are
        made one after the other, so that first come is first served, and slots beside each other."""
        if len(self._tasks) >= WAITING_MAX:
            raise GateAway(f"{self._address.name}: {WAITING_MAX} callers wait already")
        task = asyncio.create_task(self._each(slots))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _each(self, slots: Sequence[Sequence[Call]]) -> list[Any]:
        if len(slots) == 1:
            return await self._in_order(slots[0])
        found = await asyncio.gather(*map(self._in_order, slots))
        return [outcome for outcomes in found for outcome in outcomes]

    async def _in_order(self, calls: Sequence[Call]) -> list[Any]:
        return [await self._outcome(call) for call in calls]

    async def _outcome(self, call: Call) -> Any:
        try:
            self._require_closed(call)
            async with asyncio.timeout(CALL_SECONDS):
                await self._connections.acquire()
        except GateAway as away:
            return away
        except TimeoutError:
            return GateAway(f"{self._address.name}: no connection became free in {CALL_SECONDS} s")
        try:
            self._require_closed(call)  # it may have opened meanwhile
            return await self._run(call)
        except GateAway as away:
            return away
        finally:
            self._connections.release()

    def _require_closed(self, call: Call) -> None:
        breaker = self._breakers.get(node_of(self._client, call.keys[0]))
        if breaker is not None:
            breaker.require_closed()

    async def _run(self, call: Call) -> Any:
        node = node_of(self._client, call.keys[0])
        try:
            answer = await run(self._client, call.script, call.keys, *call.arguments)
        except FAILING as error:
            why = words(error, self._address)
            self._breaker_of(node, call.keys[0]).failed(why)
            raise GateAway(why) from error
        if breaker := self._breakers.get(node):
            breaker.succeeded()
        return answer

    def _breaker_of(self, node: str, key: str) -> Breaker:
        probe = partial(self.probe, key)
        breaker = self._breakers.get(node)
        if breaker is None:
            breaker = self._breakers[node] = Breaker(probe, lambda: self._forget(node))
        breaker.probe = probe
        return breaker

    def _forget(self, node: str) -> None:
        self._breakers.pop(node, None)

    async def probe(self, key: str) -> None:
        """One call past the breakers, to where this key is. Raises GateAway."""
        call = self._probe_at(key)
        try:
            await run(self._client, call.script, call.keys, *call.arguments)
        except FAILING as error:
            raise GateAway(words(error, self._address)) from error

    async def greet(self, key: str) -> None:
        """The first call; if it fails, the gate is away until a probe succeeds."""
        try:
            await self.probe(key)
        except GateAway as away:
            self._breaker_of(node_of(self._client, key), key).open(str(away))

    async def close(self) -> None:
        for breaker in list(self._breakers.values()):
            await breaker.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()
