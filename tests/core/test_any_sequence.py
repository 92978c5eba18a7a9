"""Whatever happens in whatever order: units are conserved, limits and keys hold, money and units stay together."""

import os

from core.machine import SaleMachine
from hypothesis import HealthCheck, settings

SOAK = bool(os.environ.get("FLASHSALE_SOAK"))

TestAnySequence = SaleMachine.TestCase
TestAnySequence.settings = settings(
    max_examples=5_000 if SOAK else 150,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
