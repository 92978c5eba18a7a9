"""`flashsale migrate`: brings the ledger's schema up to this version."""

import asyncio

import msgspec
import typer

from flashsale.backends.sqlite.file import FileLock, connect, migrate
from flashsale.cli.data_directory import prepare
from flashsale.cli.opening import opening_problems
from flashsale.cli.options import Data, Json, new_app
from flashsale.cli.problem import load_settings
from flashsale.composition import migrate_postgres
from flashsale.settings import Settings

app = new_app()


@app.command("migrate", epilog="Example: flashsale migrate --data shop-data")
def migrate_ledger(data: Data = None, json: Json = False) -> None:
    """Apply the ledger's pending migrations and say which.

    With a ledger file `serve` does this by itself at its start, and a server that uses the file is in the
    way. On PostgreSQL it is done by this command only, before the first start and before an upgrade. Where
    FLASHSALE_LEDGER names several databases, a new one gets its place in the ledger. Back the ledger up first.
    """
    settings = load_settings(data)
    prepare(settings)
    with opening_problems(settings):
        applied = _apply(settings)
    if json:
        typer.echo(msgspec.json.encode({"ledger": settings.ledger_name, "applied": applied}))
        return
    for name in applied:
        typer.echo(f"applied {name}")
    typer.echo(f"{settings.ledger_name} is up to date.")


def _apply(settings: Settings) -> list[str]:
    if settings.postgres_url:
        return asyncio.run(migrate_postgres(settings.postgres_urls))
    lock = FileLock(settings.ledger_path)
    lock.take()
    try:
        connection = connect(settings.ledger_path, writes=True)
        try:
            return migrate(connection)
        finally:
            connection.close()
    finally:
        lock.give_back()
