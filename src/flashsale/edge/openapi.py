"""The OpenAPI document, written from the very table that routes.

Shapes come from the msgspec structs that read the bodies, errors from the refusals a route names, so the document
tells no more and no less than the server does.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from flashsale import __version__
from flashsale.core.refusal import Refusal
from flashsale.edge import schema
from flashsale.edge.call import Audience, Call, Param, is_signed
from flashsale.settings import Settings

Json = dict[str, Any]

REF = "#/components/schemas/{name}"
ERROR = {"$ref": REF.format(name="Error")}
ABOUT = """A flash-sale engine: sells N units to a crowd, never N+1.

Prices are JSON numbers with the currency's decimals; times are RFC 3339 in UTC. Every error has the shape `Error`.
"""
WHO = {
    "open": "Body, header X-User-ID and path say who is asking, and must agree.",
    "gateway": "The gateway says in X-User-ID who is asking; body and path may repeat it.",
    "jwt": "A signed token says who is asking; body and path may repeat it.",
}
"""For each identity."""
OPERATOR: Json = {"type": "http", "scheme": "bearer", "description": "The operators' token"}
USERS: dict[str, Json] = {
    "gateway": {"type": "apiKey", "in": "header", "name": "X-User-ID", "description": "Added by the gateway"},
    "jwt": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
}
"""How users are known, where they are."""
SIGNING = (
    Param("X-Client-Key", "The client's key, by its name", {"type": "string"}, "header"),
    Param("X-Timestamp", "Now, in seconds since 1970", {"type": "string", "pattern": "^[0-9]{1,12}$"}, "header"),
    Param("X-Signature", "HMAC-SHA256, in hex", {"type": "string", "pattern": "^[0-9a-f]{64}$"}, "header"),
)
USER = Param("X-User-ID", "Who is asking", {"type": "string", "pattern": schema.USER}, "header")

PATH: dict[str, Json] = {
    "skuId": {"type": "string", "pattern": schema.NAME},
    "saleId": {"type": "string", "pattern": schema.NAME},
    "userId": {"type": "string", "pattern": schema.USER},
}
"""Path parameters; an id made by the server has no pattern of its own."""
MADE_HERE: Json = {"type": "string", "minLength": 1}
RATE_HEADERS = (
    "Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "X-RateLimit-Limit",
    "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-RateLimit-Tier",
)  # fmt: skip
ALWAYS = (Refusal.VALIDATION_FAILED, Refusal.UNAVAILABLE)


def document(calls: Iterable[Call], settings: Settings) -> bytes:
    """For a server with these settings."""
    identity = settings.identity
    shown = [call for call in calls if call.answers]
    shapes = _shapes(shown)
    names, components = msgspec.json.schema_components(shapes, ref_template=REF)
    schemas = dict(zip(map(repr, shapes), names, strict=True))
    paths: defaultdict[str, Json] = defaultdict(dict)
    for call in shown:
        paths[call.path][call.method.lower()] = _operation(call, schemas, settings)
    users = {"user": USERS[identity]} if identity in USERS else {}
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "flashsale", "version": __version__, "description": ABOUT + WHO[identity]},
        "tags": [{"name": audience.value} for audience in Audience],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"operator": OPERATOR} | users},
    }
    return msgspec.json.encode(_plain(whole))


def _shapes(calls: Sequence[Call]) -> list[Any]:
    found: dict[str, Any] = {repr(schema.Error): schema.Error, repr(schema.Product): schema.Product}
    for call in calls:
        for shape in (call.body, *call.answers.values()):
            if shape is not None:
                found[repr(shape)] = shape
    return list(found.values())


def _operation(call: Call, schemas: dict[str, Any], settings: Settings) -> Json:
    operation: Json = {
        "tags": [call.audience.value],
        "summary": call.summary,
        "operationId": _operation_id(call),
        "parameters": [*_path_params(call.path), *_params(call, settings)],
        "responses": {**_answers(call, schemas), **_errors(call, settings)},
    }
    if call.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(schemas[repr(call.body)])}
    if security := _security(call, settings.identity):
        operation["security"] = security
    return operation


def _security(call: Call, identity: str) -> list[Json]:
    """Each entry is enough. Of roles a route needs any one."""
    if call.private:
        return [{"user": []}, {"operator": []}] if identity in USERS else []
    if not call.roles:
        return []
    tokens = [{"user": [role]} for role in sorted(call.roles)] if identity == "jwt" else []
    return [{"operator": []}, *tokens]


def _unknown(call: Call, settings: Settings) -> Iterator[Refusal]:
    """What is said to whoever is not known, or may not."""
    users = settings.identity in USERS
    if call.roles or (call.private and users) or _is_signed(call, settings):
        yield Refusal.UNAUTHENTICATED
    if call.roles and users:
        yield Refusal.ACCESS_DENIED
    if call.private and users:
        yield Refusal.NOT_FOUND


def _is_signed(call: Call, settings: Settings) -> bool:
    return bool(settings.client_keys) and is_signed(call)


def _operation_id(call: Call) -> str:
    words = re.sub(r"[^A-Za-z]+", " ", call.path.removeprefix("/api/v1")).split()
    return call.method.lower() + "".join(word[0].upper() + word[1:] for word in words)


def _path_params(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": PATH.get(name, MADE_HERE)}
        for name in re.findall(r"\{(\w+)\}", path)
    ]


def _params(call: Call, settings: Settings) -> list[Json]:
    named = (USER,) if call.private and settings.identity == "open" else ()
    signing = SIGNING if _is_signed(call, settings) else ()
    return [
        {"name": each.name, "in": each.place, "description": each.description, "schema": each.schema}
        for each in (*named, *signing, *call.params)
    ]


def _answers(call: Call, schemas: dict[str, Any]) -> Json:
    answers: Json = {}
    for status, shape in call.answers.items():
        answer: Json = {"description": call.summary}
        if shape is not None:
            answer["content"] = _json(schemas[repr(shape)])
        headers = {}
        if call.etag:
            headers["ETag"] = {"schema": {"type": "string"}, "description": "The version, for If-Match"}
        if call.replayed:
            headers["Idempotent-Replay"] = {"schema": {"const": "true"}, "description": "An earlier request made it"}
        answers[str(status)] = answer | ({"headers": headers} if headers else {})
    return answers


def _errors(call: Call, settings: Settings) -> Json:
    """One entry for each status, telling the codes that share it."""
    if call.audience is Audience.OPERATIONS:
        return {}
    codes: defaultdict[str, list[str]] = defaultdict(list)
    limited = (Refusal.RATE_LIMITED,) if call.audience is Audience.BUYERS else ()
    for refusal in sorted({*ALWAYS, *limited, *call.refusals, *_unknown(call, settings)}, key=list(Refusal).index):
        codes[str(refusal.status)].append(refusal.code)
    if call.body is not None:
        codes["413"] = [Refusal.VALIDATION_FAILED.code]
    if any(param.name == "If-Match" for param in call.params):
        codes["412"] = [Refusal.ILLEGAL_STATE.code]
    if call.pruned:
        codes["410"] = [Refusal.NOT_FOUND.code]
    return {
        status: {"description": ", ".join(f"`{code}`" for code in named), "content": _json(ERROR), **_headers(status)}
        for status, named in codes.items()
    }


def _headers(status: str) -> Json:
    names = {"401": ("WWW-Authenticate",), "429": RATE_HEADERS, "503": ("Retry-After",)}.get(status)
    return {"headers": {name: {"schema": {"type": "string"}} for name in names}} if names else {}


def _json(shape: Any) -> Json:
    return {"application/json": {"schema": shape}}


def _plain(node: Any) -> Any:
    """Patterns as ECMA 262 writes them: Python's end of text is its end of line."""
    if isinstance(node, dict):
        return {
            key: value.replace(r"\Z", "$") if key == "pattern" and isinstance(value, str) else _plain(value)
            for key, value in node.items()
        }
    return [_plain(each) for each in node] if isinstance(node, list | tuple) else node
