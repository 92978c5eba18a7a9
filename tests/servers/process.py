"""What the servers of the tests have in common as processes: free ports, and an ordinary user to run as."""

import os
import pwd
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol, TypeVar


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(number: int) -> list[int]:
    """That nobody listens on at this moment, each another one."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def ordinary_user(*names: str) -> pwd.struct_passwd | None:
    """Whom root gives a server to: the first of these who exists. None where we are not root."""
    if os.geteuid() != 0:
        return None
    for name in names:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError(f"none of the users {names} exists here: no server is run as root")


def run_as(user: pwd.struct_passwd | None) -> dict[str, object]:
    """What `subprocess` has to be told for it."""
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}


_at_end: list[Callable[[], None]] = []


def stop_at_end(stop: Callable[[], None]) -> None:
    """With the run: a process of pytest-xdist ends without what `atexit` has to do."""
    _at_end.append(stop)


def stop_all() -> None:
    while _at_end:
        _at_end.pop()()


class Startable(Protocol):
    def start(self) -> None: ...
    def stop(self) -> None: ...


S = TypeVar("S", bound=Startable)


@contextmanager
def running(server: S) -> Iterator[S]:
    """A server that is stopped in any case."""
    try:
        server.start()
        yield server
    finally:
        server.stop()
