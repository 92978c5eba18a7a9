"""What the commands share: how their help looks, and the options of several of them in one wording."""

from typing import Annotated

import typer

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
DEFAULT_URL = f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"


def new_app(name: str | None = None) -> typer.Typer:
    """A command. Markdown joins the lines of a paragraph, whatever the width of the terminal."""
    return typer.Typer(name=name, no_args_is_help=name is not None, add_completion=False, rich_markup_mode="markdown")


Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="The data directory: ledger, admin token, the sandbox's books. FLASHSALE_DATA, else ./flashsale-data.",
        show_default=False,
    ),
]
Host = Annotated[str, typer.Option("--host", metavar="ADDRESS", help="The address to listen on.")]
Port = Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="The port; 0 takes a free one.")]
Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The server to ask. Without it: the one that last ran on the data directory, else port 8080; "
        "if nothing listens there, the ledger itself is opened.",
        show_default=False,
    ),
]
Token = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="The operators' token. FLASHSALE_ADMIN_TOKEN, else the file admin-token in the data directory.",
        show_default=False,
    ),
]
