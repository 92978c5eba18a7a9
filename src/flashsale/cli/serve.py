"""`flashsale serve`: the shop over HTTP, in one process with its ledger.

All that can be refused is refused before the ledger is opened. When the store breaks the process ends at
once: every answer after that moment would be a guess.
"""

import asyncio
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import structlog
import typer
import uvloop

from flashsale import __version__, telemetry
from flashsale.backends.sandbox import KeptSandbox
from flashsale.backends.sqlite.ledger import EXIT_BROKEN
from flashsale.cli.address import OTHER_FILES, is_loopback, require_free, show
from flashsale.cli.data_directory import admin_token, prepare, remember_url
from flashsale.cli.opening import broken, open_engine
from flashsale.cli.options import DEFAULT_HOST, DEFAULT_PORT, Data, Host, Port, new_app
from flashsale.cli.problem import WRONG_INPUT, Problem, load_settings
from flashsale.cli.token_keys import refuse_missing_keys
from flashsale.cli.workers import WorkerFailed, Workers, listen, watch_parent, worker_command
from flashsale.edge.app import create_app
from flashsale.edge.metrics import LEAVE_SECONDS, Slot
from flashsale.edge.server import BACKLOG
from flashsale.edge.server import serve as serve_http
from flashsale.settings import LOOPS, Settings, listed
from flashsale.worker import Loop, Worker

app = new_app()
log = structlog.get_logger("flashsale.serve")

Loops = Annotated[
    str | None,
    typer.Option(
        "--loops",
        metavar="NAMES",
        help="What it does beside answering: sweep,publish,consume; or none, where `flashsale worker` does it.",
        show_default=False,
    ),
]
Count = Annotated[int, typer.Option("--workers", min=1, metavar="N", help="Processes; SQLite allows one.")]
Socket = Annotated[int | None, typer.Option("--socket", hidden=True, help="A socket that listens already.")]
Number = Annotated[int, typer.Option("--slot", hidden=True, help="Which one of the workers this is.")]
Parent = Annotated[int | None, typer.Option("--parent", hidden=True, help="The line to whoever started us.")]


@app.command(epilog="Example: flashsale serve --port 9000 --data shop-data")
def serve(
    host: Host = DEFAULT_HOST, port: Port = DEFAULT_PORT, data: Data = None, workers: Count = 1, loops: Loops = None,
    listening: Socket = None, parent: Parent = None, slot: Number = 0,
) -> None:  # fmt: skip
    """Sell over HTTP until told to stop (Ctrl-C or SIGTERM).

    Needs nothing else: the ledger is a file in the data directory, made at the first start. Requests in
    flight are answered before it stops. With a ledger on PostgreSQL there may be several processes, here
    and elsewhere; SIGHUP replaces those of this command one after the other. Settings come from the
    environment (FLASHSALE_...) and from the TOML file that FLASHSALE_CONFIG names; `flashsale doctor` shows
    them all.
    """
    telemetry.configure()
    settings = load_settings(data, loops=None if loops is None else listed(loops))
    refuse_workers(settings, workers)
    refuse_fewer_loops(settings)
    refuse_strangers(settings, host)
    refuse_missing_keys(settings)
    prepare(settings)
    allow_files(settings.connections_max + OTHER_FILES)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            _serve_many(settings, host, port, workers)
            if workers > 1
            else _serve_one(settings, host, port)
            if listening is None
            else _serve_shared(settings, host, port, listening, parent, slot)
        )
    log.info("stopped")


async def _serve_many(settings: Settings, host: str, port: int, workers: int) -> None:
    """The parent of workers. The sandbox provider, if it is ours to run, is run here, once for all."""
    port = require_free(host, port)
    _, kept_at = admin_token(settings)
    url = f"http://{show(host, port)}"
    with listen(host, port, BACKLOG) as listening:
        async with AsyncExitStack() as stack:
            if not settings.sandbox_url:
                sandbox = await stack.enter_async_context(KeptSandbox(Path(settings.data) / "sandbox.db"))
                os.environ["FLASHSALE_SANDBOX_URL"] = sandbox.url
            remember_url(settings, url)
            _announce(settings, url, kept_at)
            try:
                await Workers(settings, listening, worker_command(settings, host, port), workers).run()
            except WorkerFailed as error:
                remedy = "see their messages above; `flashsale doctor` looks for what is wrong"
                raise Problem(str(error), "", remedy, error.code) from error


