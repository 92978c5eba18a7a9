"""Every knob: its meaning, unit, default and limits; read from the environment or a TOML file.

The environment (`FLASHSALE_LEDGER=...`) wins over the file named by `FLASHSALE_CONFIG` (`ledger = "..."`), which
wins over the default. All of them are checked together at start, so that one run shows every mistake.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

PREFIX = "FLASHSALE_"
REMEDIES = {
    "identity": "must be open (gateway and jwt are not available yet)",
    "payment": "must be sandbox (stripe is not available yet)",
    "fast_lane": "must be on or off",
}
NOT_YET = {
    "gate": "memory://", "jwt_secret": "", "jwt_jwks": "", "dialects": "",
    "rate_per_address": "0", "rate_per_user": "0", "rate_global": "0",
}  # fmt: skip
"""Settings of later versions, with the one value that this version has."""
_LEDGER_URL = re.compile(r"sqlite:///\S.*|postgres(ql)?://[^/\s]+/\S+")
_PASSWORD = re.compile(r"(?<=://)([^:/@]*):[^@/]*(?=@)")
_BROKER_URL = re.compile(r"kafka://[^/\s,:@]+:\d{1,5}(,[^/\s,:@]+:\d{1,5})*")
_HTTP_URL = re.compile(r"https?://[^/\s]+(/\S*)?")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a running engine is made of. Field `x_y` is the variable `FLASHSALE_X_Y`."""

    ledger: str = ""
    """`sqlite:///PATH` or `postgresql://USER:PASSWORD@HOST/DATABASE`; empty means `ledger.db` in the data directory."""
    data: str = "flashsale-data"
    """The data directory: ledger, the sandbox's books, the operator token."""
    broker: str = ""
    """`kafka://HOST:PORT,HOST:PORT`, where events are published; empty: they are read at `/api/v1/admin/events`."""
    identity: Literal["open"] = "open"
    """Where a caller's identity comes from. `open` trusts the request, and is for loopback addresses."""
    open_anywhere: bool = False
    """Forces identity `open` and the sandbox provider on an address other than loopback."""
    admin_token: str = ""
    """The operators' bearer token; empty: made at the first start and kept in the data directory."""
    trusted_proxies: tuple[str, ...] = ()
    """CIDRs whose connections are not capped."""
    payment: Literal["sandbox"] = "sandbox"
    """Which provider takes the money."""
    sandbox_url: str = ""
    """Where a sandbox provider listens already; empty: one is started beside the engine."""
    fast_lane: Literal["on", "off"] = "on"
    """Whether the hot routes are answered without the framework; `off` is for comparison."""
    queue_max: Annotated[int, Meta(ge=16, le=1_000_000)] = 8192
    """Attempts waiting for the ledger; beyond it the answer is 503."""
    batch_max: Annotated[int, Meta(ge=1, le=4096)] = 512
    """Attempts decided in one transaction."""
    connections_per_address: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    """Open at once from one address (IPv6: one /64); loopback and trusted proxies are not counted."""
    connections_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 20_000
    """Open at once in all."""
    receive_seconds: Annotated[float, Meta(gt=0, le=600)] = 5.0
    """From the first byte of a request to its last."""
    idle_seconds: Annotated[float, Meta(gt=0, le=3600)] = 75.0
    """How long a connection may stay open between requests."""
    drain_seconds: Annotated[float, Meta(ge=0, le=600)] = 10.0
    """How long requests in flight may take after SIGTERM."""
    provider_seconds: Annotated[float, Meta(gt=0, le=120)] = 10.0
    """How long one call to the payment provider may take."""

    @property
    def postgres_url(self) -> str | None:
        """The ledger's URL where it is on PostgreSQL; None: it is a file."""
        return self.ledger if self.ledger.startswith("postgres") else None

    @property
    def kafka_servers(self) -> str | None:
        """The broker's servers, as `HOST:PORT,HOST:PORT`."""
        return self.broker.removeprefix("kafka://") or None

    @property
    def ledger_name(self) -> str:
        """The ledger as people are shown it, without its password."""
        return _without_password(self.ledger) if self.postgres_url else str(self.ledger_path)

    @property
    def ledger_path(self) -> Path:
        """The ledger's file; not to be asked for where it is on PostgreSQL."""
        return Path(self.ledger.removeprefix("sqlite:///")) if self.ledger else Path(self.data) / "ledger.db"


