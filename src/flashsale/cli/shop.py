"""The shop as its operator meets it: the admin API of a server, or of the same app opened here.

Where no server listens, the app that a server would run is asked inside this process. So the rules, the
audit and every answer are the same, and this file is the only one that knows the difference.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec

from flashsale.cli.address import is_loopback
from flashsale.cli.data_directory import known_token, last_url
from flashsale.cli.lazy import load
from flashsale.cli.options import DEFAULT_URL
from flashsale.cli.problem import FAILED, WRONG_INPUT, Problem, load_settings
from flashsale.settings import Settings

API = "/api/v1/admin"
SECONDS = 15.0


class Place(msgspec.Struct, frozen=True):
    """Which shop is meant, as the command line says it."""

    url: str | None
    token: str | None
    data: str | None


class Refusal(Problem):
    """The shop said no; `errors` are its findings about the fields of a request."""

    def __init__(self, answer: httpx.Response) -> None:
        body = _decoded(answer)
        errors = body.get("details", {}).get("errors", []) if isinstance(body, dict) else []
        message = body.get("message", "") if isinstance(body, dict) else ""
        code = WRONG_INPUT if answer.status_code == httpx.codes.BAD_REQUEST else FAILED
        super().__init__(message or f"the shop answered {answer.status_code}", code=code)
        self.errors: list[dict[str, str]] = errors


class Shop:
    """Asks as the operator. Raises a Problem for whatever is not an answer, a Refusal for a no."""

    def __init__(self, client: httpx.AsyncClient, place: str) -> None:
        self._client = client
        self._place = place

    async def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The answer's JSON, its numbers with the decimals they came with."""
        try:
            answer = await self._client.request(method, API + path, content=body)
        except httpx.HTTPError as error:
            raise _silence(self._place, error) from error
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            remedy = "give its token with --token or FLASHSALE_ADMIN_TOKEN, or name its data directory with --data"
            raise Problem(f"{self._place} does not accept this token", remedy=remedy)
        if answer.is_error:
            raise Refusal(answer)
        return _decoded(answer)


@asynccontextmanager
async def open_shop(place: Place, makes_ledger: bool = False) -> AsyncIterator[Shop]:
    """The server at the URL given, or the one on this machine, or else the ledger itself."""
    settings = load_settings(place.data)
    if place.url is not None and urlsplit(place.url).scheme not in ("http", "https"):
        example = f"write the whole address, such as {DEFAULT_URL.replace('127.0.0.1', 'localhost')}"
        raise Problem(f"--url {place.url}: is no address of a server", remedy=example, code=WRONG_INPUT)
    url = place.url or last_url(settings) or DEFAULT_URL
    if place.url is None and not await _listens(url):
        async with _without_server(settings, url, makes_ledger) as shop:
            yield shop
        return
    token = place.token or known_token(settings, url)
    async with httpx.AsyncClient(
        base_url=url, headers=_headers(token), timeout=SECONDS, trust_env=not _is_here(url)
    ) as client:
        yield Shop(client, url)


@asynccontextmanager
async def _without_server(settings: Settings, url: str, makes_ledger: bool) -> AsyncIterator[Shop]:
    ledger = settings.ledger_name
    if not settings.postgres_url and not settings.ledger_path.exists() and not makes_ledger:
        raise Problem(
            f"nothing listens at {url}, and there is no ledger {ledger}",
            remedy="start a server with `flashsale serve`, name one with --url, or a data directory with --data",
        )
    sys.stderr.write(f"Nothing listens at {url}: using the ledger {ledger} itself.\n")
    async with load("without_server").open_app(settings) as (app, token):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url=url, headers=_headers(token)) as client:
            yield Shop(client, ledger)


async def _listens(url: str) -> bool:
    where = urlsplit(url)
    try:
        _, writer = await asyncio.open_connection(where.hostname, where.port)
    except OSError:
        return False
    writer.close()
    return True


def _is_here(url: str) -> bool:
    """This machine is reached without a proxy, whatever the environment says."""
    return is_loopback(urlsplit(url).hostname or "")


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}


def _decoded(answer: httpx.Response) -> Any:
    try:
        return json.loads(answer.content, parse_float=Decimal) if answer.content else None
    except ValueError as error:
        where = urlsplit(str(answer.url)).netloc
        remedy = "name the address of a flashsale server with --url"
        raise Problem(f"what answers at {where} is not flashsale", remedy=remedy) from error


def _silence(url: str, error: httpx.HTTPError) -> Problem:
    if isinstance(error, httpx.ConnectError | httpx.UnsupportedProtocol):
        remedy = "start it with `flashsale serve`, or name another address with --url"
        return Problem(f"nothing answers at {url}: {error}", remedy=remedy)
    meaning = "Whether the request was carried out is not known."
    return Problem(f"no answer from {url}: {error!r}", meaning, "look with `flashsale sale show`, then try again")
