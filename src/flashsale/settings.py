"""Every knob: its meaning, unit, default and limits; read from the environment or a TOML file.

The environment (`FLASHSALE_LEDGER=...`) wins over the file named by `FLASHSALE_CONFIG` (`ledger = "..."`), which
wins over the default. All of them are checked together at start, so that one run shows every mistake.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

PREFIX = "FLASHSALE_"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a running engine is made of. Field `x_y` is the variable `FLASHSALE_X_Y`."""

    ledger: str = ""
    """`sqlite:///PATH`; empty means `ledger.db` in the data directory."""
    data: str = "flashsale-data"
    """The data directory: ledger, the sandbox's books, the operator token."""
    identity: Literal["open"] = "open"
    """Where a caller's identity comes from. `open` trusts the request, and is for loopback addresses."""
    open_anywhere: bool = False
    """Forces identity `open` and the sandbox provider on an address other than loopback."""
    admin_token: str = ""
    """The operators' bearer token; empty: made at the first start and kept in the data directory."""
    trusted_proxies: tuple[str, ...] = ()
    """CIDRs whose connections are not capped."""
    payment: Literal["sandbox"] = "sandbox"
    sandbox_url: str = ""
    """Where a sandbox provider listens already; empty: one is started beside the engine."""
    fast_lane: Literal["on", "off"] = "on"
    queue_max: Annotated[int, Meta(ge=16, le=1_000_000)] = 8192
    """Attempts waiting for the ledger; beyond it the answer is 503."""
    batch_max: Annotated[int, Meta(ge=1, le=4096)] = 512
    """Attempts decided in one transaction."""
    connections_per_address: Annotated[int, Meta(ge=1, le=1_000_000)] = 256
    connections_max: Annotated[int, Meta(ge=1, le=1_000_000)] = 20_000
    receive_seconds: Annotated[float, Meta(gt=0, le=600)] = 5.0
    """From the first byte of a request to its last."""
    idle_seconds: Annotated[float, Meta(gt=0, le=3600)] = 75.0
    """How long a connection may stay open between requests."""
    drain_seconds: Annotated[float, Meta(ge=0, le=600)] = 10.0
    """How long requests in flight may take after SIGTERM."""
    provider_seconds: Annotated[float, Meta(gt=0, le=120)] = 10.0
    """How long one call to the payment provider may take."""

    @property
    def ledger_path(self) -> Path:
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
    for name in Settings.__struct_fields__:
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
    if problems:
        raise SettingsError("\n".join(problems))
    return msgspec.convert(given, Settings, strict=False)


def _problem(name: str, value: Any) -> str | None:
    try:
        settings = msgspec.convert({name: value}, Settings, strict=False)
    except msgspec.ValidationError as error:
        return f"{PREFIX}{name.upper()}: {str(error).split(' - at')[0]}"
    if name == "ledger" and settings.ledger and not settings.ledger.startswith("sqlite:///"):
        return f"{PREFIX}LEDGER: must be sqlite:///PATH (postgresql:// is not available yet)"
    return None


def _masked(name: str, value: Any) -> Any:
    return "********" if name == "admin_token" and value else value
