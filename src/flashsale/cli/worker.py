"""`flashsale worker`: the loops of a fleet in a process of their own, which answers no buyer.

A fleet whose API processes run no loops (`serve --loops none`) keeps them for its buyers. Any number of workers may
run the same loop: of those that sweep or publish one does it at a time, those that consume share the queue. A ledger in
a file belongs to one process, and that is `serve`.
"""

import asyncio
import signal
from typing import Annotated

import structlog
import typer
import uvloop

from flashsale import telemetry
from flashsale.cli.address import require_free, show
from flashsale.cli.opening import open_engine
from flashsale.cli.options import DEFAULT_HOST, Data, Host, new_app
from flashsale.cli.problem import WRONG_INPUT, Problem, load_settings
from flashsale.edge.app import create_health_app
from flashsale.edge.server import serve as serve_http
from flashsale.engine import Engine
from flashsale.settings import LOOPS, Settings

app = new_app()
log = structlog.get_logger("flashsale.worker")

Loops = Annotated[
    list[str] | None,
    typer.Argument(metavar="[sweep|publish|consume]...", help="The loops to run; all of them if none is named."),
]
Health = Annotated[
    int | None,
    typer.Option("--health", min=0, max=65535, metavar="PORT", help="Answer /health/live, /health/ready and /metrics."),
]


@app.command(epilog="Example: flashsale worker sweep publish --health 9090")
def worker(loops: Loops = None, health: Health = None, host: Host = DEFAULT_HOST, data: Data = None) -> None:
    """Run the loops of a fleet, until told to stop (Ctrl-C or SIGTERM).

    sweep gives lapsed units back, takes up payment steps that were left open, and prunes events; publish
    passes events on to the broker; consume decides the requests of queued sales. Needs a ledger on
    PostgreSQL, and the settings of the servers. At its end it gives its leases back, so that another
    process goes on at once.
    """
    telemetry.configure()
    settings = load_settings(data, loops=tuple(loops or LOOPS), fast_lane="off")
    refuse_file(settings)
    refuse_own_sandbox(settings)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_work(settings, host, health))
    log.info("stopped")


async def _work(settings: Settings, host: str, health: int | None) -> None:
    async with open_engine(settings) as engine:
        if health is None:
            log.info("working", loops=settings.loops)
            await _until_told()
        else:
            await _answering(engine, host, require_free(host, health))


async def _answering(engine: Engine, host: str, port: int) -> None:
    """The server takes the signals then."""
    log.info("working", loops=engine.settings.loops, health=f"http://{show(host, port)}/health/ready")
    await serve_http(engine, create_health_app(engine), host, port)


async def _until_told() -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    await told.wait()


def refuse_file(settings: Settings) -> None:
    """SQLite belongs to one process."""
    if settings.postgres_url is None:
        raise Problem(
            "worker: an SQLite ledger belongs to one process, and `flashsale serve` runs the loops in it",
            "",
            "leave the worker out, or name a ledger that several may write: FLASHSALE_LEDGER=postgresql://...",
            WRONG_INPUT,
        )


def refuse_own_sandbox(settings: Settings) -> None:
    """Payment steps are resumed at the provider where they were begun."""
    if not settings.sandbox_url:
        raise Problem(
            "worker: no payment provider",
            "It takes up payment steps that others have begun, so it needs the provider that they use.",
            "set FLASHSALE_SANDBOX_URL to the sandbox of the servers",
            WRONG_INPUT,
        )
