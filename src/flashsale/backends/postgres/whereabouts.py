"""Which of several databases a thing is in, as far as this process knows without asking, and otherwise by asking."""

from collections.abc import Iterable
from typing import NamedTuple

from flashsale.backends.ids import shard_of
from flashsale.backends.postgres.find import ShardOfSale
from flashsale.backends.postgres.shard import Shard
from flashsale.core.journal import Stock
from flashsale.core.right import FIRST
from flashsale.core.sale import Sale
from flashsale.ports import Observer


class Whereabouts:
    def __init__(self, shards: list[Shard]) -> None:
        self._shards = shards
        self.known: dict[str, int] = {}
        """Where the sales are that this process has seen. A sale never moves, so no entry is ever wrong."""

    def told(self, ids: Iterable[str | None]) -> int | None:
        """The one shard that these ids tell of."""
        told = {shard_of(each) for each in ids if each is not None}
        number = told.pop() if len(told) == 1 else None
        return number if number is not None and number < len(self._shards) else None

    async def of_sale(self, sale_id: str) -> int:
        """A sale that is nowhere is the first's to refuse."""
        number = self.known.get(sale_id)
        if number is None:
            number = await self._shards[FIRST].find(ShardOfSale(sale_id))
            if number is None or number >= len(self._shards):
                return FIRST
            self.known[sale_id] = number
        return number


class Heard(NamedTuple):
    """What a shard tells the engine. It is noted where a sale is before anybody else hears of it, because whoever
    knows a sale may give out ids of it."""

    number: int
    known: dict[str, int]
    engine: Observer

    def stock_changed(self, rows: list[Stock]) -> None:
        self.engine.stock_changed(rows)

    def sale_changed(self, sale_id: str, sale: Sale | None) -> None:
        self.known[sale_id] = self.number
        self.engine.sale_changed(sale_id, sale)
