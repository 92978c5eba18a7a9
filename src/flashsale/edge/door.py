"""The door: what both lanes ask of whoever comes in. Who he is, from where, and what he brings."""

from collections.abc import Callable

from flashsale.core.device import Device, read_device
from flashsale.core.refusal import Refused
from flashsale.core.visitor import Visitor
from flashsale.edge.address import Addresses
from flashsale.edge.identity import Caller, Gateway, Identity, Open, OperatorToken, Said
from flashsale.edge.token import Claims, Jwt, OneSecret
from flashsale.settings import Settings
from flashsale.token_keys import TokenKeys


class Door:
    def __init__(self, identity: Identity, addresses: Addresses) -> None:
        self.caller = identity.caller
        self.look_again = identity.look_again
        self.believes = identity.believes
        self.verifies = isinstance(identity, Jwt)
        """Whether it costs more to find out who asks than to count that he does."""
        self._address = addresses.of

    @classmethod
    def of(cls, settings: Settings, token: str, keys: TokenKeys | None, now_ms: Callable[[], int]) -> "Door":
        """As the settings want it. `token` is the operators'; `keys` are for identity jwt without a secret."""
        addresses = Addresses(settings.trusted_proxies)
        return cls(_identity(settings, OperatorToken(token), addresses, keys, now_ms), addresses)

    def address(self, said: Said) -> str | None:
        """From where he asks."""
        return self._address(said.peer, said.forwarded_for)

    def visitor(self, user_id: str, who: Caller, said: Said, device: Device | None) -> Visitor:
        """Who asks for units, in the name of this user."""
        pass_text = said.pass_text.decode("latin-1") if said.pass_text is not None else None
        solution = said.solution.decode("latin-1") if said.solution is not None else None
        address = self._address(said.peer, said.forwarded_for)
        return Visitor(user_id, pass_text, address, who.tier, who.known_since_ms, who.priority, device, solution)


def device_in(said: Said) -> Device | Refused | None:
    """The device facts of a request."""
    return None if said.device is None else read_device(said.device.decode("latin-1"))


def _identity(
    settings: Settings, operators: OperatorToken, addresses: Addresses, keys: TokenKeys | None,
    now_ms: Callable[[], int],
) -> Identity:  # fmt: skip
    if settings.identity == "open":
        return Open(operators)
    if settings.identity == "gateway":
        return Gateway(operators, addresses)
    found = OneSecret(settings.jwt_secret) if settings.jwt_secret else keys
    if found is None:
        raise ValueError("identity jwt needs a secret or keys")
    return Jwt(operators, found, Claims(settings.jwt_audience, settings.jwt_issuer), now_ms)
