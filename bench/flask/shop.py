"""A flash sale as a Flask developer would deploy it: Flask under gunicorn, the stock in Redis, one Lua
script per request. A rival for the benchmark: like most such services it keeps no durable record."""

import os
import secrets
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any

import redis
from flask import Flask, Response, jsonify, request

HOLD_SECONDS = 3600
KEY_LIFETIME_SECONDS = 86_400
CATALOG: dict[str, dict[str, Any]] = {
    "BENCH-1": {
        "skuId": "BENCH-1",
        "name": "Phone 256 GB",
        "description": "The product on sale",
        "category": "phones",
        "basePrice": 1299.99,
        "flashSalePrice": 999.99,
        "discountPercentage": 23,
        "currency": "USD",
    }
}
PER_USER_LIMIT = 1

app = Flask(__name__)
app.json.sort_keys = False  # type: ignore[attr-defined]
store = redis.Redis(port=int(os.environ.get("REDIS_PORT", "6379")), decode_responses=True, max_connections=512)
decide = store.register_script(Path(__file__).with_name("reserve.lua").read_text())


def is_text(value: object, longest: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= longest


def is_valid(body: Any, key: str) -> bool:
    if not isinstance(body, dict) or not is_text(key, 255):
        return False
    quantity = body.get("quantity")
    return (
        type(quantity) is int
        and 0 < quantity <= 100
        and is_text(body.get("skuId"), 64)
        and is_text(body.get("userId"), 128)
    )


def refuse(status: HTTPStatus, code: str, message: str, **details: object) -> tuple[Response, int]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return jsonify(
        timestamp=now,
        status=status.value,
        error=status.phrase,
        code=code,
        message=message,
        path=request.path,
        details=details,
    ), status.value


def reserved(body: dict[str, Any], reservation_id: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    product = CATALOG[body["skuId"]]
    return {
        "reservationId": reservation_id,
        "userId": body["userId"],
        "skuId": body["skuId"],
        "quantity": body["quantity"],
        "status": "RESERVED",
        "unitPrice": product["flashSalePrice"],
        "currency": product["currency"],
        "expiresAt": (now + timedelta(seconds=HOLD_SECONDS)).isoformat(timespec="seconds"),
        "createdAt": now.isoformat(timespec="seconds"),
        "expiresInSeconds": HOLD_SECONDS,
    }


def ask_redis(body: dict[str, Any], key: str) -> list[str]:
    sku, user = body["skuId"], body["userId"]
    keys = [f"key:{{{sku}}}:{user}:{key}", f"bought:{{{sku}}}:{user}", f"stock:{{{sku}}}"]
    new_id = "res_" + secrets.token_hex(16)
    return decide(keys, [body["quantity"], PER_USER_LIMIT, new_id, KEY_LIFETIME_SECONDS])  # type: ignore[return-value]


@app.post("/api/v1/reservations")
def reserve() -> Any:
    body = request.get_json(silent=True)
    key = request.headers.get("Idempotency-Key", "")
    if not is_valid(body, key):
        return refuse(HTTPStatus.BAD_REQUEST, "VALIDATION_FAILED", "The request is not valid")
    if body["skuId"] not in CATALOG:
        return refuse(HTTPStatus.NOT_FOUND, "NOT_FOUND", "No such product")
    outcome, value = ask_redis(body, key)
    if outcome == "SOLD_OUT":
        return refuse(
            HTTPStatus.CONFLICT,
            outcome,
            f"Product {body['skuId']} is out of stock. Available: {value}",
            skuId=body["skuId"],
            requestedQuantity=body["quantity"],
            availableQuantity=int(value),
        )
    if outcome == "LIMIT_EXCEEDED":
        return refuse(
            HTTPStatus.FORBIDDEN, outcome, "Over the purchase limit", limit=PER_USER_LIMIT, alreadyHeld=int(value)
        )
    replay = {"Idempotent-Replay": "true"} if outcome == "REPLAY" else {}
    return reserved(body, value), 201, replay


@app.get("/api/v1/products/<sku>/availability")
def availability(sku: str) -> Any:
    if sku not in CATALOG:
        return refuse(HTTPStatus.NOT_FOUND, "NOT_FOUND", "No such product")
    left = int(store.get(f"stock:{{{sku}}}") or 0)  # type: ignore[arg-type]
    return CATALOG[sku] | {"availableCount": left, "isAvailable": left > 0, "isActive": True, "saleId": "bench"}


@app.post("/seed")
def seed() -> Any:
    """Start a new sale: everything known is forgotten."""
    body = request.get_json()
    with store.pipeline() as pipe:
        pipe.flushdb().set(f"stock:{{{body['skuId']}}}", body["stock"]).execute()
    return "", 204
