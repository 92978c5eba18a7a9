"""An ordinary request as its handler meets it, and the table that routes, document and tests are made from.

A `Call` says everything about one route: method, path, who may, what goes in, what comes out. The app routes
by it, the OpenAPI document is written from it, so neither can forget what the other knows. A handler takes an
`Ask` and gives back an `Answer` or a `Refused`; it never sees the framework. What is wrong with a request in
itself is raised as `Refusing` by the helpers here, so that handlers read as their normal case.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from enum import StrEnum
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar.types import HTTPReceiveMessage, Receive, Scope

from flashsale.answering import told
from flashsale.core.limits import Bucket, at_door, inside
from flashsale.core.refusal import Refusal, Refused, invalid, not_found
from flashsale.core.visitor import Visitor
from flashsale.edge.door import Door, device_in
from flashsale.edge.identity import LATER, Caller, Role, Said
from flashsale.edge.schema import IN_WORDS
from flashsale.edge.strict_json import ECHO_MAX, parse_json
from flashsale.edge.wire import USER_FORM, Answer, Header, is_key, is_user
from flashsale.flow.limiting import Limiting

T = TypeVar("T")

UNKNOWN = Refused(Refusal.UNAUTHENTICATED, "Nobody has asked who this is")
BUYER_BODY_MAX = 16 * 1024
OPERATOR_BODY_MAX = 1024 * 1024
CURSOR_MAX = 2**63 - 1
"""Of a ledger that is one database; that of several is a number of 64 bits for each."""
_LONG_CURSOR = re.compile(r"x([0-9a-f]{1,1024})").fullmatch


class Refusing(Exception):
    """A request that is refused before anything is asked of the engine; carries the refusal."""

    def __init__(self, refused: Refused, status: int | None = None, title: str = "") -> None:
        super().__init__(refused.message)
        self.refused = refused
        self.status = status or refused.refusal.status
        self.title = title or refused.refusal.title


class TooLarge(Exception):
    """The body exceeds the limit of its route."""


class Vanished(Exception):
    """The client hung up before its request was complete: there is nobody to answer."""


class Audience(StrEnum):
    """Who a route is for; also its heading in the document."""

    BUYERS = "Buyers"
    OPERATORS = "Operators"
    OPERATIONS = "Operations"


class Param(msgspec.Struct, frozen=True):
    """A parameter in query or header, for the document."""

    name: str
    description: str
    schema: dict[str, Any]
    place: str = "query"


class Ask:
    """One request: its path parameters, headers, query and body, each read when asked for."""

    def __init__(self, scope: Scope, receive: Receive, body_max: int, door: Door, limiting: Limiting) -> None:
        self._scope = scope
        self._receive = receive
        self._body_max = body_max
        self._received: bytes | None = None
        self._limiting = limiting
        self.door = door
        self.counts_user = False
        """Whether it is counted for its user once its body is read."""
        self.known: Caller | Refused = UNKNOWN
        """Who asks, once `identify` has found out."""
        self.params: dict[str, str] = scope["path_params"]

    @property
    def path(self) -> str:
        return path_of(self._scope)

    def header(self, name: bytes) -> bytes | None:
        """The header's value. Given several times, it must say the same."""
        found = None
        for each, value in self._scope["headers"]:
            if each == name:
                if found not in (None, value):
                    raise Refusing(invalid(name.decode(), "is given twice, and differs"))
                found = value
        return found

    def headers(self, name: bytes) -> bytes | None:
        """A header that is a list: what is given several times is one list."""
        values = [value for each, value in self._scope["headers"] if each == name]
        return b", ".join(values) if values else None

    @cached_property
    def said(self) -> Said:
        """What the request says of who asks."""
        header, client = self.header, self._scope.get("client")
        return Said(
            header(b"x-user-id"), header(b"idempotency-key"), header(b"x-flashsale-pass"), header(b"authorization"),
            self.headers(b"x-forwarded-for"), client[0] if client else None,
            header(b"x-flashsale-device"), header(b"x-flashsale-challenge"),
        )  # fmt: skip

    async def identify(self) -> None:
        """Finds out who asks. Whether he is refused for it is said later: `who`."""
        self.known = self.door.caller(self.said)
        if self.known is LATER:
            looked = asyncio.Event()
            if self.door.look_again(looked.set):
                await looked.wait()
                self.known = self.door.caller(self.said)

    async def let_in(self) -> None:
        """Counts it where it comes from, and in all. Raises Refusing. Nothing is read for that but its address."""
        rates = self._limiting.rates
        if rates.door:
            client = self._scope.get("client")
            peer, forwarded_for = client[0] if client else None, self.headers(b"x-forwarded-for")
            await self._count(at_door(rates, self.door.address(Said(forwarded_for=forwarded_for, peer=peer))))

    async def count_user(self, named: str | None = None) -> None:
        """Counts it for who asks, or for whom his body names if that is believed. Raises Refusing."""
        if isinstance(self.known, Refused):
            return  # he will be refused for that
        user_id, told = self.known.user_id, self.said.user
        if user_id is None and self.door.believes:
            user_id = told.decode("latin-1") if told is not None else named or self.params.get("userId")
        await self._count(inside(self._limiting.rates, user_id, None))

    async def _count(self, buckets: Sequence[Bucket]) -> None:
        if not buckets:
            return
        refused: Refused | None = await told(partial(self._limiting.take, buckets))
        if refused is not None:
            raise Refusing(refused)

    @property
    def who(self) -> Caller:
        """Who asks. Raises Refusing when nobody can tell."""
        if isinstance(self.known, Refused):
            raise Refusing(self.known)
        return self.known

    @cached_property
    def query(self) -> dict[str, str]:
        text = self._scope["query_string"].decode("latin-1")
        try:
            pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=32)
        except ValueError as trouble:
            raise Refusing(invalid("query", "must be at most 32 fields in UTF-8")) from trouble
        for number, (name, _) in enumerate(pairs):
            if any(name == other for other, _ in pairs[:number]):
                raise Refusing(invalid(name[:64], "is given twice"))
        return dict(pairs)

    def text(self, name: str, longest: int) -> str:
        """A text in the query; empty when it is not there."""
        value = self.query.get(name, "")
        if len(value) > longest or "\0" in value:
            raise Refusing(invalid(name, f"must be at most {longest} characters"))
        return value

    def number(self, name: str, default: int, most: int) -> int:
        """A whole number from 0 to `most` in the query."""
        given = self.query.get(name)
        if given is None:
            return default
        if not (given.isascii() and given.isdecimal() and len(given) <= len(str(most)) and int(given) <= most):
            raise Refusing(invalid(name, f"must be a whole number from 0 to {most}"))
        return int(given)

    def cursor(self, name: str, databases: int) -> int:
        """A cursor over a ledger of so many databases, as `shown_cursor` showed it."""
        long = _LONG_CURSOR(self.query.get(name, "")) if databases > 1 else None
        if long is None:
            return self.number(name, 0, CURSOR_MAX)
        if int(long[1], 16) >= 2 ** (64 * databases):
            raise Refusing(invalid(name, "must be `next` of a page"))
        return int(long[1], 16)

    @property
    def raw_query(self) -> bytes:
        """As it was sent."""
        return self._scope["query_string"]

    async def body(self) -> bytes:
        """The raw body. Raises TooLarge and Vanished."""
        if self._received is None:
            self._received = await self._receive_body()
        return self._received

    async def _receive_body(self) -> bytes:
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > self._body_max:
            raise TooLarge
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message: HTTPReceiveMessage = await self._receive()  # type: ignore[assignment]  # no websocket gets here
            if message["type"] == "http.disconnect":
                raise Vanished
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > self._body_max:
                raise TooLarge
            more = message.get("more_body", False)
        return b"".join(chunks)

    async def read(self, shape: type[T]) -> T:
        """The body as a `shape`, strictly."""
        return await self._counted(read(await self.body(), shape))

    async def read_if_any(self, shape: type[T]) -> T | None:
        """For routes whose body may be left out."""
        body = await self.body()
        return await self._counted(read(body, shape) if body else None)

    async def _counted(self, found: T) -> T:
        """A body in good form; now it is known whom it names."""
        if self.counts_user:
            await self.count_user(getattr(found, "user_id", None))
        return found

    async def read_nothing(self) -> None:
        """For routes without a body: none, or an empty object."""
        if body := await self.body():
            read(body, Nothing)


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    """An empty object."""


