"""`flashsale serve`: the shop over HTTP, in one process with its ledger.

All that can be refused is refused before the ledger is opened. When the store breaks the process ends at
once: every answer after that moment would be a guess.
"""

import asyncio
import os
import resource
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import structlog
import typer
import uvloop

from flashsale import __version__, telemetry
from flashsale.backends.sqlite.ledger import EXIT_BROKEN
from flashsale.cli.address import OTHER_FILES, is_loopback, require_free, show
from flashsale.cli.data_directory import prepare, remember_url
from flashsale.cli.opening import broken, open_engine
from flashsale.cli.options import DEFAULT_HOST, DEFAULT_PORT, Data, Host, Port, new_app
from flashsale.cli.problem import WRONG_INPUT, Problem, load_settings
from flashsale.edge.app import create_app
from flashsale.edge.server import serve as serve_http
from flashsale.engine import admin_token
from flashsale.settings import Settings

app = new_app()
log = structlog.get_logger("flashsale.serve")

Workers = Annotated[int, typer.Option("--workers", min=1, metavar="N", help="Processes; SQLite allows one.")]


@app.command(epilog="Example: flashsale serve --port 9000 --data shop-data")
def serve(host: Host = DEFAULT_HOST, port: Port = DEFAULT_PORT, data: Data = None, workers: Workers = 1) -> None:
    """Sell over HTTP until told to stop (Ctrl-C or SIGTERM).

    Needs nothing else: the ledger is a file in the data directory, made at the first start. Requests in
    flight are answered before it stops. Settings come from the environment (FLASHSALE_...) and from the
    TOML file that FLASHSALE_CONFIG names; `flashsale doctor` shows them all.
    """
    telemetry.configure()
    settings = load_settings(data)
    refuse_workers(workers)
    refuse_strangers(settings, host)
    prepare(settings)
    allow_files(settings.connections_max + OTHER_FILES)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, host, port))
    log.info("stopped")


async def _serve(settings: Settings, host: str, port: int) -> None:
    async with open_engine(settings, on_fatal=lambda error: die(settings, error)) as engine:
        port = require_free(host, port)
        token, kept_at = admin_token(settings)
        url = f"http://{show(host, port)}"
        remember_url(settings, url)
        _announce(settings, url, kept_at)
        log.info("serving", url=url)
        await serve_http(engine, create_app(engine, token), host, port)


def refuse_workers(workers: int) -> None:
    """SQLite belongs to one process."""
    if workers > 1:
        raise Problem(
            f"--workers {workers}: an SQLite ledger belongs to one process",
            "One process is enough for tens of thousands of reservations a second.",
            "leave --workers out; several processes need a postgresql:// ledger, which is not available yet",
            WRONG_INPUT,
        )


def refuse_strangers(settings: Settings, host: str) -> None:
    """Identity `open` and the sandbox are for this machine only, unless somebody insists."""
    if is_loopback(host):
        return
    trusting = "identity `open` believes every request about who sends it, payment `sandbox` takes no money"
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
        f"  ledger       {settings.ledger_path.resolve()}",
        f"  admin token  {token_kept_at.resolve() if token_kept_at else 'as set in FLASHSALE_ADMIN_TOKEN'}",
        f"  docs         {url}/api/docs",
    )
    typer.echo("\n".join(lines))
