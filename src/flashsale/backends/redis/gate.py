"""The gate port on Redis: what has gathered is one Lua call for each hash slot.

On a single server everything is one slot, so that a call may be about many products; in a cluster the keys of one
product are kept together by their hash tag. Every call may be repeated: permits are counted by reservation id, and a
synchronisation by its sequence. Taking from a bucket twice only makes a limit stricter.
"""

from collections.abc import Callable, Sequence
from itertools import chain, groupby, islice
from typing import Any, NamedTuple, TypeVar

import msgspec

from flashsale.backends.gate_calls import SHARED_SETTINGS_MAX, by, require_small, settlements, shown
from flashsale.backends.redis.caller import Call, Caller
from flashsale.backends.redis.connect import Script, address_of, load_script, slot_of
from flashsale.core.books import Line
from flashsale.core.permits import Permit, Synchronised, Verdict, Wish
from flashsale.core.rate_limit import Allowance, Draft
from flashsale.core.sighting import Sighting
from flashsale.core.signs import Back, Signs
from flashsale.ports import GateAway

BATCH_MAX = 512
"""Wishes, ids or drafts of one call; more are cut into several."""
SETTINGS_KEY = "fs:settings"

_pack = msgspec.msgpack.Encoder().encode
_read_permits = msgspec.msgpack.Decoder(list[list[Permit]]).decode
_read_available = msgspec.msgpack.Decoder(list[list[int]]).decode
_read_flags = msgspec.msgpack.Decoder(list[list[bool]]).decode
_read_nothing = msgspec.msgpack.Decoder(list[int]).decode
_read_signs = msgspec.msgpack.Decoder(Signs).decode
_read_allowances = msgspec.msgpack.Decoder(list[Allowance]).decode
_read_counts = msgspec.msgpack.Decoder(list[int]).decode

T = TypeVar("T")


class Scripts(NamedTuple):
    gate: Script
    buckets: Script
    forget: Script
    settings: Script
    sightings: Script
    signs: Script


class Part(NamedTuple):
    """What a call says of one product, and which places of its caller's list that is about."""

    line: Line
    places: Sequence[int]
    told: Any


