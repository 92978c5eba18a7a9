"""Opening the engine from the command line: every way in which that fails, in words for the user."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from flashsale.backends.sandbox import SandboxNotStarted
from flashsale.backends.sqlite.file import FileLock
from flashsale.cli.data_directory import prepare
from flashsale.cli.problem import Problem
from flashsale.composition import ExtraMissing, Fatal
from flashsale.engine import Engine
from flashsale.ports import LedgerBroken, LedgerInUse, LedgerUnavailable, SchemaUnknown
from flashsale.settings import Settings

IN_USE = (
    "Only one process may open a ledger, so that nothing can be sold twice.",
    "ask the server that runs there (`flashsale sale ... --url`), stop it first, or name another --data directory",
)


@asynccontextmanager
async def open_engine(settings: Settings, on_fatal: Fatal | None = None) -> AsyncIterator[Engine]:
    """`Engine.open`, in a data directory that can be written."""
    prepare(settings)
    with opening_problems(settings):
        async with Engine.open(settings, on_fatal) as engine:
            yield engine


@contextmanager
def opening_problems(settings: Settings) -> Iterator[None]:
    """Turns what can be wrong with a ledger into a Problem."""
    name = settings.ledger_name
    try:
        yield
    except LedgerInUse as error:
        raise Problem(str(error), *IN_USE) from error
    except SchemaUnknown as error:
        remedy = f"do that, or name another ledger than {name}"
        raise Problem(str(error), "Nothing has been changed.", remedy) from error
    except ExtraMissing as error:
        raise Problem(str(error), "Nothing has been opened.", "install it, or leave that setting out") from error
    except LedgerBroken as error:
        raise Problem(*broken(settings, error)) from error
    except LedgerUnavailable as error:
        remedy = (
            "see that PostgreSQL runs and lets this user in"
            if settings.postgres_url
            else ("make room on the disk if it is full; then try again")
        )
        raise Problem(f"the ledger {name} cannot be used now: {error}", "Nothing has changed.", remedy) from error
    except SandboxNotStarted as error:
        remedy = "see the message above, or run one yourself and name it in FLASHSALE_SANDBOX_URL"
        raise Problem(f"the payment sandbox did not start: {error}", "", remedy) from error


def broken(settings: Settings, error: Exception) -> tuple[str, str, str]:
    """The three parts of the message about a store that has failed."""
    return (
        f"the ledger {settings.ledger_name} has failed: {error}",
        "After an I/O error nobody knows what reached the disk, so nothing may go on from memory.\n"
        "What was acknowledged before is in the file; what was under way was not acknowledged.",
        "look at the disk (`dmesg`, free space, `flashsale doctor`) and start again; if the file stays unreadable, "
        "bring back a backup",
    )


def held(ledger: Path) -> str | None:
    """The sentence about who has the ledger open; None: nobody."""
    lock = FileLock(ledger)
    try:
        lock.take()
    except LedgerInUse as error:
        return str(error)
    lock.give_back()
    return None
