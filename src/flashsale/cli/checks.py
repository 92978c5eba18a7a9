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
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
from msgspec.structs import replace

from flashsale.backends.sqlite.file import connect, migrations, schema_version
from flashsale.cli.address import OTHER_FILES, require_free, show
from flashsale.cli.broker_check import broker
from flashsale.cli.data_directory import NO_LEDGER, NOT_WRITABLE, may_be_ledger, writable_place
from flashsale.cli.finding import Finding, ok, problem, warning
from flashsale.cli.opening import held
from flashsale.cli.problem import Problem
from flashsale.cli.token_keys import token_keys
from flashsale.composition import ExtraMissing, postgres_facts, redis_facts
from flashsale.ports import GateAway, LedgerBroken, LedgerUnavailable
from flashsale.settings import PREFIX, Settings, without_password

PYTHON_MIN = (3, 11)
FREE_MIN_BYTES = 256 * 1024 * 1024
FSYNCS = 5
FSYNC_SLOW_MS = 50
RELEASED = datetime(2025, 1, 1, tzinfo=UTC)
CLOCK_SECONDS = 0.05
CLOCKS_APART_MS = 500
ANSWER_SECONDS = 2.0
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "afs", "ceph", "glusterfs"}
MEMORY = {"tmpfs", "ramfs"}


def examine(settings: Settings, host: str, port: int) -> list[Finding]:
    """All checks, in the order in which `serve` would stumble."""
    return [
        python(),
        open_files(settings),
        names(os.environ),
        clock(),
        profile(settings),
        *directory(settings),
        *ledger(settings),
        *gate(settings),
        *broker(settings),
        *token_keys(settings),
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
        return _databases(settings.postgres_urls)
    path = settings.ledger_path
    if not path.exists():
        return [ok("ledger", f"{path} is made at the first start")]
    try:
        return [ok("ledger", held(path) or f"{path} is free"), _schema(path)]
    except OSError as error:
        return [problem("ledger", f"{path}: {error.strerror}", "give this user the right to read and write it")]
    except LedgerBroken as error:
        return [problem("ledger", str(error), NO_LEDGER)]


def _databases(urls: Sequence[str]) -> list[Finding]:
    """Each database of the ledger; that they are in their places, and that their clocks agree."""
    findings: list[Finding] = []
    known: list[Any] = []
    for shard_id, url in enumerate(urls):
        found = _asked(url, shard_id, len(urls), known[0].ledger_id if known else None)
        if isinstance(found, Finding):
            findings.append(_of_shard(found, shard_id, urls))
            continue
        known.append(found)
        findings += [_of_shard(each, shard_id, urls) for each in _database(found, without_password(url))]
    if len(known) > 1:
        findings.append(_clocks([found.ahead_ms for found in known]))
    return findings


def _asked(url: str, shard_id: int, shards: int, ledger_id: str | None) -> Any:
    try:
        return asyncio.run(postgres_facts(url, shard_id, shards, ledger_id))
    except ExtraMissing as error:
        return problem("ledger", str(error), "install it, or name an sqlite:/// ledger")
    except LedgerUnavailable as error:
        found = f"{without_password(url)}: {error}"
        return problem("ledger", found, "see that PostgreSQL runs and lets this user in")


def _database(found: Any, name: str) -> list[Finding]:
    ledger = ok("ledger", f"{name}, PostgreSQL {found.server}")
    if found.misplaced:
        ledger = problem("ledger", f"{name}: {found.misplaced}", "do that; docs/shards.md has the rules")
    elif found.read_only:
        ledger = problem("ledger", f"{name} is a standby, which takes no writes", "name the primary server")
    elif not found.fsync:
        ledger = warning("ledger", f"{name} runs with fsync off", "set fsync = on: a power failure would lose sales")
    return [ledger, _schema_of(found.schema, found.newest, "run `flashsale migrate` before `serve`")]


def _of_shard(finding: Finding, shard_id: int, urls: Sequence[str]) -> Finding:
    return replace(finding, name=f"{finding.name} {shard_id}") if len(urls) > 1 else finding


def _clocks(ahead_ms: Sequence[int]) -> Finding:
    """Each sale goes by the clock of its database; the shop window by that of the first."""
    apart_ms = max(ahead_ms) - min(ahead_ms)
    found = f"{apart_ms} ms apart at most"
    if apart_ms > CLOCKS_APART_MS:
        return warning("databases' clocks", found, "keep the database servers' clocks right with NTP")
    return ok("databases' clocks", found)


PROFILES = {
    "embedded": "one process, its ledger a file, nothing else to run",
    "postgres": "any number of processes on one database",
    "cluster": "any number of processes, PostgreSQL and Kafka",
}


def profile(settings: Settings) -> Finding:
    """What the URLs make, together."""
    return ok("profile", f"{settings.profile}: {PROFILES[settings.profile]}")


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


def gate(settings: Settings) -> list[Finding]:
    """Whether Redis answers, is what the URL says, and keeps what it is told."""
    url, name = settings.redis_url, settings.gate_name
    if url is None:
        return [ok("gate", "in the server's own memory: for one API process")]
    try:
        found = asyncio.run(redis_facts(url))
    except ExtraMissing as error:
        return [problem("gate", str(error), "install it, or leave FLASHSALE_GATE out")]
    except GateAway as error:
        return [problem("gate", str(error), "see that Redis runs and lets this user in")]
    wants_cluster = url.startswith("redis+cluster://")
    if any(each.is_cluster is not wants_cluster for each in found):
        kind, scheme = ("no cluster", "redis://") if wants_cluster else ("a cluster", "redis+cluster://")
        return [problem("gate", f"{name} is {kind}", f"name it with {scheme}")]
    servers = f"{name}, {', '.join(sorted({each.server for each in found}))}"
    if evicts := next((each.evicts for each in found if each.evicts), ""):
        remedy = "set maxmemory-policy noeviction: with this one Redis forgets permits and limits when memory is short"
        return [warning("gate", f"{servers} with maxmemory-policy {evicts}", remedy)]
    return [ok("gate", servers)]


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
