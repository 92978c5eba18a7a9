"""The data directory: made, checked, and the notes that a server leaves there for the operator's commands."""

import os
import secrets
from pathlib import Path

from flashsale.cli.problem import Problem
from flashsale.settings import Settings

NOT_WRITABLE = "choose another one with --data DIR (or FLASHSALE_DATA), or give this user the right to write there"
NO_LEDGER = "restore the ledger from a backup, or name another one with --data or FLASHSALE_LEDGER"
SQLITE_MAGIC = b"SQLite format 3\0"
SERVER_URL = "server-url"


def prepare(settings: Settings) -> None:
    """Makes the data directory and the ledger's if they are missing.

    Raises a Problem if they cannot be written, or if the ledger's file is something else.
    """
    wanted = {Path(settings.data)} if settings.postgres_url else {Path(settings.data), settings.ledger_path.parent}
    for directory in wanted:
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            message = f"the data directory {directory} cannot be made: {error.strerror}"
            raise Problem(message, remedy=NOT_WRITABLE) from error
        if not os.access(directory, os.W_OK | os.X_OK):
            raise Problem(f"the data directory {directory} cannot be written", remedy=NOT_WRITABLE)
    if not settings.postgres_url and not may_be_ledger(settings.ledger_path):
        raise Problem(f"{settings.ledger_path} is no SQLite file", "It has been left alone.", NO_LEDGER)


def may_be_ledger(path: Path) -> bool:
    """Whether the file begins as SQLite's do, is empty, or is not there yet."""
    if not path.exists():
        return True
    with path.open("rb") as file:
        return file.read(len(SQLITE_MAGIC)) in (SQLITE_MAGIC, b"")


def writable_place(directory: Path) -> Path | None:
    """The directory, or the one in which it would be made; None if that cannot be written."""
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    return place if place.is_dir() and os.access(place, os.W_OK | os.X_OK) else None


def remember_url(settings: Settings, url: str) -> None:
    """Leaves word in the data directory where its server listens, for the operator's commands."""
    (Path(settings.data) / SERVER_URL).write_text(f"{url}\n")


def last_url(settings: Settings) -> str:
    """Where the data directory's server listened last; empty if there has been none."""
    path = Path(settings.data) / SERVER_URL
    return path.read_text().strip() if path.is_file() else ""


def known_token(settings: Settings, url: str) -> str:
    """What is configured, or what a server with this data directory has left there."""
    if settings.admin_token:
        return settings.admin_token
    kept = Path(settings.data) / "admin-token"
    try:
        return kept.read_text().strip()
    except OSError as error:
        remedy = "give it with --token or FLASHSALE_ADMIN_TOKEN, or name the server's data directory with --data"
        raise Problem(f"no token for {url}: {kept}: {error.strerror}", remedy=remedy) from error


def admin_token(settings: Settings) -> tuple[str, Path | None]:
    """The operators' token, and where it is kept when nobody has configured one (mode 0600, made once)."""
    if settings.admin_token:
        return settings.admin_token, None
    place = Path(settings.data) / "admin-token"
    if not place.exists() or not place.read_text().strip():
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(place.name + ".new")
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
        fresh.write_text(secrets.token_urlsafe(32))
        fresh.replace(place)  # whole or not at all
    return place.read_text().strip(), place