class Page(NamedTuple):
    """An answer for eyes: anything that is not JSON."""

    content_type: bytes
    body: bytes
    headers: tuple[Header, ...] = ()
    status: int = 200


class Stream(NamedTuple):
    """An answer that goes on: its pieces as they come."""

    content_type: bytes
    pieces: AsyncIterator[bytes]
    status: int = 200


Reply = Answer | Refused | Page | Stream
Handler = Callable[[Ask], Awaitable[Reply]]


class Call(msgspec.Struct, frozen=True):
    """One route, completely."""

    method: str
    path: str
    """In OpenAPI's form: `/api/v1/sales/{saleId}`."""
    audience: Audience
    summary: str
    handle: Handler
    answers: dict[int, Any]
    """The shape of each answer that is not an error; None for an empty one. A route without any is not documented."""
    body: type | None = None
    refusals: tuple[Refusal, ...] = ()
    """What it may be refused with, beside what any route can say."""
    params: tuple[Param, ...] = ()
    etag: bool = False
    """Whether its answers carry the version of what they show."""
    pruned: bool = False
    """Whether what it is asked for may have been pruned: 410."""
    replayed: bool = False
    """Whether a repeated request is marked as such."""
    private: bool = False
    """Whether it is about a user's own things: one must be known to have any, and other people's are not found."""
    attempt: bool = False
    """Whether it is a purchase attempt: its handler counts it, once it knows at which sale."""
    roles: frozenset[Role] = frozenset()
    """Any one of these is needed. Every route of operators names some."""

    def __post_init__(self) -> None:
        if self.audience is Audience.OPERATORS and not self.roles:
            raise ValueError(f"{self.method} {self.path}: who of the operators may?")


