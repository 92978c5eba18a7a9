"""What the engine knows, as answers show it: everything beside the hot routes, which `wire` renders."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from flashsale.core.journal import Movement, Stock
from flashsale.core.money import show
from flashsale.core.order import Order
from flashsale.core.questions import AuditEntry, SaleFigures
from flashsale.core.retention import Base
from flashsale.core.sale import Sale, SaleState, state_at
from flashsale.core.waiting_room import queue_opens_at_ms
from flashsale.edge import schema
from flashsale.edge.call import shown_cursor
from flashsale.edge.room_terms import shown_terms
from flashsale.edge.wire import Answer, Header, availability, price, timestamp
from flashsale.flow.storefront import Offer, Storefront

encode = msgspec.json.Encoder().encode

PAGE = 200
"""Entries of a page; a full one has a `next`."""


def json(value: Any, status: int = 200, headers: tuple[Header, ...] = ()) -> Answer:
    return Answer(status, encode(value), headers)


def moment(ms: int | None) -> str | None:
    return None if ms is None else timestamp(ms)


def order(it: Order) -> schema.Order:
    one = it.lines[0] if len(it.lines) == 1 else None
    return schema.Order(
        order_id=it.order_id,
        user_id=it.user_id,
        total_price=price(it.total_minor, it.currency),
        currency=it.currency,
        payment_transaction_id=it.transaction_id,
        payment_method=it.payment_method,
        shipping_address=it.shipping_address,
        status=it.status,
        created_at=timestamp(it.created_at_ms),
        reservation_id=one.reservation_id if one else UNSET,
        sku_id=one.sku_id if one else UNSET,
        quantity=one.quantity if one else UNSET,
        lines=UNSET if one else _lines(it),
        reason=it.reason or UNSET,
    )


def _lines(it: Order) -> list[schema.OrderLine]:
    return [
        schema.OrderLine(line.reservation_id, line.sku_id, line.quantity, price(line.unit_price_minor, it.currency))
        for line in it.lines
    ]


def is_public(sale: Sale) -> bool:
    """A draft is the operator's own."""
    return sale.starts_at_ms is not None


def public_sale(sale: Sale, storefront: Storefront, now_ms: int) -> schema.Sale:
    return schema.Sale(
        id=sale.sale_id,
        name=sale.name,
        state=state_at(sale, now_ms),
        starts_at=moment(sale.starts_at_ms),
        ends_at=moment(sale.ends_at_ms),
        server_time=timestamp(now_ms),
        reservation_seconds=sale.reservation_seconds,
        mode=sale.mode,
        settlement=sale.settlement,
        queue_opens_at=moment(queue_opens_at_ms(sale)),
        products=[Raw(availability(offer, now_ms)) for offer in _offers(sale, storefront)],
    )


def _offers(sale: Sale, storefront: Storefront) -> list[Offer]:
    offers = []
    for product in sale.products:
        stock = storefront.stock(sale.sale_id, product.sku_id)
        total, available = (stock.total, stock.available) if stock else (0, 0)
        offers.append(Offer(sale, product, total, available))
    return offers


def operator_sale(sale: Sale, stock: Sequence[Stock], now_ms: int) -> schema.OperatorSale:
    return schema.OperatorSale(
        id=sale.sale_id,
        name=sale.name,
        state=state_at(sale, now_ms),
        starts_at=moment(sale.starts_at_ms),
        ends_at=moment(sale.ends_at_ms),
        reservation_seconds=sale.reservation_seconds,
        mode=sale.mode,
        late_payment=sale.late_payment,
        settlement=sale.settlement,
        require_device=sale.require_device,
        per_device_limit=sale.per_device_limit,
        per_address_limit=sale.per_address_limit,
        one_active_hold=sale.one_active_hold,
        waiting_room=shown_terms(sale),
        products=_products(sale, {row.sku_id: row for row in stock if row.sale_id == sale.sale_id}),
        version=sale.version,
        created_at=timestamp(sale.created_at_ms),
        server_time=timestamp(now_ms),
    )


def _products(sale: Sale, stock: dict[str, Stock]) -> list[schema.OperatorProduct]:
    shown = []
    for it in sale.products:
        units = stock.get(it.sku_id) or Stock(sale.sale_id, it.sku_id, 0)
        shown.append(
            schema.OperatorProduct(
                sku_id=it.sku_id,
                name=it.name,
                description=it.description,
                category=it.category,
                image_url=it.image_url or None,
                currency=it.currency,
                base_price=price(it.base_price_minor, it.currency),
                flash_sale_price=price(it.price_minor, it.currency),
                stock=units.total,
                per_user_limit=it.per_user_limit,
                available=units.available,
                held=units.held,
                sold=units.sold,
            )
        )
    return shown


def ledger(sale_id: str, stock: Sequence[Stock], discrepancies: list[str]) -> schema.LedgerView:
    counters = [schema.Counters(it.sku_id, it.total, it.available, it.held, it.sold) for it in stock]
    return schema.LedgerView(sale_id, counters, not discrepancies, discrepancies or UNSET)


def journal(page: Sequence[tuple[int, Movement]], bases: Sequence[Base]) -> schema.Journal:
    pruned = [schema.Pruned(it.sku_id, it.sku_seq, it.total, it.held, it.sold) for it in bases]
    return schema.Journal([_movement(it) for _, it in page], page[-1][0] if len(page) == PAGE else None, pruned)


def _movement(it: Movement) -> schema.JournalEntry:
    return schema.JournalEntry(
        sku_id=it.sku_id,
        sku_seq=it.sku_seq,
        kind=it.kind,
        quantity=it.quantity,
        available_before=it.available_before,
        available_after=it.available_after,
        total=it.total_after,
        held=it.held_after,
        sold=it.sold_after,
        reservation_id=it.reservation_id,
        actor=it.actor,
        reason=it.reason,
        at=timestamp(it.at_ms),
    )


def audit(page: Sequence[AuditEntry]) -> schema.Audit:
    entries = [schema.AuditEntry(timestamp(it.at_ms), it.actor, it.action, it.subject, it.details) for it in page]
    return schema.Audit(entries, shown_cursor(page[-1].seq) if len(page) == PAGE else None)


def stats(sale: Sale, it: SaleFigures, waiting: int, now_ms: int) -> schema.Stats:
    currencies = {product.currency for product in sale.products}
    currency = currencies.pop() if len(currencies) == 1 else None
    return schema.Stats(
        sale_id=sale.sale_id,
        total_orders=it.orders,
        successful_orders=it.orders_paid,
        failed_orders=it.orders_failed,
        queued_orders=waiting,
        total_reservations=it.reservations,
        total_revenue=_amount(it.revenue_minor, currency),
        average_order_value=_amount(_share(it.revenue_minor, it.orders_paid), currency),
        currency=currency,
        peak_orders_per_second=it.peak_orders_per_second,
        current_queue_size=waiting,
        is_active=state_at(sale, now_ms) is SaleState.ACTIVE,
        start_time=moment(sale.starts_at_ms),
        end_time=moment(sale.ends_at_ms),
        conversion_rate=round(it.orders_paid / it.reservations, 4) if it.reservations else 0.0,
        unique_users=it.unique_users,
        refusals=it.refusals,
    )


def _share(amount_minor: int, parts: int) -> int:
    """Rounded half up to the minor unit."""
    return (2 * amount_minor + parts) // (2 * parts) if parts else 0


def _amount(minor: int, currency: str | None) -> Raw | None:
    return Raw(show(minor, currency).encode()) if currency else None
