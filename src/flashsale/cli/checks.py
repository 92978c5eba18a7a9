"""What `flashsale doctor` looks at. Each check says what it found and, if that is wrong, what to do.

A check changes nothing but a probe file that it removes, and never waits for a server that does not answer.
"""

import asyncio
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import httpx
import msgspec

from flashsale.backends.sqlite.file import connect, migrations, schema_version
from flashsale.cli.address import OTHER_FILES, require_free, show
from flashsale.cli.data_directory import NO_LEDGER, NOT_WRITABLE, may_be_ledger, writable_place
from flashsale.cli.opening import held
from flashsale.cli.problem import Problem
from flashsale.engine import ExtraMissing, postgres_facts
from flashsale.ports import LedgerBroken, LedgerUnavailable
from flashsale.settings import PREFIX, Settings

PYTHON_MIN = (3, 11)
FREE_MIN_BYTES = 256 * 1024 * 1024
FSYNCS = 5
FSYNC_SLOW_MS = 50
RELEASED = datetime(2025, 1, 1, tzinfo=UTC)
CLOCK_SECONDS = 0.05
ANSWER_SECONDS = 2.0
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"}
MEMORY = {"tmpfs", "ramfs"}


class Level(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """Worth knowing; nothing fails because of it."""
    PROBLEM = "problem"


class Finding(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    level: Level
    found: str
    remedy: str = ""


def ok(name: str, found: str) -> Finding:
    return Finding(name, Level.OK, found)


def warning(name: str, found: str, remedy: str) -> Finding:
    return Finding(name, Level.WARNING, found, remedy)


def problem(name: str, found: str, remedy: str) -> Finding:
    return Finding(name, Level.PROBLEM, found, remedy)


def examine(settings: Settings, host: str, port: int) -> list[Finding]:
    """All checks, in the order in which `serve` would stumble."""
    return [
        python(),
        open_files(settings),
        names(os.environ),
        clock(),
        *directory(settings),
        *ledger(settings),
        address(host, port),
    ]


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON_MIN:
        return problem("python", version, "install Python 3.11 or newer and make the environment anew")
    return ok("python", version)


def open_files(settings: Settings) -> Finding:
    """`serve` raises the soft limit by itself, so the hard one counts."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.connections_max + OTHER_FILES
    if hard == resource.RLIM_INFINITY or hard >= wanted:
        return ok("open files", f"up to {'any number' if hard == resource.RLIM_INFINITY else hard}")
    remedy = f"raise the limit (`ulimit -n {wanted}`), or lower FLASHSALE_CONNECTIONS_MAX to {hard - OTHER_FILES}"
    return warning("open files", f"{hard} at most, {wanted} wanted for {settings.connections_max} connections", remedy)


def names(environment: Mapping[str, str]) -> Finding:
    """A variable that is misspelt does nothing, and nothing else says so."""
    known = {PREFIX + name.upper() for name in Settings.__struct_fields__} | {f"{PREFIX}CONFIG"}
    unknown = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
    if unknown:
        return warning("variables", f"unknown: {', '.join(unknown)}", "correct or remove them; they do nothing")
    return ok("variables", f"all known that begin with {PREFIX}")


def clock() -> Finding:
    """The wall clock is in our time, and runs as fast as the monotonic one."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(CLOCK_SECONDS)
    drift_ms = abs((time.time() - wall) - (time.monotonic() - steady)) * 1000
    now = datetime.now(UTC)
    remedy = "set the machine's clock, and keep it right with NTP: sales open and reservations expire by it"
    if now < RELEASED:
        return problem("clock", f"{now:%Y-%m-%dT%H:%M:%SZ} is in the past", remedy)
    if drift_ms > CLOCK_SECONDS * 1000:
        return problem("clock", f"the wall clock jumped by {drift_ms:.0f} ms while we looked", remedy)
    return ok("clock", f"{now:%Y-%m-%dT%H:%M:%SZ}")


def directory(settings: Settings) -> list[Finding]:
    """Where the ledger lies: can it be written, is there room, does fsync mean something."""
    wanted = Path(settings.data) if settings.postgres_url else settings.ledger_path.parent
    place = writable_place(wanted)
    if place is None:
        return [problem("data directory", f"{wanted} cannot be written", NOT_WRITABLE)]
    state = "can be written" if place == wanted else "is made at the first start"
    return [ok("data directory", f"{wanted.resolve()} {state}"), _free_space(place), _filesystem(place), _fsync(place)]


def _free_space(place: Path) -> Finding:
    free = shutil.disk_usage(place).free
    found = f"{free / 1e9:.1f} GB free"
    if free < FREE_MIN_BYTES:
        return problem("free space", found, "make room: on a full disk every reservation is answered with 503")
    return ok("free space", found)


def _filesystem(place: Path) -> Finding:
    kind = _filesystem_of(place.resolve())
    if kind in NETWORK:
        return problem("filesystem", kind, "use a local disk: SQLite's log does not work over a network")
    if kind in MEMORY:
        return warning("filesystem", f"{kind}, in memory", "use a disk if the ledger shall outlive a power failure")
    return ok("filesystem", kind or "unknown")


def _filesystem_of(place: Path) -> str:
    """The type of the longest mount point above; empty where there is no /proc."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return ""
    above = [(mount[1], mount[2]) for mount in mounts if place.is_relative_to(mount[1].replace("\\040", " "))]
    return max(above, key=lambda mount: len(mount[0]), default=("", ""))[1]


def _fsync(place: Path) -> Finding:
    """How long the disk takes to keep a page: the time under every group commit."""
    try:
        slowest_ms = _slowest_fsync_ms(place)
    except OSError as error:
        return problem("fsync", f"failed: {error.strerror}", "do not use this disk: what it acknowledges may be lost")
    found = f"{slowest_ms:.1f} ms at worst in {FSYNCS}"
    if slowest_ms > FSYNC_SLOW_MS:
        return warning("fsync", found, "use a faster disk: every answer waits for it once")
    return ok("fsync", found)


def _slowest_fsync_ms(place: Path) -> float:
    taken = []
    with tempfile.TemporaryFile(dir=place) as probe:
        for _ in range(FSYNCS):
            probe.write(bytes(4096))
            probe.flush()
            started = time.perf_counter()
            os.fsync(probe.fileno())
            taken.append(time.perf_counter() - started)
    return max(taken) * 1000


def ledger(settings: Settings) -> list[Finding]:
    """Whether there is one, who holds it, and which schema it has."""
    if settings.postgres_url:
        return _postgres(settings.postgres_url, settings.ledger_name)
    path = settings.ledger_path
    if not path.exists():
        return [ok("ledger", f"{path} is made at the first start")]
    try:
        return [ok("ledger", held(path) or f"{path} is free"), _schema(path)]
    except OSError as error:
        return [problem("ledger", f"{path}: {error.strerror}", "give this user the right to read and write it")]
    except LedgerBroken as error:
        return [problem("ledger", str(error), NO_LEDGER)]


def _postgres(url: str, name: str) -> list[Finding]:
    try:
        found = asyncio.run(postgres_facts(url))
    except ExtraMissing as error:
        return [problem("ledger", str(error), "install it, or name an sqlite:/// ledger")]
    except LedgerUnavailable as error:
        return [problem("ledger", f"{name}: {error}", "see that PostgreSQL runs and lets this user in")]
    ledger = ok("ledger", f"{name}, PostgreSQL {found.server}")
    if found.read_only:
        ledger = problem("ledger", f"{name} is a standby, which takes no writes", "name the primary server")
    elif not found.fsync:
        ledger = warning("ledger", f"{name} runs with fsync off", "set fsync = on: a power failure would lose sales")
    return [
        ledger,
        _schema_of(found.schema, found.newest, "run `flashsale migrate` before `serve`"),
    ]


def _schema_of(version: int, newest: int, remedy: str) -> Finding:
    if version > newest:
        return problem("schema", f"{version}; this version knows {newest}", "run the newer version of flashsale")
    if version < newest:
        return warning("schema", f"{version} of {newest}", remedy)
    return ok("schema", str(version))


def _schema(path: Path) -> Finding:
    if not may_be_ledger(path):
        return problem("schema", f"{path} is no SQLite file", NO_LEDGER)
    connection = connect(path, writes=False)
    try:
        version, newest = schema_version(connection), max(migrations())
    finally:
        connection.close()
    return _schema_of(version, newest, "`flashsale migrate` (or the next start) applies the rest")


def address(host: str, port: int) -> Finding:
    """Whether `serve` could listen there; if not, who does."""
    where = show(host, port)
    try:
        require_free(host, port)
    except Problem as taken:
        return _who_answers(where, taken)
    return ok("address", f"{where} is free")


class _Health(msgspec.Struct):
    """What tells flashsale from any other server: GET /health."""

    status: str
    version: str
    parts: dict[str, msgspec.Raw]


def _who_answers(where: str, taken: Problem) -> Finding:
    try:
        told = httpx.get(f"http://{where}/health", timeout=ANSWER_SECONDS, trust_env=False).content
        health = msgspec.json.decode(told, type=_Health)
    except (httpx.HTTPError, msgspec.MsgspecError):
        return problem("address", taken.what, taken.remedy)
    found = f"flashsale {health.version} answers at {where}: {health.status}"
    if health.status in ("ok", "degraded"):
        return ok("address", found)
    return problem("address", found, f"ask http://{where}/health which part is missing")
