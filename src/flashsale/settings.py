"""Every knob: its meaning, unit, default and limits; read from the environment or a TOML file.

The environment (`FLASHSALE_LEDGER=...`) wins over the file named by `FLASHSALE_CONFIG` (`ledger = "..."`), which
wins over the default. All of them are checked together at start, so that one run shows every mistake.
"""

import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Meta

from flashsale.core.thresholds import RATE_MAX, RATE_MIN

PREFIX = "FLASHSALE_"
REMEDIES = {
    "identity": "must be open, gateway or jwt",
    "payment": "must be sandbox (stripe is not available yet)",
    "fast_lane": "must be on or off",
    "risk": "must be on or off",
}
RATES = ("rate_per_address", "rate_per_user", "rate_global")
A_RATE = f"must be requests a second, {RATE_MIN} to {RATE_MAX:,}, or 0 for no limit"
REMEDIES |= dict.fromkeys(RATES, A_RATE)
LISTS = ("loops", "trusted_proxies", "client_keys")
NOT_YET = {"dialects": ""}
"""Settings of later versions, with the one value that this version has."""
LOOPS = ("sweep", "publish", "consume")
"""What a process may do beside answering requests (worker.py)."""
_LEDGER_URL = re.compile(r"sqlite:///\S.*|postgres(ql)?://[^/\s]+/\S+(\s+postgres(ql)?://[^/\s]+/\S+)*\s*")
_MORE_URLS = re.compile(r"\s(sqlite|postgres(ql)?)://")
SHARDS_MAX = 64
_PASSWORD = re.compile(r"(?<=://)([^:/@]*):[^@/]*(?=@)")
_QUERY = re.compile(r"\?.*")
_HOSTS = r"[^/\s,:@?]+:\d{1,5}(,[^/\s,:@?]+:\d{1,5})*"
_BROKER_URL = re.compile(rf"kafka://(?P<account>[^/\s,:@?]+:[^/\s@?]+@)?{_HOSTS}(\?(?P<options>\S+))?")
_BROKER_OPTIONS = {
    "tls": re.compile("[01]"),
    "mechanism": re.compile("SCRAM-SHA-512|SCRAM-SHA-256|PLAIN"),
    "ca": re.compile(".+"), "cert": re.compile(".+"), "key": re.compile(".+"),
}  # fmt: skip
_NODE = r"(\[[0-9a-fA-F:]+\]|[^/\s,:@\[\]]+)"
_GATE_URL = re.compile(
    rf"memory://|rediss?://([^/\s@]*@)?{_NODE}(:\d{{1,5}})?(/\d{{1,3}})?"
    rf"|redis\+cluster://([^/\s@]*@)?{_NODE}:\d{{1,5}}(,{_NODE}:\d{{1,5}})*"
)
_HTTP_URL = re.compile(r"https?://[^/\s]+(/\S*)?")
SECRET_BYTES_MIN = 32
"""Of a secret that signatures are made with: as many as the hash has."""
_CLIENT_KEY = re.compile(r"(?P<name>[A-Za-z0-9_-]{1,64}):(?P<secret>\S+)")

