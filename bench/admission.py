"""What admission costs an accepted reservation: rate limits, risk and the pass, on and off, in one run.

The same requests go to servers that look at less or more of them: each is a new buyer with an address of his own, a key
and a pass. The baseline knows buyers by a gateway's word and looks at nothing else. With tokens, a token is known
already (a buyer who has asked before, the rule where people wait in a line) or verified anew with every request.
"""

import argparse
import os
import secrets
import sqlite3
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from operator import truediv
from pathlib import Path
from typing import NamedTuple

import jwt
import report
from load import THREADS, wrk
from machine import facts, process, say, scratch, versions
from rivals import ROOT, STOCK, Flashsale, expect, free_port, sale, wait_for

from flashsale.core.passes import new_pass

SECRET = secrets.token_hex(32)
LIMITS = {"FLASHSALE_RATE_PER_ADDRESS": "1000", "FLASHSALE_RATE_PER_USER": "1000", "FLASHSALE_RATE_GLOBAL": "1000000"}
FREE = {"FLASHSALE_RATE_PER_ADDRESS": "0", "FLASHSALE_RATE_PER_USER": "0", "FLASHSALE_RATE_GLOBAL": "0"}
GATEWAY = {"FLASHSALE_IDENTITY": "gateway", "FLASHSALE_TRUSTED_PROXIES": "127.0.0.0/8"}
JWT = {"FLASHSALE_IDENTITY": "jwt", "FLASHSALE_JWT_SECRET": SECRET, "FLASHSALE_TRUSTED_PROXIES": "127.0.0.0/8"}
OFF = {"FLASHSALE_RISK": "off"}
ROOM = {"enabled": True, "admitPerSecond": 1000, "prequeueSeconds": 0}


class Kind(NamedTuple):
    """A way to be asked. `tokens`: how many different ones there are, if any."""

    name: str
    settings: dict[str, str]
    room: bool = True
    tokens: int = 0


KINDS = (
    Kind("gateway, admission off", GATEWAY | FREE | OFF, room=False),
    Kind("gateway, limits", GATEWAY | LIMITS | OFF, room=False),
    Kind("gateway, limits and risk", GATEWAY | LIMITS, room=False),
    Kind("gateway, limits, risk and pass", GATEWAY | LIMITS),
    Kind("JWT known, limits, risk and pass", JWT | LIMITS, tokens=4_000),
    Kind("JWT new each time, limits, risk and pass", JWT | LIMITS, tokens=10**9),
)


class Server(Flashsale):
    """One of them."""

    def __init__(self, kind: Kind, place: Path, buyers: int) -> None:
        self.kind, self.place, self.buyers = kind, place, buyers
        self.name = kind.name

    @contextmanager
    def at_work(self) -> Iterator[None]:
        self.port, self.sales, self.token = free_port(), 0, secrets.token_hex(16)
        self.data = self.place / f"data-{secrets.token_hex(4)}"
        command = [str(ROOT / ".venv/bin/flashsale"), "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        settings = {"FLASHSALE_ADMIN_TOKEN": self.token, **self.kind.settings}
        with process(self.data.name, [*command, "--data", str(self.data)], self.place, **settings) as child:
            self.pid = child.pid
            wait_for(child, self.port, "/health/ready")
            if self.kind.tokens:  # few buyers buy often here
                expect(
                    200,
                    self.admin(
                        "PUT",
                        "/limits",
                        {"riskChallengePerMinute": 90_000, "riskBlockPerMinute": 100_000, "riskUnpaidMany": 64},
                    ),
                )
            yield

    def open_sale(self, stock: int) -> None:
        self.sales += 1
        self.sale, self.sku = f"bench-{self.sales}", f"BENCH-{self.sales}"
        body = sale(self.sale, self.sku, stock)
        body["products"][0]["perUserLimit"] = 10_000
        expect(201, self.admin("POST", "/sales", body | ({"waitingRoom": ROOM} if self.kind.room else {})))

    def accepted(self, seconds: int) -> float:
        self.open_sale(STOCK)
        self.write_buyers()
        os.environ["BENCH_BUYERS"] = str(self.place / "buyers")
        counted = wrk(self.port, "admission.lua", self.sku, seconds)
        if counted.refused or counted.broken:
            raise RuntimeError(f"{self.name}: {counted.refused} refused, {counted.broken} broken")
        if counted.requests > self.buyers:
            raise RuntimeError(f"{self.name}: {counted.requests} requests, and {self.buyers} buyers were prepared")
        sold = self.sold()
        if not 0 <= sold - counted.requests <= 512:
            raise RuntimeError(f"{self.name}: {counted.requests} were told 201, and {sold} are sold")
        say(f"{self.name}: {counted.per_second:,.0f}/s")
        return counted.per_second

    def write_buyers(self) -> None:
        with closing(sqlite3.connect(self.data / "ledger.db")) as ledger:
            (secret,) = ledger.execute("SELECT value FROM secret WHERE name = 'ids'").fetchone()
        until_ms, mark = int(time.time() * 1000) + 3_600_000, secrets.token_hex(3)
        tokens = [token(f"user-{mark}-{each}") for each in range(min(self.kind.tokens, self.buyers))]
        for thread in range(THREADS):
            with (self.place / f"buyers.{thread}").open("w") as lines:
                for number in range(thread + 1, self.buyers, THREADS):
                    who = number % len(tokens) if tokens else number
                    user = f"user-{mark}-{who}"
                    passed = new_pass(secret, self.sale, user, number, until_ms) if self.kind.room else "-"
                    address = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
                    lines.write(f"{user} {address} {passed} {tokens[who] if tokens else '-'}\n")


def token(user: str) -> str:
    return jwt.encode({"sub": user, "exp": int(time.time()) + 3600}, SECRET, algorithm="HS256")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench admission", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of 2 s each instead of seven of 4 s")
    parser.add_argument("--write", action="store_true", help="put the result into docs/benchmarks.md")
    options = parser.parse_args()
    rounds, seconds = (1, 2) if options.quick else (7, 4)
    with scratch() as place:
        machine = facts(place) | {"software": versions()}
        found: dict[str, list[float]] = {kind.name: [] for kind in KINDS}
        with ExitStack() as stack:
            servers = [Server(kind, place, 60_000 * seconds) for kind in KINDS]
            for server in servers:
                stack.enter_context(server.at_work())
            for _ in range(rounds):
                for server in servers:
                    found[server.name].append(server.accepted(seconds))
    whole = found[KINDS[0].name]
    rows = [
        [name, f"{statistics.median(each):,.0f}", f"{statistics.median(map(truediv, each, whole)):.2f}"]
        for name, each in found.items()
    ]
    machine["method"] = (
        f"256 connections; {rounds} rounds of {seconds} s each, alternating; median of rates, and of ratios"
    )
    text = "\n".join(
        [report.described(machine, report.command()), "", report.table(["", "201/s", "of the first"], rows)]
    )
    print(text)
    if options.write:
        report.write("admission", text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
