"""Connections to Redis and Valkey: the forms of a URL, time-outs, scripts, and what `flashsale doctor` asks.

The driver repeats nothing by itself: it would do so ten times, and a call whose answer was lost has been done. A
connection on which a call timed out is closed by the driver, so that its late answer reaches nobody.
"""

import asyncio
from collections.abc import Callable
from hashlib import sha1
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import unquote

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import NoScriptError, RedisError

from flashsale.ports import GateAway

CONNECT_SECONDS = 1.0
CALL_SECONDS = 0.5
CONNECTIONS = 4
CLUSTER_CONNECTIONS = 12
"""Of all nodes together: one node that hangs must leave some for the others."""
DEFAULT_PORT = 6379
CLUSTER = "redis+cluster"

FAILING: tuple[type[Exception], ...] = (RedisError, OSError, TimeoutError, AttributeError)
"""Whatever a call can end with. The last is the driver's word for a connection in a cluster that another call has
closed meanwhile, because its node seemed to be lost."""

Client = Redis | RedisCluster


class Address(NamedTuple):
    """A gate's URL, taken apart."""

    scheme: str
    username: str | None
    password: str | None
    nodes: tuple[tuple[str, int], ...]
    db: int

    @property
    def name(self) -> str:
        """As people are shown it, without its password."""
        return f"{self.scheme}://" + ",".join(f"{host}:{port}" for host, port in self.nodes)


def address_of(url: str) -> Address:
    """`redis://USER:PASSWORD@HOST:PORT/DB`, `rediss://...` (TLS), `redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT`."""
    scheme, _, rest = url.partition("://")
    place, _, db = rest.partition("/")
    who, _, hosts = place.rpartition("@")
    username, _, password = who.partition(":")
    nodes = tuple(_node(each) for each in hosts.split(","))
    return Address(scheme, unquote(username) or None, unquote(password) or None, nodes, int(db or 0))


def _node(text: str) -> tuple[str, int]:
    host, separator, port = text.rpartition(":")
    if not separator or port.endswith("]"):
        host, port = text, str(DEFAULT_PORT)
    return host.strip("[]"), int(port)


def connect(address: Address) -> Client:
    """Nobody is asked before the first call."""
    common: dict[str, Any] = {
        "username": address.username, "password": address.password, "protocol": 2, "driver_info": None,
        "socket_timeout": CALL_SECONDS, "socket_connect_timeout": CONNECT_SECONDS, "retry": Retry(NoBackoff(), 0),
    }  # fmt: skip
    if address.scheme == CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in address.nodes]
        common |= {"max_connections": CLUSTER_CONNECTIONS, "require_full_coverage": False}
        return RedisCluster(startup_nodes=nodes, **common)
    host, port = address.nodes[0]
    tls = address.scheme == "rediss"
    return Redis(host=host, port=port, db=address.db, ssl=tls, max_connections=CONNECTIONS, **common)


def slot_of(address: Address) -> Callable[[str], int]:
    """Keys of one slot can be in one call; a single server has only one."""
    if address.scheme == CLUSTER:
        return lambda key: int(key_slot(key.encode()))
    return lambda _: 0


def node_of(client: Client, key: str) -> str:
    """The server that has a key, as far as the client knows; one server has no name."""
    if isinstance(client, Redis):
        return ""
    nodes = client.nodes_manager.slots_cache.get(key_slot(key.encode()))
    return nodes[0].name if nodes else ""


class Script(NamedTuple):
    text: str
    sha: str


def load_script(name: str) -> Script:
    return script(files("flashsale.backends").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8"))


def script(text: str) -> Script:
    return Script(text, sha1(text.encode(), usedforsecurity=False).hexdigest())


async def run(client: Client, wanted: Script, keys: list[str], *arguments: Any) -> Any:
    """Raises FAILING. A server that does not know the script (it was restarted) has done nothing, and is told it."""
    try:
        return await client.execute_command("EVALSHA", wanted.sha, len(keys), *keys, *arguments)
    except NoScriptError:
        return await client.execute_command("EVAL", wanted.text, len(keys), *keys, *arguments)


def words(error: Exception, address: Address) -> str:
    """What went wrong, for the operator."""
    said = str(error) or type(error).__name__
    if address.password:
        said = said.replace(address.password, "********")
    return f"{address.name}: {said}"


class Facts(NamedTuple):
    """What `flashsale doctor` wants to know of the servers."""

    server: str
    evicts: str
    """The policy by which keys are thrown away when memory is short; empty if none are."""
    is_cluster: bool


async def facts(url: str) -> list[Facts]:
    """Of every server that the URL names. Raises GateAway when one cannot be asked."""
    address = address_of(url)
    return [await _facts(address._replace(nodes=(node,), scheme=_plain(address.scheme))) for node in address.nodes]


def _plain(scheme: str) -> str:
    return "redis" if scheme == CLUSTER else scheme


async def _facts(address: Address) -> Facts:
    client = connect(address)
    try:
        async with asyncio.timeout(CONNECT_SECONDS + 2 * CALL_SECONDS):
            told: dict[str, Any] = await client.info()
    except FAILING as error:
        raise GateAway(words(error, address)) from error
    finally:
        await client.aclose()
    valkey = told.get("valkey_version")
    server = f"Valkey {valkey}" if valkey else f"Redis {told.get('redis_version', '')}"
    policy = told.get("maxmemory_policy", "noeviction") if told.get("maxmemory") else "noeviction"
    return Facts(server, "" if policy == "noeviction" else policy, bool(told.get("cluster_enabled")))
