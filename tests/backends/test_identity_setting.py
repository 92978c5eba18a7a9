"""The settings of identity: what goes together, what is refused at start, and that no secret is shown."""

import pytest

from flashsale.settings import SettingsError, load, origins

SECRET = "a-secret-of-32-bytes-at-the-least"
OTHER = "the-secret-of-the-app-of-32-bytes"
JWT = {"FLASHSALE_IDENTITY": "jwt"}


def fault(**given: str) -> str:
    with pytest.raises(SettingsError) as refused:
        load({f"FLASHSALE_{name.upper()}": value for name, value in given.items()})
    assert SECRET not in str(refused.value)
    return str(refused.value)


def test_identity_is_open_gateway_or_jwt() -> None:
    assert load({}).identity == "open"
    assert load(JWT | {"FLASHSALE_JWT_SECRET": SECRET}).identity == "jwt"
    assert load(JWT | {"FLASHSALE_JWT_JWKS": "https://id.example.com/keys"}).jwt_jwks == "https://id.example.com/keys"
    gateway = load({"FLASHSALE_IDENTITY": "gateway", "FLASHSALE_TRUSTED_PROXIES": "10.0.0.0/8,192.0.2.1"})
    assert gateway.trusted_proxies == ("10.0.0.0/8", "192.0.2.1")
    assert fault(identity="oauth") == "FLASHSALE_IDENTITY: must be open, gateway or jwt"


def test_jwt_needs_exactly_one_kind_of_key() -> None:
    assert "jwt needs FLASHSALE_JWT_SECRET (HS256) or FLASHSALE_JWT_JWKS" in fault(identity="jwt")
    both = fault(identity="jwt", jwt_secret=SECRET, jwt_jwks="keys.json")
    assert "FLASHSALE_JWT_SECRET: cannot stand beside FLASHSALE_JWT_JWKS" in both


def test_a_gateway_must_be_named_and_not_be_everybody() -> None:
    assert "gateway needs FLASHSALE_TRUSTED_PROXIES" in fault(identity="gateway")
    for everybody in ("0.0.0.0/0", "::/0", "10.0.0.0/8 ::/0"):
        assert "is everybody, who could then name any user" in fault(identity="gateway", trusted_proxies=everybody)


@pytest.mark.parametrize("name", ["jwt_secret", "jwt_jwks", "jwt_audience", "jwt_issuer"])
@pytest.mark.parametrize("identity", ["open", "gateway"])
def test_what_would_have_no_effect_is_refused(identity: str, name: str) -> None:
    """Whoever sets a key believes that it is looked at."""
    found = fault(identity=identity, trusted_proxies="10.0.0.0/8", **{name: SECRET})
    assert found == f"FLASHSALE_{name.upper()}: is for identity jwt, and FLASHSALE_IDENTITY is {identity}"


@pytest.mark.parametrize(
    "secret", ["short", "x" * 31, "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkq", "ssh-rsa " + "A" * 40]
)
def test_a_secret_must_be_long_and_no_public_key(secret: str) -> None:
    found = fault(identity="jwt", jwt_secret=secret)
    assert found.startswith("FLASHSALE_JWT_SECRET: ")
    assert secret not in found


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("app", "number 1 must be NAME:SECRET"), (f"app:{OTHER},:{OTHER}", "number 2 must be NAME:SECRET"),
        (f"a.b:{OTHER}", "number 1 must be NAME:SECRET"), ("app:short", "the secret of app must have 32 bytes"),
        (f"app:{OTHER} app:{SECRET}", "app is there twice"),
    ],
)  # fmt: skip
def test_client_keys_are_names_with_secrets(keys: str, said: str) -> None:
    found = fault(client_keys=keys)
    assert said in found
    assert OTHER not in found
    assert "short" not in found


def test_no_secret_is_shown() -> None:
    given = JWT | {"FLASHSALE_JWT_SECRET": SECRET, "FLASHSALE_CLIENT_KEYS": f"app:{OTHER},kiosk:{OTHER}"}
    shown = {each.name: each.value for each in origins(given)}
    assert (shown["FLASHSALE_JWT_SECRET"], shown["FLASHSALE_CLIENT_KEYS"]) == (
        "********", ("app:********", "kiosk:********"),
    )  # fmt: skip
    url = origins(JWT | {"FLASHSALE_JWT_JWKS": f"https://ann:{SECRET}@id.example.com/keys"})
    assert SECRET not in str(shown) + str(url)


def test_one_run_shows_every_mistake_of_identity() -> None:
    found = fault(jwt_audience="shop", jwt_issuer="me")
    assert [line.split(":")[0] for line in found.splitlines()] == ["FLASHSALE_JWT_AUDIENCE", "FLASHSALE_JWT_ISSUER"]


@pytest.mark.parametrize("rate", ["-1", "0.0009", "5e-324", "1000001", "nan", "many"])
@pytest.mark.parametrize("name", ["rate_per_address", "rate_per_user", "rate_global"])
def test_a_rate_is_0_or_at_least_once_in_a_thousand_seconds(name: str, rate: str) -> None:
    words = "must be requests a second, 0.001 to 1,000,000, or 0 for no limit"
    assert fault(**{name: rate}) == f"FLASHSALE_{name.upper()}: {words}"
    assert load({f"FLASHSALE_{name.upper()}": "0.001"}) != load({f"FLASHSALE_{name.upper()}": "0"})


def test_what_a_url_of_keys_carries_is_not_shown() -> None:
    given = JWT | {"FLASHSALE_JWT_JWKS": "https://me:word@id.example.com/keys?token=word"}
    shown = {each.name: each.value for each in origins(given)}
    assert shown["FLASHSALE_JWT_JWKS"] == "https://me:********@id.example.com/keys?********"