class Origin(msgspec.Struct, frozen=True):
    """A knob's value and where it comes from, for `flashsale doctor`."""

    name: str
    value: Any
    origin: str


class SettingsError(Exception):
    """The settings are wrong; the message has one line for each mistake, naming the knob and the remedy."""


def load(environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """The settings in force. `overrides` are what the command line said. Raises SettingsError."""
    return _checked({name: value for name, (value, _) in _gather(environment, overrides).items()})


def origins(environment: Mapping[str, str] | None = None, **overrides: Any) -> list[Origin]:
    """Every knob with its value and where it was set, secrets masked."""
    given = _gather(environment, overrides)
    settings = _checked({name: value for name, (value, _) in given.items()})
    return [
        Origin(PREFIX + name.upper(), _masked(name, getattr(settings, name)), given.get(name, ("", "default"))[1])
        for name in Settings.__struct_fields__
    ]


def _gather(environment: Mapping[str, str] | None, overrides: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    env = os.environ if environment is None else environment
    config = env.get(PREFIX + "CONFIG")
    given: dict[str, tuple[Any, str]] = {}
    if config:
        given |= {name: (value, config) for name, value in _file(config).items()}
    for name in (*Settings.__struct_fields__, *NOT_YET):
        if (value := env.get(PREFIX + name.upper())) is not None:
            given[name] = (
                tuple(value.replace(",", " ").split()) if name == "trusted_proxies" else value,
                "environment",
            )
    return given | {name: (value, "command line") for name, value in overrides.items() if value is not None}


def _file(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{PREFIX}CONFIG: cannot read {path}: {error}") from error


def _checked(given: dict[str, Any]) -> Settings:
    problems = [problem for name, value in given.items() if (problem := _problem(name, value))]
    given = {name: value for name, value in given.items() if name not in NOT_YET}
    if problems:
        raise SettingsError("\n".join(problems))
    return msgspec.convert(given, Settings, strict=False)


def _problem(name: str, value: Any) -> str | None:
    if name in NOT_YET:
        later = f"{PREFIX}{name.upper()}: is not available yet; leave it out"
        return None if str(value) in (NOT_YET[name], "") else later
    try:
        settings = msgspec.convert({name: value}, Settings, strict=False)
    except msgspec.ValidationError as error:
        remedy = REMEDIES.get(name, str(error).split(" - at")[0])
        return f"{PREFIX}{name.upper()}: {remedy}"
    if name == "ledger" and settings.ledger and not _LEDGER_URL.fullmatch(settings.ledger):
        return f"{PREFIX}LEDGER: must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE"
    if name == "broker" and settings.broker and not _BROKER_URL.fullmatch(settings.broker):
        return f"{PREFIX}BROKER: must be kafka://HOST:PORT or kafka://HOST:PORT,HOST:PORT"
    if name == "sandbox_url" and settings.sandbox_url and not _HTTP_URL.fullmatch(settings.sandbox_url):
        return f"{PREFIX}SANDBOX_URL: must be http://HOST:PORT"
    return next((problem for proxy in settings.trusted_proxies if (problem := _no_network(proxy))), None)


def _no_network(proxy: str) -> str | None:
    try:
        ip_network(proxy, strict=False)
    except ValueError:
        return f"{PREFIX}TRUSTED_PROXIES: {proxy!r} must be an address or a network, as 10.0.0.0/8"
    return None


def _without_password(url: str) -> str:
    return _PASSWORD.sub(r"\1:********", url)


def _masked(name: str, value: Any) -> Any:
    if name == "ledger":
        return _without_password(value)
    return "********" if name == "admin_token" and value else value