class RedisGate:
    """For one event loop. Made by `RedisGate.open`."""

    def __init__(self, url: str, scripts: Scripts) -> None:
        address = address_of(url)
        self.scripts = scripts
        self._slot = slot_of(address)
        self._caller = Caller(address, lambda key: _probe(scripts.buckets, key))

    @classmethod
    async def open(cls, url: str) -> "RedisGate":
        """A server that is away is no error: the gate is in trouble until it comes."""
        gate = cls(url, Scripts(*map(load_script, Scripts._fields)))
        await gate._caller.greet(SETTINGS_KEY)
        return gate

    @property
    def trouble(self) -> str | None:
        return self._caller.trouble

    async def permit(self, wishes: Sequence[Wish]) -> list[Permit]:
        answers = [Permit(Verdict.UNSURE)] * len(wishes)
        answered, away = await self._ask("permit", _cut(wishes, [wish.line for wish in wishes]), _read_permits)
        _require_any(answered, away)
        for part, decided in answered:
            for place, permit in zip(part.places, decided, strict=True):
                answers[place] = permit
        return answers

    async def appended(self, wishes: Sequence[Wish]) -> None:
        parts = _cut([wish.reservation_id for wish in wishes], [wish.line for wish in wishes])
        _require_all(await self._ask("appended", parts, _read_nothing))

    async def queued(self, wishes: Sequence[Wish]) -> list[bool]:
        answers = [False] * len(wishes)
        parts = _cut(wishes, [wish.line for wish in wishes])
        answered, away = await self._ask("queued", parts, _read_flags)
        _require_any(answered, away)
        for part, flags in answered:
            for place, flag in zip(part.places, flags, strict=True):
                answers[place] = flag
        return answers

    async def settle(self, lines: Sequence[tuple[Line, Sequence[str]]], synchronised: Sequence[Synchronised]) -> None:
        found = settlements(lines, synchronised)
        parts = [part for line, (ids, told) in found.items() for part in _settlement(line, ids, told)]
        _require_all(await self._ask("settle", parts, _read_nothing))

    async def synchronise(self, rows: Sequence[Synchronised]) -> None:
        await self.settle((), rows)

    async def availability(self, lines: Sequence[Line]) -> list[int | None]:
        answers: list[int | None] = [None] * len(lines)
        parts = [Part(line, (place,), 0) for place, line in enumerate(lines)]
        answered, away = await self._ask("availability", parts, _read_available)
        _require_any(answered, away)
        for part, known in answered:
            answers[part.places[0]] = known[0] if known else None
        return answers

    async def take(self, drafts: Sequence[Draft]) -> list[Allowance]:
        return [answer for (answer,) in await self.take_together([(draft,) for draft in drafts])]

    async def take_together(self, requests: Sequence[Sequence[Draft]]) -> list[list[Allowance]]:
        drafts = [draft for request in requests for draft in request]
        whose = [number for number, request in enumerate(requests) for _ in request]
        keys = [_bucket(draft.bucket) for draft in drafts]
        answers = iter(await self._of_each(self.scripts.buckets, drafts, keys, whose, _read_allowances))
        return [[*islice(answers, len(request))] for request in requests]

    async def forget(self, buckets: Sequence[str]) -> None:
        keys = [_bucket(bucket) for bucket in buckets]
        slots = [[keys[place] for place in places] for places in by(keys, self._slot).values()]
        for outcome in await self._caller.each([[Call(self.scripts.forget, slot, ())] for slot in slots]):
            _answered(outcome)

    async def sighted(self, sightings: Sequence[Sighting]) -> list[int]:
        groups = [f"fs:seen:{each.group}" for each in sightings]
        return await self._of_each(self.scripts.sightings, sightings, groups, range(len(groups)), _read_counts)

    async def _of_each(
        self, script: Script, things: Sequence[Any], keys: Sequence[str], whose: Sequence[int],
        read: Callable[[bytes], list[T]],
    ) -> list[T]:  # fmt: skip
        """Of each thing, which has a key of its own, what the script answers; it is told how many of them belong to
        each request."""
        slots = [_portions(places, whose) for places in by(keys, self._slot).values()]
        outcomes = await self._caller.each([
            [Call(script, [keys[place] for place in places],
                  (_pack([things[place] for place in places]), _pack(_sizes(places, whose))))
             for places in portions]
            for portions in slots
        ])  # fmt: skip
        found: dict[int, T] = {}
        for places, outcome in zip(chain.from_iterable(slots), outcomes, strict=True):
            found |= zip(places, read(_answered(outcome)), strict=True)
        return [found[place] for place in range(len(things))]

    async def tell_signs(self, sale_id: str, numbers: Sequence[int], back: Sequence[Back], grace_ms: int) -> None:
        cuts = [numbers[first : first + BATCH_MAX] for first in range(0, max(len(numbers), 1), BATCH_MAX)]
        calls = [self._of_room(sale_id, "tell", (cut, (), grace_ms)) for cut in cuts[1:]]
        calls.append(self._of_room(sale_id, "tell", (cuts[0], back[:BATCH_MAX], grace_ms)))
        for outcome in await self._caller.each([calls]):
            _answered(outcome)

    async def ask_signs(
        self, sale_id: str, numbers: Sequence[int], done: Sequence[int], most: int, grace_ms: int
    ) -> Signs:
        [outcome] = await self._caller.each([[self._of_room(sale_id, "ask", (numbers, done, most, grace_ms))]])
        return _read_signs(_answered(outcome))

    def _of_room(self, sale_id: str, operation: str, arguments: tuple[Any, ...]) -> Call:
        keys = [f"fs:room:{{{sale_id}}}:{name}" for name in ("times", "back")]
        return Call(self.scripts.signs, keys, (operation, _pack(arguments)))

    async def settings(self) -> dict[str, str]:
        return await self._put({}, 0)

    async def put_settings(self, changes: dict[str, str], version: int) -> None:
        require_small(changes, len(changes))
        await self._put(changes, version)

    async def _put(self, changes: dict[str, str], version: int) -> dict[str, str]:
        """All settings, after these changes."""
        arguments = (version, _pack(list(changes.items())), SHARED_SETTINGS_MAX)
        [answer] = await self._caller.each([[Call(self.scripts.settings, [SETTINGS_KEY], arguments)]])
        row: list[bytes] = _answered(answer)
        if row == [b"TOO MANY"]:
            raise ValueError(f"there may be {SHARED_SETTINGS_MAX} shared settings at most")
        values = [value.decode().split(":", 1) for value in row[1::2]]
        return shown({
            name.decode(): (int(version), value) for name, (version, value) in zip(row[::2], values, strict=True)
        })  # fmt: skip

    async def close(self) -> None:
        await self._caller.close()

    async def _ask(
        self, operation: str, parts: Sequence[Part], read: Callable[[bytes], list[Any]]
    ) -> tuple[list[tuple[Part, Any]], list[GateAway]]:
        """The parts that were answered with their answers, and why the others were not."""
        if not parts:
            return [], []
        slots = by(parts, lambda part: self._slot(_tag(part.line))).values()
        asked = [_calls([parts[place] for place in places]) for places in slots]
        outcomes = await self._caller.each([[self._call(operation, call) for call in calls] for calls in asked])
        answered: list[tuple[Part, Any]] = []
        away: list[GateAway] = []
        for call, outcome in zip(chain.from_iterable(asked), outcomes, strict=True):
            if isinstance(outcome, GateAway):
                away.append(outcome)
            else:
                answered.extend(zip(call, read(outcome), strict=True))
        return answered, away

    def _call(self, operation: str, parts: Sequence[Part]) -> Call:
        keys = [key for part in parts for key in _keys(part.line)]
        return Call(self.scripts.gate, keys, (operation, _pack([part.told for part in parts])))


