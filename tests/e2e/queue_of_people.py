"""People who come to a waiting room, wait for their turn and buy, whatever happens to the shop meanwhile.

Each remembers everything that he was told. What comes of it is the evidence.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from flashsale.core.draw import merkle_root, order, read_receipt, ticket_hash
from flashsale.rehearsal.http_client import HttpClient, LostReply
from flashsale.rehearsal.servers import Sandbox, ShopServer

TOKEN = "the-operators-token-of-this-test"
PATIENCE_SECONDS = 60.0
POLL_SECONDS = 0.2


class Person:
    def __init__(self, hall: "Hall", name: str) -> None:
        self.hall = hall
        self.name = name
        self.tickets: set[str] = set()
        self.receipt = ""
        self.positions: list[int] = []
        self.states: list[str] = []
        self.pass_text = ""
        self.bought = 0
        self.may_buy = asyncio.Event()
        self.may_buy.set()
        self._asking = asyncio.Lock()
        """He asks one thing after the other: of two answers nobody can tell which was given first, and whoever asks for
        a place while he buys gets another one."""

    async def visit(self) -> None:
        await self.join()
        while not self.is_admitted:
            await asyncio.sleep(POLL_SECONDS)
            await self.look()
        await self.may_buy.wait()
        body = {"skuId": "PHONE", "userId": self.name, "requestKey": self.name}
        told = await self.hall.told("POST", "/reservations", 201, body, {"X-Flashsale-Pass": self.pass_text})
        self.bought = told["quantity"]

    @property
    def ticket(self) -> str:
        (ticket,) = self.tickets
        return ticket

    @property
    def is_admitted(self) -> bool:
        return "ADMITTED" in self.states

    async def look(self) -> None:
        async with self._asking:
            self.note(await self.hall.told("GET", f"/sales/sale/queue/{self.ticket}", 200))

    async def join(self) -> None:
        async with self._asking:
            if self.is_admitted:
                return
            told = await self.hall.told("POST", "/sales/sale/queue", 201, {"userId": self.name})
            self.receipt = told["receipt"]
            self.note(told)

    def note(self, told: dict[str, Any]) -> None:
        self.tickets.add(told["ticket"])
        self.states.append(told["state"])
        if told["position"] is not None:
            self.positions.append(told["position"])
        self.pass_text = told.get("pass", self.pass_text)

    @property
    def has_lost_places(self) -> bool:
        return any(after > before for before, after in zip(self.positions, self.positions[1:], strict=False))


class Hall:
    """A shop with a sale that starts in a moment, and its people."""

    def __init__(self, server: ShopServer, client: HttpClient, seed: int) -> None:
        self.server = server
        self.client = client
        self.dice = random.Random(seed)
        self.people: list[Person] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def told(
        self, method: str, path: str, status: int, body: object = None, headers: dict[str, str] | None = None
    ) -> Any:
        """What the shop says in the end: nobody gives up because of a lost reply or a 503."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                try:
                    answer = await self.client.fetch(method, "/api/v1" + path, body, headers or {})
                except LostReply:
                    await asyncio.sleep(0.1)
                    continue
                if answer.status == status:
                    return msgspec.json.decode(answer.body) if answer.body else None
                assert answer.status == 503, (method, path, answer.status, answer.body)
                await asyncio.sleep(0.1)

    async def open(self, starts_in_seconds: float, **room: Any) -> None:
        starts_at = (datetime.now(UTC) + timedelta(seconds=starts_in_seconds)).isoformat()
        product = {"skuId": "PHONE", "name": "A phone", "flashSalePrice": 999.99, "stock": 10_000}
        terms = {"enabled": True, "admitPerSecond": 20, "burst": 5, "passSeconds": 600} | room
        sale = {"id": "sale", "name": "A sale", "startsAt": starts_at, "products": [product], "waitingRoom": terms}
        await self.told("POST", "/admin/sales", 201, sale, {"Authorization": f"Bearer {TOKEN}"})

    def come(self, count: int, within_seconds: float) -> None:
        for _ in range(count):
            person = Person(self, f"person-{len(self.people)}")
            self.people.append(person)
            self.tasks.append(asyncio.create_task(self._after(self.dice.uniform(0, within_seconds), person)))

    async def _after(self, seconds: float, person: Person) -> None:
        await asyncio.sleep(seconds)
        await person.visit()

    async def all_have_bought(self) -> None:
        await asyncio.gather(*self.tasks)

    async def join_again(self) -> None:
        """Those who have a place ask for one once more."""
        waiting = [person for person in self.people if person.states and not person.is_admitted]
        await asyncio.gather(*(person.join() for person in self.dice.sample(waiting, min(20, len(waiting)))))

    @property
    def admitted(self) -> int:
        return sum(person.is_admitted for person in self.people)

    async def faults(self) -> list[str]:
        """Everything that should not have happened, in words."""
        found = [f"{each.name} has lost places: {each.positions}" for each in self.people if each.has_lost_places]
        found += [f"{each.name} has {len(each.tickets)} tickets" for each in self.people if len(each.tickets) != 1]
        found += [f"{each.name} has bought {each.bought}" for each in self.people if each.bought != 1]
        return found + await self._faults_of_the_draw()

    async def _faults_of_the_draw(self) -> list[str]:
        drawn = await self.told("GET", "/sales/sale/draw", 200)
        hashes = [bytes.fromhex(each) for each in drawn["hashes"]]
        seed, root = bytes.fromhex(drawn["seed"]), bytes.fromhex(drawn["root"])
        found = [] if merkle_root(hashes) == root else ["the root is not that of the entrants"]
        found += [] if order(seed, root, hashes) == drawn["order"] else ["the order is not that of the seed"]
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(drawn["publicKey"]))
        for person in self.people:
            receipt = read_receipt(person.receipt, key)
            if receipt is None or receipt.ticket_hash != ticket_hash(person.ticket).hex():
                found.append(f"the receipt of {person.name} is not his")
            elif receipt.kind == "prequeue" and hashes[receipt.number - 1].hex() != receipt.ticket_hash:
                found.append(f"{person.name} is not among the entrants where he came")
        return found


@asynccontextmanager
async def a_hall(directory: Path, seed: int, ledger: str = "", workers: int = 1, **more: str) -> AsyncIterator[Hall]:
    async with (
        Sandbox(directory) as sandbox,
        ShopServer(directory, TOKEN, sandbox.url, ledger, workers, **more) as server,
    ):
        with closing(HttpClient(server.url, 300)) as client:
            yield Hall(server, client, seed)
