"""FLASHSALE_BROKER: what it takes, and what becomes of its password."""

import pytest

from flashsale.backends.kafka import Connection
from flashsale.settings import SettingsError, load, origins


@pytest.mark.parametrize("servers", ["127.0.0.1:9092", "kafka-1:9092,kafka-2.shop.example:9093"])
def test_a_broker_is_named_by_its_servers(servers):
    settings = Connection(load({"FLASHSALE_BROKER": f"kafka://{servers}"}).broker).settings({})
    assert settings["bootstrap.servers"] == servers
    assert settings["security.protocol"] == "PLAINTEXT"


@pytest.mark.parametrize(
    "value", ["kafka", "kafka://", "kafka://host", "kafka://host:port", "kafka://host:1,", "redis://host:1",
              "kafka://ann@host:1", "kafka://ann:@host:1", "kafka://ann:p/w@host:1"]
)  # fmt: skip
def test_anything_else_is_refused_with_a_remedy(value):
    with pytest.raises(SettingsError, match="FLASHSALE_BROKER: must be kafka://HOST:PORT"):
        load({"FLASHSALE_BROKER": value})


def test_a_user_and_his_password_are_proven_by_scram_unless_told_otherwise():
    settings = connection("kafka://ann:p%40ss%3Aword@a:1,b:2?tls=1").settings({})
    assert settings["security.protocol"] == "SASL_SSL"
    assert settings["bootstrap.servers"] == "a:1,b:2"
    assert settings["sasl.mechanism"] == "SCRAM-SHA-512"
    assert (settings["sasl.username"], settings["sasl.password"]) == ("ann", "p@ss:word")


def test_certificates_are_files():
    settings = connection("kafka://a:1?tls=1&ca=/etc/ca.pem&cert=/etc/me.pem&key=/etc/me.key").settings({})
    assert settings["security.protocol"] == "SSL"
    assert settings["ssl.ca.location"] == "/etc/ca.pem"
    assert (settings["ssl.certificate.location"], settings["ssl.key.location"]) == ("/etc/me.pem", "/etc/me.key")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("tsl=1", "options are tls=1"),
        ("tls=yes", "options are tls=1"),
        ("tls", "options are tls=1"),
        ("tls=1&mechanism=GSSAPI", "options are tls=1"),
        ("ca=/etc/ca.pem", "certificates are for tls=1"),
        ("mechanism=PLAIN", "it needs tls=1"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, said):
    with pytest.raises(SettingsError, match=said) as refused:
        load({"FLASHSALE_BROKER": f"kafka://ann:hush-hush@host:1?{options}"})
    assert "hush" not in str(refused.value)


def test_the_password_is_never_shown():
    environment = {"FLASHSALE_BROKER": "kafka://ann:hush-hush@host:1,other:2?tls=1"}
    shown = next(each.value for each in origins(environment) if each.name == "FLASHSALE_BROKER")
    assert shown == "kafka://ann:********@host:1,other:2?tls=1"
    assert repr(Connection(load(environment).broker)) == "Connection(host:1,other:2)"


def connection(url: str) -> Connection:
    return Connection(load({"FLASHSALE_BROKER": url}).broker)