def is_signed(call: Call) -> bool:
    """Whether clients sign it, where they have to sign anything: whatever changes something for a buyer."""
    return call.audience is Audience.BUYERS and call.method in ("POST", "PUT", "DELETE")


def shown_cursor(cursor: int) -> int | str:
    """A number while it is one for most readers of JSON; else a text, which is to be taken as it is."""
    return cursor if cursor <= CURSOR_MAX else f"x{cursor:x}"


def path_of(scope: Scope) -> str:
    """The path as the client sent it, without its query."""
    raw = scope.get("raw_path")
    return raw.decode("latin-1") if raw else scope["path"]


def read(body: bytes, shape: type[T]) -> T:
    """A body as a `shape`. Raises Refusing, naming the field and the remedy."""
    found = parse_json(body, shape)
    if isinstance(found, Refused):
        raise Refusing(_in_words(found))
    return found


def _in_words(refused: Refused) -> Refused:
    """Says in words what a regular expression says in its own."""
    [error] = refused.details["errors"]
    words = IN_WORDS.get(error["message"])
    return invalid(error["field"], words) if words else refused


def caller(ask: Ask, *said: str | None) -> str | None:
    """Whose things the request is about: only his are found. None: anybody's. `said` are the users that path and body
    name. Raises Refusing: a name that is none, nobody who asks, or somebody else who is named."""
    named = _named(ask, said)
    return named if ask.who.free else _himself(ask.who, named)


def buyer(ask: Ask, *said: str | None) -> Visitor:
    """Who asks for units: the caller, or whoever a caller names that may."""
    named = _named(ask, said)
    who = ask.who
    user_id = named or who.user_id if who.free else _himself(who, named)
    if user_id is None:
        raise Refusing(invalid("userId", "is required, here or in header X-User-ID"))
    device = device_in(ask.said)
    if isinstance(device, Refused):
        raise Refusing(device)
    return ask.door.visitor(user_id, who, ask.said, device)


def _himself(who: Caller, named: str | None) -> str | None:
    """A caller has only his own things; of whoever else he names he is not told that he exists."""
    if named not in (None, who.user_id):
        raise Refusing(not_found("userId", named[:ECHO_MAX]))
    return who.user_id


def _named(ask: Ask, said: tuple[str | None, ...]) -> str | None:
    """The user named by path or body, or by a header where that is believed. Those given must agree."""
    header = ask.said.user if ask.door.believes else None
    named = [name for name in said if name is not None]
    if header is not None:
        named.append(header.decode("latin-1"))
    for name in named:
        if not is_user(name):
            raise Refusing(invalid("userId", USER_FORM))
        if name != named[0]:
            raise Refusing(invalid("userId", "differs from header X-User-ID"))
    return named[0] if named else None


def request_key(ask: Ask, said: str | None) -> str | None:
    """The key of a request that can be repeated, from header or body. Both must agree."""
    header = ask.header(b"idempotency-key")
    key = said if header is None else header.decode("latin-1")
    if said is not None and key != said:
        raise Refusing(invalid("requestKey", "differs from header Idempotency-Key"))
    if key is not None and not is_key(key):
        raise Refusing(invalid("requestKey", "must be 1 to 255 printable ASCII characters"))
    return key
