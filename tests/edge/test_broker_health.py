"""A broker that is away is told, and takes no server out of service."""

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