Rate = Annotated[float, Meta(ge=0, le=RATE_MAX)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a running engine is made of. Field `x_y` is the variable `FLASHSALE_X_Y`."""

    ledger: str = ""
    """`sqlite:///PATH`, or one to 64 of `postgresql://USER:PASSWORD@HOST/DATABASE` with spaces between them, always in
    the same order; empty means `ledger.db` in the data directory."""
    data: str = "flashsale-data"
    """The data directory: ledger, the sandbox's books, the operator token."""
    loops: tuple[str, ...] = LOOPS
    """Which of the loops this process runs beside the requests; `none`: it leaves them to other processes."""
    broker: str = ""
    """`kafka://HOST:PORT,HOST:PORT`, where events are published and requests queued; empty: events are read at
    `/api/v1/admin/events`. With a password and TLS: `kafka://USER:PASSWORD@HOST:PORT?tls=1`."""
    partitions: Annotated[int, Meta(ge=1, le=10_000)] = 100
    """Of each topic of requests, when it is made: the number of consumers that can share it."""
    replication: Annotated[int, Meta(ge=0, le=32_767)] = 0
    """Copies of what is queued and published, when a topic is made; 0: one on each broker, three at most."""
    gate: str = "memory://"
    """`memory://`, `redis://USER:PASSWORD@HOST:PORT/DB` (`rediss://` with TLS) or `redis+cluster://HOST:PORT,HOST:PORT`."""
    identity: Literal["open", "gateway", "jwt"] = "open"
    """Where a caller's identity comes from. `open` trusts the request, and is for loopback addresses; `gateway`: header
    X-User-ID of peers in `trusted_proxies`; `jwt`: a signed token in header Authorization."""
    jwt_secret: str = ""
    """What tokens are signed with by HS256: 32 bytes at least. With identity `jwt`, this or `jwt_jwks`."""
    jwt_jwks: str = ""
    """The public keys of tokens signed by RS256 or EdDSA, a JSON Web Key Set: a file, or an http(s) URL."""
    jwt_audience: str = ""
    """What claim `aud` of a token must have; empty: it is not looked at."""
    jwt_issuer: str = ""
    """What claim `iss` of a token must be; empty: it is not looked at."""
    client_keys: tuple[str, ...] = ()
    """`NAME:SECRET` of each client program that may send requests of buyers, and must sign them; empty: anybody may."""
    open_anywhere: bool = False
    """Forces identity `open` and the sandbox provider on an address other than loopback."""
    admin_token: str = ""
    """The operators' bearer token; empty: made at the first start and kept in the data directory."""
    rate_per_address: Rate | None = None
    """Requests a second from one address of IPv4 or one /64 of IPv6; 0 is no limit; the default is 10, and 0 with
    identity `open`. Operators change this and all other thresholds at `/api/v1/admin/limits`."""
    rate_per_user: Rate | None = None
    """Requests a second of one user; 0 is no limit; the default is 20, and 0 with identity `open`."""
    rate_global: Rate = 0.0
    """Requests a second in all; 0 is no limit."""
    trusted_proxies: tuple[str, ...] = ()
    """CIDRs of proxies and gateways: they may say in X-Forwarded-For for whom they ask, and their connections are not
    capped."""
    payment: Literal["sandbox"] = "sandbox"
    """Which provider takes the money."""
    sandbox_url: str = ""
    """Where a sandbox provider listens already; empty: one is started beside the engine."""
    risk: Literal["on", "off"] = "on"
    """Whether attempts to purchase are judged (docs/risk.md); with identity `open` nobody is."""
    fast_lane: Literal["on", "off"] = "on"
    """Whether the hot routes are answered without the framework; `off` is for comparison."""
    keep_events_days: Annotated[int, Meta(ge=1, le=36_500)] = 7
    """How long events are kept; those that no broker has yet are kept longer."""
    keep_events: Annotated[int, Meta(ge=1_000, le=10**12)] = 10_000_000
    """How many events are kept: the newest; of sales that have not ended, and before the broker has them, all."""
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
    queue_grace_seconds: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    """How long somebody in a waiting room may be silent before his turn goes to the next."""
    provider_seconds: Annotated[float, Meta(gt=0, le=120)] = 10.0
    """How long one call to the payment provider may take."""

    def runs(self, loop: str) -> bool:
        """Whether this process runs the loop. On a ledger in a file there is no other that could."""
        return loop in self.loops or self.postgres_url is None

    @property
    def postgres_url(self) -> str | None:
        """The ledger's URL, or the first of several, where it is on PostgreSQL; None: it is a file."""
        return self.postgres_urls[0] if self.postgres_urls else None

    @property
    def postgres_urls(self) -> tuple[str, ...]:
        """The ledger's databases, in the order of their shards; empty: it is a file."""
        return _postgres_urls(self.ledger)

    @property
    def redis_url(self) -> str | None:
        """The gate's URL where it is on Redis; None: it is in this process."""
        return None if self.gate == "memory://" else self.gate

    @property
    def gate_name(self) -> str:
        """The gate as people are shown it, without its password."""
        return without_password(self.gate)

    @property
    def profile(self) -> str:
        """Which coherent set of backends the URLs make: `embedded`, `postgres` or `cluster`."""
        if self.postgres_url is None:
            return "embedded"
        return "cluster" if self.broker else "postgres"

    @property
    def kafka_servers(self) -> str | None:
        """The broker's servers, as `HOST:PORT,HOST:PORT`, without its password and options."""
        return urlsplit(self.broker).netloc.rpartition("@")[2] or None

    @property
    def ledger_name(self) -> str:
        """The ledger as people are shown it, without its password."""
        return without_password(self.ledger) if self.postgres_url else str(self.ledger_path)

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
            given[name] = (listed(value) if name in LISTS else value, "environment")
    return given | {name: (value, "command line") for name, value in overrides.items() if value is not None}


def listed(text: str) -> tuple[str, ...]:
    """The words of a list, between commas or spaces; `none` is the empty one."""
    words = tuple(text.replace(",", " ").split())
    return () if words == ("none",) else words


def _file(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{PREFIX}CONFIG: cannot read {path}: {error}") from error


def _checked(given: dict[str, Any]) -> Settings:
    problems = [problem for name, value in given.items() if (problem := _problem(name, value))]
    given = {name: value for name, value in given.items() if name not in NOT_YET}
    if not problems:
        settings = msgspec.convert(given, Settings, strict=False)
        problems = [*_identity_faults(settings)]
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def _problem(name: str, value: Any) -> str | None:
    if name in NOT_YET:
        later = f"{PREFIX}{name.upper()}: is not available yet; leave it out"
        return None if str(value) in (NOT_YET[name], "") else later
    try:
        settings = msgspec.convert({name: value}, Settings, strict=False)
    except msgspec.ValidationError as error:
        remedy = REMEDIES.get(name, str(error).split(" - at")[0])
        return f"{PREFIX}{name.upper()}: {remedy}"
    fault = FAULTS[name](getattr(settings, name)) if name in FAULTS else None
    return f"{PREFIX}{name.upper()}: {fault}" if fault else None


def _postgres_urls(ledger: str) -> tuple[str, ...]:
    return tuple(ledger.split()) if ledger.startswith("postgres") else ()


def _ledger_fault(text: str) -> str | None:
    urls = _postgres_urls(text)
    if not urls and _MORE_URLS.search(text):
        return "one SQLite file is one ledger: several databases must all be postgresql:// URLs"
    if text and not _LEDGER_URL.fullmatch(text):
        return "must be sqlite:///PATH or postgresql://USER:PASSWORD@HOST/DATABASE, or several of the latter"
    if len(urls) > SHARDS_MAX:
        return f"{len(urls)} databases, and {SHARDS_MAX} are the most"
    twice = next((number for number, url in enumerate(urls, 1) if url in urls[: number - 1]), None)
    return f"URL {twice} is there twice: each database is one shard" if twice else None


def _secret_fault(secret: str) -> str | None:
    if not secret:
        return None
    if secret.startswith(("-----BEGIN", "ssh-", "{")):
        return (
            "looks like a key that others may know: a secret is a random text; name public keys in FLASHSALE_JWT_JWKS"
        )
    if len(secret.encode()) < SECRET_BYTES_MIN:
        return f"must have {SECRET_BYTES_MIN} bytes at least: `openssl rand -base64 48` makes one"
    return None


def _client_keys_fault(keys: tuple[str, ...]) -> str | None:
    """What is wrong, without repeating a secret."""
    names = []
    for number, key in enumerate(keys, 1):
        match = _CLIENT_KEY.fullmatch(key)
        if match is None:
            return f"number {number} must be NAME:SECRET, the name 1 to 64 letters, digits, '_' or '-'"
        if len(match["secret"].encode()) < SECRET_BYTES_MIN:
            return f"the secret of {match['name']} must have {SECRET_BYTES_MIN} bytes at least"
        if match["name"] in names:
            return f"{match['name']} is there twice"
        names.append(match["name"])
    return None


def _identity_faults(settings: Settings) -> Iterator[str]:
    """What is wrong with settings of identity that are right each by itself."""
    jwt = {name: getattr(settings, name) for name in ("jwt_secret", "jwt_jwks", "jwt_audience", "jwt_issuer")}
    if settings.identity == "jwt":
        if not settings.jwt_secret and not settings.jwt_jwks:
            yield f"{PREFIX}IDENTITY: jwt needs {PREFIX}JWT_SECRET (HS256) or {PREFIX}JWT_JWKS (RS256, EdDSA)"
        if settings.jwt_secret and settings.jwt_jwks:
            yield f"{PREFIX}JWT_SECRET: cannot stand beside {PREFIX}JWT_JWKS: leave one of them out"
    else:
        for name in (name for name, value in jwt.items() if value):
            yield f"{PREFIX}{name.upper()}: is for identity jwt, and {PREFIX}IDENTITY is {settings.identity}"
    if settings.identity == "gateway":
        if not settings.trusted_proxies:
            yield f"{PREFIX}IDENTITY: gateway needs {PREFIX}TRUSTED_PROXIES, the networks of the gateway"
        for proxy in settings.trusted_proxies:
            if ip_network(proxy, strict=False).prefixlen == 0:
                yield f"{PREFIX}TRUSTED_PROXIES: {proxy} is everybody, who could then name any user: name the gateway"


def _proxies_fault(proxies: tuple[str, ...]) -> str | None:
    wrong = next((proxy for proxy in proxies if _is_no_network(proxy)), None)
    return None if wrong is None else f"{wrong!r} must be an address or a network, as 10.0.0.0/8"


def _is_no_network(proxy: str) -> bool:
    try:
        ip_network(proxy, strict=False)
    except ValueError:
        return True
    return False


def _loops_fault(loops: tuple[str, ...]) -> str | None:
    unknown = [loop for loop in loops if loop not in LOOPS]
    return f"{unknown[0]!r} must be one of {', '.join(LOOPS)}, or none alone" if unknown else None


def _gate_fault(url: str) -> str | None:
    forms = "redis://[USER:PASSWORD@]HOST:PORT/DB, rediss://... or redis+cluster://[USER:PASSWORD@]HOST:PORT,HOST:PORT"
    return None if _GATE_URL.fullmatch(url) else f"must be memory://, {forms}"


def _sandbox_fault(url: str) -> str | None:
    return None if not url or _HTTP_URL.fullmatch(url) else "must be http://HOST:PORT"


def _rate_fault(rate: float | None) -> str | None:
    return A_RATE if rate is not None and 0 < rate < RATE_MIN else None


def _broker_fault(url: str) -> str | None:
    """What is wrong with it, without repeating it: it may hold a password."""
    if not url:
        return None
    match = _BROKER_URL.fullmatch(url)
    if match is None:
        return "must be kafka://HOST:PORT,HOST:PORT, with a password kafka://USER:PASSWORD@HOST:PORT (%40 for @)"
    given = parse_qsl(match["options"] or "", keep_blank_values=True)
    wrong = [name for name, value in given if name not in _BROKER_OPTIONS or not _BROKER_OPTIONS[name].fullmatch(value)]
    if wrong or (match["options"] and not given):
        return f"not {wrong}: options are tls=1, ca=PATH, cert=PATH, key=PATH, mechanism=SCRAM-SHA-512, -256 or PLAIN"
    options = dict(given)
    if options.get("tls") != "1" and options.keys() & {"ca", "cert", "key"}:
        return "certificates are for tls=1"
    if options.get("tls") != "1" and options.get("mechanism") == "PLAIN":
        return "PLAIN sends the password itself: it needs tls=1"
    return None


FAULTS: dict[str, Callable[[Any], str | None]] = {
    "ledger": _ledger_fault,
    "broker": _broker_fault,
    "gate": _gate_fault,
    "loops": _loops_fault,
    "trusted_proxies": _proxies_fault,
    "sandbox_url": _sandbox_fault,
    "jwt_secret": _secret_fault,
    "client_keys": _client_keys_fault,
    **dict.fromkeys(RATES, _rate_fault),
}
"""What is wrong with a value that has the right type; None: nothing."""


def without_password(url: str) -> str:
    return _PASSWORD.sub(r"\1:********", url)


def _masked(name: str, value: Any) -> Any:
    if name in ("ledger", "broker", "gate"):
        return without_password(value)
    if name == "jwt_jwks":
        return _QUERY.sub("?********", without_password(value))
    if name == "client_keys":
        return tuple(f"{key.partition(':')[0]}:********" for key in value)
    return "********" if name in ("admin_token", "jwt_secret") and value else value
