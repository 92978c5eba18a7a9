"""`flashsale demo`: a crowd of difficult buyers against a real server over real HTTP, and a verdict.

`rehearse` works against any server and provider by their URLs; `demo` starts both in a directory of
its own first, and ends them whatever happens.
"""

import asyncio
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
from rich.console import Console

from flashsale.rehearsal.crowd import Crowd, Shop
from flashsale.rehearsal.http_client import HttpClient
from flashsale.rehearsal.operator import NotAnswered, Operator, SaleFacts
from flashsale.rehearsal.report import Display, show_report
from flashsale.rehearsal.servers import DidNotStart, Sandbox, ShopServer
from flashsale.rehearsal.verdict import Verdict, judge

if sys.platform != "win32":
    import resource

    import uvloop

OPENS_IN_SECONDS = 1.5
HOLD_SECONDS = 5
CLOSES_AFTER_SECONDS = 40.0
WATCH_EVERY_SECONDS = 0.25
CONNECTIONS = 500
FILES = 4096


class Options(msgspec.Struct, frozen=True):
    """How large the rehearsal is; the same seed makes the same buyers with the same intentions."""

    buyers: int = 20_000
    units: int = 1_000
    seed: int = 1


async def rehearse(base_url: str, admin_token: str, sandbox_url: str, options: Options, console: Console) -> Verdict:
    """Open a sale, let the crowd loose, wait for every unit to find its buyer, judge."""
    allow_many_files()
    run = f"run{secrets.token_hex(4)}"
    sale = SaleFacts(f"rehearsal-{run}", f"PHONE-{run}", options.units, HOLD_SECONDS)
    with (
        closing(HttpClient(base_url, CONNECTIONS)) as client,
        closing(HttpClient(base_url, 50)) as back_door,
        closing(HttpClient(sandbox_url, 2)) as provider,
    ):
        operator = Operator(back_door, provider, admin_token, sale)
        shop = Shop(client, sale.sku, 0.0, run)
        crowd = Crowd(shop, options.buyers, seed=options.seed, patient=2 * options.units)
        await operator.create_sale(OPENS_IN_SECONDS)
        shop.opens_at = time.monotonic() + OPENS_IN_SECONDS
        console.print(f"{options.buyers:,} buyers for {options.units:,} units at {base_url}, seed {options.seed}")
        with Display(console, options.buyers, options.units) as display:
            await _hold_the_sale(crowd, operator, display)
        console.print("Asking again about everything the buyers were told ...")
        await crowd.ask_again()
        evidence = await operator.gather(crowd.histories, run)
    verdict = judge(evidence)
    show_report(console, evidence, verdict)
    return verdict


async def demo(options: Options, console: Console, keep: bool = False) -> int:
    """The whole demonstration; returns the exit code of the command."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    started_at = time.monotonic()
    with scratch_directory(keep, console) as directory:
        token = secrets.token_urlsafe(24)
        try:
            async with Sandbox(directory) as sandbox, ShopServer(directory, token, sandbox.url) as server:
                verdict = await rehearse(server.url, token, sandbox.url, options, console)
        except (DidNotStart, NotAnswered) as problem:
            console.print(f"The rehearsal could not be held: {problem}", style="red", markup=False)
            return 1
    console.print(f"{time.monotonic() - started_at:.0f} s in all", style="dim")
    return 0 if verdict.ok else 1


def run_demo(options: Options, console: Console, keep: bool = False) -> int:
    """`demo` on the fastest event loop there is; Ctrl-C leaves it as KeyboardInterrupt, all tidied up."""
    with asyncio.Runner(loop_factory=_fast_loop()) as runner:
        try:
            return runner.run(demo(options, console, keep))
        except asyncio.CancelledError:
            return 128 + signal.SIGTERM


def allow_many_files() -> None:
    """Raise the soft limit of open files as far as we need and may."""
    if sys.platform != "win32":
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def scratch_directory(keep: bool, console: Console) -> Iterator[Path]:
    """A directory that is gone afterwards, unless it was asked for."""
    directory = Path(tempfile.mkdtemp(prefix="flashsale-demo-"))
    try:
        yield directory
    finally:
        if keep:
            console.print(f"Ledger, books and logs are in {directory}", highlight=False)
        else:
            shutil.rmtree(directory, ignore_errors=True)


async def _hold_the_sale(crowd: Crowd, operator: Operator, display: Display) -> None:
    """Until every buyer has gone and nothing is held any more."""
    visit = asyncio.create_task(crowd.run())
    closes_at = crowd.shop.opens_at + CLOSES_AFTER_SECONDS
    held = True
    try:
        while (not visit.done() or held) and time.monotonic() < closes_at + HOLD_SECONDS + 5:
            stock, _ = await operator.ledger()
            display.show(crowd.gone, stock)
            crowd.shop.closed = stock.sold >= stock.total or time.monotonic() > closes_at
            held = stock.held > 0
            await asyncio.sleep(WATCH_EVERY_SECONDS)
        await visit
    finally:
        visit.cancel()


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    return asyncio.new_event_loop if sys.platform == "win32" else uvloop.new_event_loop
