"""What comes in one turn of the event loop goes together: one call for all of it, in parts that are not too large.

The first thing that comes asks the loop to go on with it in its next turn; whatever comes until then is with it. Under
load that makes the batches, and somebody who is alone waits for nobody.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from flashsale.ports import LedgerUnavailable

A = TypeVar("A")
Q = TypeVar("Q")
T = TypeVar("T")


class Gathering(Generic[T]):
    """`work` gets at most `most` things at a time, in a task of its own for each part."""

    def __init__(self, work: Callable[[list[T]], Awaitable[None]], most: int) -> None:
        self._work = work
        self._most = most
        self._things: list[T] = []
        self._tasks: set[asyncio.Future[None]] = set()

    def add(self, *things: T) -> None:
        if not self._things:
            asyncio.get_running_loop().call_soon(self._begin)
        self._things += things

    def _begin(self) -> None:
        things, self._things = self._things, []
        for start in range(0, len(things), self._most):
            task = asyncio.ensure_future(self._work(things[start : start + self._most]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


class _Asked(NamedTuple, Generic[Q, A]):
    sale_id: str
    question: Q
    answer: "asyncio.Future[A]"


class Together(Generic[Q, A]):
    """Questions about sales, those about one sale in one call: `call` answers them in their order. Each asker gets his
    answer, or the LedgerUnavailable that all of them got."""

    def __init__(self, call: Callable[[str, list[Q]], Awaitable[Sequence[A]]], most: int) -> None:
        self._call = call
        self._asked: Gathering[_Asked[Q, A]] = Gathering(self._work, most)

    async def ask(self, sale_id: str, question: Q) -> A:
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._asked.add(_Asked(sale_id, question, answer))
        return await answer

    async def _work(self, asked: list[_Asked[Q, A]]) -> None:
        by_sale: defaultdict[str, list[_Asked[Q, A]]] = defaultdict(list)
        for each in asked:
            by_sale[each.sale_id].append(each)
        await asyncio.gather(*(self._one_sale(sale_id, each) for sale_id, each in by_sale.items()))

    async def _one_sale(self, sale_id: str, asked: list[_Asked[Q, A]]) -> None:
        trouble = LedgerUnavailable("a question could not be answered")
        try:
            answers = await self._call(sale_id, [each.question for each in asked])
            for each, answer in zip(asked, answers, strict=True):
                if not each.answer.done():
                    each.answer.set_result(answer)
        except LedgerUnavailable as error:
            trouble = error
        finally:
            for each in asked:  # a mistake of ours leaves nobody without an answer
                if not each.answer.done():
                    each.answer.set_exception(trouble)