async def _serve_shared(settings: Settings, host: str, port: int, number: int, parent: int | None, slot: int) -> None:
    """One of several workers: the socket is the parent's, and so is what is told to people."""
    async with open_engine(settings, on_fatal=lambda error: die(settings, error)) as engine:
        token, _ = admin_token(settings)
        ready = partial(watch_parent, parent) if parent is not None else None
        served = create_app(engine, token, slot=Slot(slot, Path(settings.data) / "metrics"))
        async with Worker([Loop("metrics", LEAVE_SECONDS, served.state.metrics.leave)]):
            await serve_http(engine, served, host, port, socket.socket(fileno=number), ready)


async def _serve_one(settings: Settings, host: str, port: int) -> None:
    async with open_engine(settings, on_fatal=lambda error: die(settings, error)) as engine:
        port = require_free(host, port)
        token, kept_at = admin_token(settings)
        url = f"http://{show(host, port)}"
        remember_url(settings, url)
        _announce(settings, url, kept_at)
        log.info("serving", url=url)
        await serve_http(engine, create_app(engine, token), host, port)


def refuse_workers(settings: Settings, workers: int) -> None:
    """SQLite belongs to one process."""
    if workers > 1 and not settings.postgres_url:
        raise Problem(
            f"--workers {workers}: an SQLite ledger belongs to one process",
            "One process is enough for tens of thousands of reservations a second.",
            "leave --workers out, or name a ledger that several may write: FLASHSALE_LEDGER=postgresql://...",
            WRONG_INPUT,
        )


def refuse_fewer_loops(settings: Settings) -> None:
    """The loops of a ledger in a file have nowhere else to run."""
    if settings.postgres_url is None and set(settings.loops) != set(LOOPS):
        raise Problem(
            f"loops {','.join(settings.loops) or 'none'}: an SQLite ledger belongs to one process",
            "That process runs all loops.",
            "leave --loops and FLASHSALE_LOOPS out, or name a ledger that `flashsale worker` may write too: "
            "FLASHSALE_LEDGER=postgresql://...",
            WRONG_INPUT,
        )


def refuse_strangers(settings: Settings, host: str) -> None:
    """Identity `open` and the sandbox are for this machine only, each of them, unless somebody insists."""
    trusting = ", ".join(_trusting(settings))
    if is_loopback(host) or not trusting:
        return
    if settings.open_anywhere:
        log.warning("everybody is trusted", host=host, meaning=trusting)
        sys.stderr.write(f"WARNING: {host} can be reached from other machines: {trusting}.\n")
        return
    raise Problem(
        f"refused to listen on {host}, which other machines can reach",
        f"Here {trusting}.",
        "listen on 127.0.0.1 (the default), or set FLASHSALE_OPEN_ANYWHERE=1 if everybody there may be trusted",
        WRONG_INPUT,
    )


def _trusting(settings: Settings) -> Iterator[str]:
    if settings.identity == "open":
        yield "identity `open` believes every request about who sends it"
    if settings.payment == "sandbox":
        yield "payment `sandbox` takes no money"


def die(settings: Settings, error: Exception) -> NoReturn:
    """Ends the process without another answer, whatever else it is doing."""
    log.critical("the store is broken", error=str(error))
    sys.stderr.write(f"{Problem(*broken(settings, error))}\n")
    sys.stderr.flush()
    os._exit(EXIT_BROKEN)


def allow_files(wanted: int) -> None:
    """Raises the soft limit of open files, one for each connection, as far as we may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _announce(settings: Settings, url: str, token_kept_at: Path | None) -> None:
    lines = (
        f"flashsale {__version__} at {url}",
        f"  ledger       {settings.ledger_name if settings.postgres_url else settings.ledger_path.resolve()}",
        f"  admin token  {token_kept_at.resolve() if token_kept_at else 'as set in FLASHSALE_ADMIN_TOKEN'}",
        f"  docs         {url}/api/docs",
    )
    typer.echo("\n".join(lines))
