"""`flashsale demo`: the rehearsal as a first impression."""

from typing import Annotated

import typer
from rich.console import Console

from flashsale.cli.options import new_app
from flashsale.rehearsal.demo import Options, run_demo

app = new_app()

DEFAULTS = Options()


@app.command(epilog="Example: flashsale demo --buyers 2000 --units 100 --seed 7")
def demo(
    buyers: Annotated[int, typer.Option("--buyers", min=1, metavar="N", help="How many come.")] = DEFAULTS.buyers,
    units: Annotated[int, typer.Option("--units", min=1, metavar="N", help="How many get one.")] = DEFAULTS.units,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed, the same buyers.")] = DEFAULTS.seed,
    keep: Annotated[bool, typer.Option("--keep", help="Keep ledger, books and logs, and say where.")] = False,
) -> None:
    """Let a crowd loose on a real server over HTTP, and judge what came of it.

    Starts a server and a payment sandbox of its own in a temporary directory. The buyers double-click,
    lose replies and retry, abandon, pay twice, are declined. In the end what they were told is compared
    with the ledger and with the sandbox's books. Exit code 0 if nothing was oversold or lost.
    """
    raise typer.Exit(run_demo(Options(buyers=buyers, units=units, seed=seed), Console(), keep))
