"""How a broker is spoken to: `kafka://USER:PASSWORD@HOST:PORT,HOST:PORT?tls=1`, in the words of librdkafka.

| option | meaning |
|---|---|
| `tls=1` | TLS; the server's certificate must be valid for its name |
| `ca=PATH` | whose certificates are believed; the system's authorities by default |
| `cert=PATH`, `key=PATH` | the client's own certificate and key, where the broker asks for one |
| `mechanism=` | how the password is proven: `SCRAM-SHA-512` (default), `SCRAM-SHA-256`, `PLAIN` |

`PLAIN` sends the password itself, so the settings take it with TLS only. A connection shows itself without its
password.
"""

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

MECHANISM = "SCRAM-SHA-512"
FILES = {"ca": "ssl.ca.location", "cert": "ssl.certificate.location", "key": "ssl.key.location"}
QUIET = 2
"""Of librdkafka's own log, only what is critical: what it has to say of a connection is heard through its callbacks."""


class Connection:
    """To a cluster; made of the URL that the settings have checked."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        account, _, self.servers = parts.netloc.rpartition("@")
        options = dict(parse_qsl(parts.query))
        tls = options.get("tls") == "1"
        self._said: dict[str, Any] = {
            "bootstrap.servers": self.servers,
            "security.protocol": ("SASL_" if account else "") + ("SSL" if tls else "PLAINTEXT"),
            **{FILES[name]: path for name, path in options.items() if name in FILES},
        }
        if account:
            user, _, password = account.partition(":")
            self._said |= {
                "sasl.mechanism": options.get("mechanism", MECHANISM),
                "sasl.username": unquote(user),
                "sasl.password": unquote(password),
            }

    def __repr__(self) -> str:
        return f"Connection({self.servers})"

    def settings(self, more: dict[str, Any]) -> dict[str, Any]:
        """For a client of this cluster."""
        return {"client.id": "flashsale", "log_level": QUIET, **self._said, **more}
