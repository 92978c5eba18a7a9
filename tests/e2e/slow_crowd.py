"""Clients that take their time, as a process of its own: `python slow_crowd.py PORT COUNT`, told what to do on stdin.

`open`: COUNT connections are made, within a second; answered with `open` when each has sent its first bytes. `told`:
answered with how many the server has ended, as JSON. `close`: the same, and all are dropped. What it ends is made again
at once.

A quarter each: HEAD sends a head, a byte a second, without end. BODY does so with the body of a purchase. READER
asks more than it reads, which is a byte a second. IDLE says nothing.
"""

import json
import os
import resource
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

TICKS = 20
"""In a second; in each of them a part of the crowd moves."""
AVAILABILITY = b"GET /api/v1/products/PHONE/availability HTTP/1.1\r\nHost: shop\r\n\r\n"
HEAD_BEGINS = b"GET /api/v1/products HTTP/1.1\r\nHost: shop\r\nX-Slow: "
BODY_BEGINS = b'POST /api/v1/reservations HTTP/1.1\r\nHost: shop\r\nContent-Length: 1000\r\n\r\n{"skuId":"'


class Kind(StrEnum):
    HEAD = "HEAD"
    BODY = "BODY"
    READER = "READER"
    IDLE = "IDLE"


BEGINS = {Kind.HEAD: HEAD_BEGINS, Kind.BODY: BODY_BEGINS, Kind.READER: AVAILABILITY * 40, Kind.IDLE: b""}


@dataclass
class Slow:
    """One connection of one client."""

    kind: Kind
    sock: socket.socket


class Crowd:
    def __init__(self, port: int, count: int) -> None:
        self.port = port
        self.parts = [[[*Kind][number % len(Kind)] for number in range(part, count, TICKS)] for part in range(TICKS)]
        self.open: list[list[Slow]] = []
        self.ended = Counter[Kind]()

    def connect(self, kind: Kind) -> Slow:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(5)
        sock.connect(("127.0.0.1", self.port))
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.send(BEGINS[kind])
        return Slow(kind, sock)

    def tick(self, number: int) -> None:
        part = number % TICKS
        if part == len(self.open):  # the first second: they come one after the other
            self.open.append([self.connect(kind) for kind in self.parts[part]])
            return
        for slow in self.open[part]:
            if not self.moves(slow):
                self.again(slow)

    def moves(self, slow: Slow) -> bool:
        """A byte further. False: the server has had enough."""
        try:
            if slow.kind is Kind.READER:
                return slow.sock.recv(1) != b""
            if slow.kind is not Kind.IDLE:
                slow.sock.send(b"x")
            slow.sock.recv(4096)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False  # whatever it was told, it was not what it is here for

    def again(self, slow: Slow) -> None:
        self.ended[slow.kind] += 1
        slow.sock.close()
        slow.sock = self.connect(slow.kind).sock

    def close(self) -> dict[Kind, int]:
        """How many connections the server has ended."""
        for part in self.open:
            for slow in part:
                slow.sock.close()
        ended = dict(self.ended)
        self.open.clear()
        self.ended.clear()
        return ended


def commands() -> list[str]:
    """What has been said since the last time; raises EOFError when nothing more will be."""
    try:
        said = sys.stdin.buffer.raw.read(4096)  # type: ignore[attr-defined]
    except BlockingIOError:
        return []
    if said == b"":
        raise EOFError
    return said.decode().split() if said else []


def main(port: int, count: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.set_blocking(0, False)
    crowd, moving, number = Crowd(port, count), False, 0
    while True:
        for command in commands():
            if command == "told":
                print(json.dumps(crowd.ended), flush=True)
                continue
            moving, number = command == "open", 0
            if not moving:
                print(json.dumps(crowd.close()), flush=True)
        began = time.monotonic()
        if moving:
            crowd.tick(number)
            number += 1
            if number == TICKS:
                print("open", flush=True)
        time.sleep(max(0.0, 1 / TICKS - (time.monotonic() - began)))


if __name__ == "__main__":
    with suppress(EOFError, KeyboardInterrupt):
        main(int(sys.argv[1]), int(sys.argv[2]))
