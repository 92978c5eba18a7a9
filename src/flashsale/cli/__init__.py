"""The command line: `flashsale COMMAND`. Each command is a module of this package, loaded when it is called.

So `flashsale version` starts at once, though `serve` needs a web server and `demo` a crowd. Whatever goes
wrong in a way that a user can mend is a `Problem`: a message without a traceback. Exit codes: 0 done,
1 could not be done, 2 the command, a setting or a file is wrong, 70 the store broke under a running server.
"""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from flashsale.cli.lazy import load
from flashsale.cli.problem import Problem

COMMANDS = ("serve", "worker", "demo", "sale", "doctor", "migrate", "verify-draw", "version")


class Commands(TyperGroup):
    """The commands by their names. (The types of typer's own signatures are private to it.)"""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        return typer.main.get_command(load(cmd_name.replace("-", "_")).app)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@app.callback(epilog="Begin with `flashsale demo`; then `flashsale serve` and `flashsale sale create FILE`.")
def flashsale() -> None:
    """A flash-sale engine: sells N units to a crowd, never N+1, and can prove it.

    `flashsale COMMAND --help` explains a command, with examples.
    """


def main() -> None:
    """The entry point of the program."""
    try:
        app(prog_name="flashsale")
    except Problem as problem:
        sys.stderr.write(f"{problem}\n")
        sys.exit(problem.code)
    except KeyboardInterrupt:
        sys.exit(130)
