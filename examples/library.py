"""The engine as a library, without HTTP: open a sale, reserve, pay.

    python examples/library.py

Uses a data directory of its own that is gone afterwards. A program that sells keeps its directory: whatever
was promised is in it, and only one process at a time may have it open.
"""
# ruff: noqa: T201 (an example prints)

import asyncio
import tempfile

from flashsale.core.catalogue import CreateSale, SaleDraft, SwitchSale
from flashsale.core.order import Order
from flashsale.core.refusal import Refused
from flashsale.core.sale import Product, Sale, Switch
from flashsale.core.stock import Granted
from flashsale.engine import Engine
from flashsale.settings import load

PHONE = Product("PHONE", "Phone, 256 GB", "USD", base_price_minor=129_999, price_minor=99_999, per_user_limit=1)
LAUNCH = Sale("launch", "Phone launch", (PHONE,), reservation_seconds=120)


async def sell(engine: Engine) -> None:
    await engine.change_sale(CreateSale(SaleDraft(LAUNCH, {"PHONE": 1}), actor="example"))
    await engine.change_sale(SwitchSale("launch", Switch.START, actor="example"))

    # The key makes the request repeatable: whoever lost the reply asks again and gets the same reservation.
    outcome = await engine.reserve("ada", "PHONE", quantity=1, key="ada-1")
    match outcome:
        case Granted(reservations=[reservation]):
            seconds = (reservation.expires_at_ms - outcome.now_ms) // 1000
            print(f"ada holds {reservation.quantity} {reservation.sku_id} for {seconds} s")
            await pay(engine, reservation.reservation_id)
        case Refused():
            print(f"ada: {outcome.refusal.code}: {outcome.message}")

    # A refusal is a value, not an exception: there was one phone.
    late = await engine.reserve("bob", "PHONE")
    if isinstance(late, Refused):
        print(f"bob: {late.refusal.code}: {late.message}")


async def pay(engine: Engine, reservation_id: str) -> None:
    order = await engine.checkout((reservation_id,), transaction_id="pay_ada", payment_method="card")
    match order:
        case Order():
            print(f"ada's order is {order.status}: {order.total_minor / 100:.2f} {order.currency}")
        case Refused():
            print(f"ada: {order.refusal.code}: {order.message}")


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with Engine.open(load(data=directory)) as engine:
            await sell(engine)


if __name__ == "__main__":
    asyncio.run(main())
