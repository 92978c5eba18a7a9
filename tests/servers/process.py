"""What the servers of the tests have in common as processes: free ports, and an ordinary user to run as."""

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from flashsale.rehearsal.servers import free_port


def free_ports(number: int) -> set[int]:
    """Each another one."""
    found: set[int] = set()
    while len(found) < number:
        found.add(free_port())
    return found


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
