"""`flashsale version`."""

import platform

import msgspec
import typer

from flashsale import __version__
from flashsale.cli.options import Json, new_app

app = new_app()


@app.command(epilog="Example: flashsale version --json")
def version(json: Json = False) -> None:
    """Show the versions of flashsale and of Python."""
    facts = {"flashsale": __version__, "python": platform.python_version()}
    if json:
        typer.echo(msgspec.json.encode(facts))
    else:
        typer.echo(f"flashsale {facts['flashsale']} (Python {facts['python']})")
