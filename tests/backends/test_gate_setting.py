"""FLASHSALE_GATE: what it takes, and who is shown its password."""

import pytest

from flashsale import composition
from flashsale.backends.memory import MemoryGate
from flashsale.backends.redis.connect import Address, address_of
from flashsale.composition import ExtraMissing
from flashsale.engine import Engine
from flashsale.settings import SettingsError, load, origins

SECRET = "p%40ss,word:1"


def test_without_one_the_gate_is_in_the_process():
    assert (load({}).redis_url, load({"FLASHSALE_GATE": "memory://"}).redis_url) == (None, None)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", Address("redis", None, None, (("localhost", 6379),), 0)),
        ("redis://gate:6380/3", Address("redis", None, None, (("gate", 6380),), 3)),
        (f"rediss://ann:{SECRET}@[::1]:1", Address("rediss", "ann", "p@ss,word:1", (("::1", 1),), 0)),
        (f"redis+cluster://:{SECRET}@a:1,b:2", Address("redis+cluster", None, "p@ss,word:1", (("a", 1), ("b", 2)), 0)),
    ],
)
def test_a_redis_is_named_by_its_url(url, address):
    assert address_of(load({"FLASHSALE_GATE": url}).redis_url or "") == address


@pytest.mark.parametrize(
    "value", ["", "redis", "redis://", "redis://a:b:c", "redis://a:1/x", "redis+cluster://a", "redis+cluster://a:1,",
              "redis://a:1,b:2", "http://a:1", "memory://x", "redis://a b:1"]
)  # fmt: skip
def test_anything_else_is_refused_with_a_remedy(value):
    with pytest.raises(SettingsError, match="FLASHSALE_GATE: must be memory://, redis://"):
        load({"FLASHSALE_GATE": value})


def test_nobody_is_shown_the_password():
    url = f"redis://ann:{SECRET}@gate:6379/0"
    shown = {each.name: each.value for each in origins({"FLASHSALE_GATE": url})}["FLASHSALE_GATE"]
    assert shown == load({"FLASHSALE_GATE": url}).gate_name == "redis://ann:********@gate:6379/0"
    assert address_of(url).name == "redis://gate:6379"


async def test_an_engine_without_redis_has_a_gate_of_its_own(tmp_path):
    async with Engine.open(load({}, data=str(tmp_path))) as opened:
        assert isinstance(opened.gate, MemoryGate)


async def test_without_the_driver_a_redis_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(composition, "installed_redis", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'flashsale\[redis\]'"):
        async with Engine.open(load({}, data=str(tmp_path), gate="redis://127.0.0.1:9")):
            pass


async def test_an_engine_opens_without_its_redis_and_says_what_is_wrong(tmp_path):
    async with Engine.open(load({}, data=str(tmp_path), gate="redis://:secret@127.0.0.1:9")) as opened:
        assert "redis://127.0.0.1:9: " in (opened.gate.trouble or "")
        assert "secret" not in (opened.gate.trouble or "")
