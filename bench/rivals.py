"""The servers that are compared. Each starts on free ports of its own and is told to open a sale."""

import asyncio
import contextlib
import http.client
import json
import secrets
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from machine import BENCH, ROOT, Process, build_go, environment, free_port, process, tool

from flashsale.backends.postgres.connect import migrate

sys.path.append(str(ROOT / "tests"))
from servers.postgres import PostgresServer  # the same server that the tests start

STOCK = 50_000_000
RESERVE = "/api/v1/reservations"
POOL = 512  # connections to Redis: more than the 256 that ask


def call(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    text = None if body is None else json.dumps(body)
    connection.request(method, path, text, {"Content-Type": "application/json", "Connection": "close", **headers})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, json.loads(content) if content else None


def expect(status: int, answer: tuple[int, Any]) -> Any:
    if answer[0] != status:
        raise RuntimeError(f"expected {status}, got {answer[0]}: {answer[1]}")
    return answer[1]


def wait_for(child: Process, port: int, path: str, seconds: float = 30) -> None:
    until = time.monotonic() + seconds
    while child.poll() is None:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            if call(port, "GET", path)[0] == 200:
                return
        if time.monotonic() > until:
            raise RuntimeError(f"nothing answers on port {port} after {seconds:.0f} s")
        time.sleep(0.05)
    raise RuntimeError(f"a server ended by itself with status {child.returncode}")


def buy(port: int, sku: str) -> tuple[int, Any]:
    who = secrets.token_hex(8)
    body = {"skuId": sku, "quantity": 1, "userId": who}
    return call(port, "POST", RESERVE, body, **{"Idempotency-Key": who})


class Rival:
    """One way to sell. `open_sale` makes the stock; `sold` is what its own books say."""

    name: str
    port: int
    sku = "BENCH-1"

    @contextlib.contextmanager
    def running(self, place: Path) -> Iterator["Rival"]:
        raise NotImplementedError

    def open_sale(self, stock: int) -> None:
        raise NotImplementedError

    def sold(self) -> int | None:
        return None

    def sell_out(self) -> None:
        self.open_sale(1)
        expect(201, buy(self.port, self.sku))


class Nginx(Rival):
    name = "nginx `return`"

    @contextlib.contextmanager
    def running(self, place: Path) -> Iterator[Rival]:
        self.accepting, self.refusing = free_port(), free_port()
        self.port = self.accepting
        filled = {"DIR": place, "ACCEPTED": self.accepting, "SOLD_OUT": self.refusing, "WORKERS": 2}
        text = (BENCH / "nginx.conf").read_text()
        for word, value in filled.items():
            text = text.replace(f"@{word}@", str(value))
        (place / "nginx.conf").write_text(text)
        with process("nginx", [tool("nginx"), "-p", str(place), "-c", str(place / "nginx.conf")], place) as child:
            wait_for(child, self.port, f"/api/v1/products/{self.sku}/availability")
            yield self

    def open_sale(self, stock: int) -> None:
        self.port = self.accepting

    def sell_out(self) -> None:
        self.port = self.refusing


class OnRedis(Rival):
    """What gin and Flask have in common: a Redis of their own, and the stock left as their book."""

    @contextlib.contextmanager
    def redis(self, place: Path) -> Iterator[int]:
        port, home = free_port(), place / f"redis-{self.name}"
        home.mkdir()
        options = ["--bind", "127.0.0.1", "--dir", str(home), "--save", "", "--appendonly", "no"]
        with process(f"redis-{self.name}", [tool("redis-server"), "--port", str(port), *options], place):
            yield port

    def open_sale(self, stock: int) -> None:
        expect(204, call(self.port, "POST", "/seed", {"skuId": self.sku, "stock": stock}))

    def sold(self) -> int:
        facts = expect(200, call(self.port, "GET", f"/api/v1/products/{self.sku}/availability"))
        return STOCK - int(facts["availableCount"])


class Gin(OnRedis):
    name = "gin + Redis"

    @contextlib.contextmanager
    def running(self, place: Path) -> Iterator[Rival]:
        program = build_go("gin")
        self.port = free_port()
        with self.redis(place) as redis:
            where = [f"-listen=127.0.0.1:{self.port}", f"-redis=127.0.0.1:{redis}", f"-pool={POOL}"]
            with process("gin", [str(program), *where], place) as child:
                wait_for(child, self.port, f"/api/v1/products/{self.sku}/availability")
                yield self


class FlaskApp(OnRedis):
    name = "Flask + Redis"

    @contextlib.contextmanager
    def running(self, place: Path) -> Iterator[Rival]:
        home = environment("flask", ["-r", str(BENCH / "flask/requirements.txt")])
        self.port = free_port()
        command = [str(home / "bin/gunicorn"), "-k", "gevent", "-w", "2", "--worker-connections", "2000"]
        command += ["--keep-alive", "75", "--backlog", "4096", "-b", f"127.0.0.1:{self.port}"]
        command += ["--no-control-socket", "--chdir", str(BENCH / "flask"), "shop:app"]
        with (
            self.redis(place) as redis,
            process("flask", command, place, REDIS_PORT=str(redis), PYTHONDONTWRITEBYTECODE="1") as child,
        ):
            wait_for(child, self.port, f"/api/v1/products/{self.sku}/availability")
            yield self


class Flashsale(Rival):
    """This project, as `flashsale serve` runs it: embedded profile, every commit synced to disk."""

    name = "flashsale"
    workers = 1
    pid: int

    @contextlib.contextmanager
    def running(self, place: Path) -> Iterator[Rival]:
        with self.serving(place, "") as server:
            yield server

    @contextlib.contextmanager
    def serving(self, place: Path, ledger: str) -> Iterator[Rival]:
        self.port, self.sales, self.token = free_port(), 0, secrets.token_hex(16)
        home = secrets.token_hex(4)
        command = [str(ROOT / ".venv/bin/flashsale"), "serve", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--data", str(place / f"flashsale-{home}"), "--workers", str(self.workers)]
        settings = {"FLASHSALE_ADMIN_TOKEN": self.token, "FLASHSALE_LEDGER": ledger}
        with process(f"flashsale-{home}", command, place, **settings) as child:
            self.pid = child.pid
            wait_for(child, self.port, "/health/ready")
            yield self

    def admin(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return call(self.port, method, f"/api/v1/admin{path}", body, Authorization=f"Bearer {self.token}")

    def open_sale(self, stock: int) -> None:
        self.sales += 1
        self.sale, self.sku = f"bench-{self.sales}", f"BENCH-{self.sales}"
        expect(201, self.admin("POST", "/sales", sale(self.sale, self.sku, stock)))

    def sold(self) -> int:
        ledger = expect(200, self.admin("GET", f"/sales/{self.sale}/ledger"))
        if not ledger["consistent"]:
            raise RuntimeError(f"the ledger is not consistent: {ledger}")
        return sum(product["held"] + product["sold"] for product in ledger["products"])


class FlashsaleOnPostgres(Flashsale):
    """The same with its ledger on PostgreSQL: fsync and full_page_writes on, on the same two cores."""

    name = "flashsale, PostgreSQL"

    @contextlib.contextmanager
    def running(self, place: Path) -> Iterator[Rival]:
        server = PostgresServer(durable=True)
        try:
            server.start()
            asyncio.run(migrate(server.url()))
            with self.serving(place, server.url()) as served:
                yield served
        finally:
            server.stop()


class FlashsaleFleet(FlashsaleOnPostgres):
    name = "the same, 2 workers"
    workers = 2


def sale(name: str, sku: str, stock: int) -> dict[str, Any]:
    now = datetime.now(UTC)
    product = {
        "skuId": sku,
        "name": "Phone 256 GB",
        "description": "The product on sale",
        "category": "phones",
        "currency": "USD",
        "basePrice": 1299.99,
        "flashSalePrice": 999.99,
        "stock": stock,
        "perUserLimit": 1,
    }
    return {
        "id": name,
        "name": "Benchmark",
        "startsAt": f"{now - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}",
        "endsAt": f"{now + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}",
        "reservationSeconds": 3600,
        "products": [product],
    }


RIVALS: dict[str, type[Rival]] = {"nginx": Nginx, "gin": Gin, "flask": FlaskApp, "flashsale": Flashsale,
                                   "postgres": FlashsaleOnPostgres, "fleet": FlashsaleFleet}  # fmt: skip
