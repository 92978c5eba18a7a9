"""A broker that is away, or one of several databases, is told, and takes no server out of service."""

import json
from types import SimpleNamespace

import pytest
from edge.shop import Shop


@pytest.mark.parametrize(
    ("trouble", "state", "status"), [(None, "ok", "ready"), ("no answer", "no answer", "degraded")]
)
async def test_a_server_stays_ready_whatever_its_broker_does(shop: Shop, trouble, state, status) -> None:
    shop.engine.publishing = SimpleNamespace(trouble=trouble)
    answer = await shop.ask("GET", "/health/ready")
    told = json.loads(answer.text)
    assert (answer.status_code, told["status"]) == (200, status)
    assert told["parts"]["broker"] == {"state": state, "needed": False}


@pytest.mark.parametrize(
    ("troubles", "state", "status"),
    [
        ((None,), "ok", "ready"),
        ((None, None), "ok", "ready"),
        (("not connected yet", None), "not connected yet", "degraded"),
        ((None, "no answer"), "no answer", "degraded"),
    ],
)
async def test_a_server_stays_ready_whatever_the_queue_at_its_broker_does(shop: Shop, troubles, state, status) -> None:
    shop.engine.queue_ends = tuple(SimpleNamespace(trouble=trouble) for trouble in troubles)
    answer = await shop.ask("GET", "/health/ready")
    told = json.loads(answer.text)
    assert (answer.status_code, told["status"]) == (200, status)
    assert told["parts"]["queue"] == {"state": state, "needed": False}


async def test_a_server_stays_ready_while_one_of_several_databases_is_away(shop: Shop) -> None:
    shop.engine.shards_away = lambda: {1: "PostgreSQL cannot be reached"}
    told = json.loads((await shop.ask("GET", "/health/ready")).text)
    assert told["status"] == "degraded"
    assert told["parts"]["shard 1"] == {"state": "PostgreSQL cannot be reached", "needed": False}