def _tag(line: Line) -> str:
    return f"{{{line[0]}/{line[1]}}}"


def _keys(line: Line) -> list[str]:
    """As gate.lua wants them."""
    return [f"fs:{_tag(line)}:{name}" for name in ("counter", "permits", "deadlines", "users")]


def _bucket(name: str) -> str:
    return f"fs:bucket:{name}"


def _portions(places: Sequence[int], whose: Sequence[int]) -> list[list[int]]:
    """Places of one slot in portions of about BATCH_MAX, of which each has what one request asks for as a whole."""
    portions: list[list[int]] = [[]]
    for place in places:
        portion = portions[-1]
        if len(portion) >= BATCH_MAX and whose[portion[-1]] != whose[place]:
            portions.append([place])
        else:
            portion.append(place)
    return portions


def _sizes(places: Sequence[int], whose: Sequence[int]) -> list[int]:
    """How many of them belong to each request."""
    return [len([*places]) for _, places in groupby(places, lambda place: whose[place])]


def _probe(buckets: Script, key: str) -> Call:
    """Takes from a bucket that is in the slot of this key."""
    tag = key.partition("{")[2].partition("}")[0] or key
    return Call(buckets, [f"fs:probe:{{{tag}}}"], (_pack([Draft("", 1000.0, 1000)]), _pack([1])))


def _cut(things: Sequence[Any], lines: Sequence[Line]) -> list[Part]:
    """Things by product, at most BATCH_MAX together."""
    return [
        Part(line, cut, [things[place] for place in cut])
        for line, places in by(lines, lambda line: line).items()
        for first in range(0, len(places), BATCH_MAX)
        if (cut := places[first : first + BATCH_MAX])
    ]


def _settlement(line: Line, ids: Sequence[str], told: Synchronised | None) -> list[Part]:
    """Permits and figure in one step. Where that is too much for one call, the figure comes with the last ids: a figure
    that comes too late costs wasted attempts, one that comes too early tells somebody SOLD_OUT who need not be."""
    figure = (told.available, told.sku_seq) if told else ()
    places = [range(len(ids))[first : first + BATCH_MAX] for first in range(0, max(len(ids), 1), BATCH_MAX)]
    figures = [()] * (len(places) - 1) + [figure]
    return [Part(line, each, (ids[each.start : each.stop], last)) for each, last in zip(places, figures, strict=True)]


def _calls(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts of one slot in calls of about BATCH_MAX."""
    calls: list[list[Part]] = []
    room = 0
    for part in parts:
        size = len(part.places) or 1
        if size > room:
            calls.append([])
            room = BATCH_MAX
        calls[-1].append(part)
        room -= size
    return calls


def _answered(outcome: Any) -> Any:
    if isinstance(outcome, GateAway):
        raise outcome
    return outcome


def _require_any(answered: Sequence[object], away: Sequence[GateAway]) -> None:
    if away and not answered:
        raise away[0]


def _require_all(found: tuple[Sequence[object], Sequence[GateAway]]) -> None:
    if found[1]:
        raise found[1][0]
