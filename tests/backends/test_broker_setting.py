"""FLASHSALE_BROKER: what it takes."""

import pytest

from flashsale.settings import SettingsError, load


@pytest.mark.parametrize("servers", ["127.0.0.1:9092", "kafka-1:9092,kafka-2.shop.example:9093"])
def test_a_broker_is_named_by_its_servers(servers):
    assert load({"FLASHSALE_BROKER": f"kafka://{servers}"}).kafka_servers == servers


def test_without_a_broker_there_are_no_servers():
    assert load({}).kafka_servers is None


@pytest.mark.parametrize(
    "value", ["kafka", "kafka://", "kafka://host", "kafka://host:port", "kafka://host:1,", "redis://host:1",
              "kafka://ann:pw@host:1"]
)  # fmt: skip
def test_anything_else_is_refused_with_a_remedy(value):
    with pytest.raises(SettingsError, match="FLASHSALE_BROKER: must be kafka://HOST:PORT"):
        load({"FLASHSALE_BROKER": value})
