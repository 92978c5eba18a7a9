"""What the scenarios with one sale have in common: each has its own `aftermath`, and this is what is in it."""

import pytest
from e2e.scenario import Aftermath

from flashsale.rehearsal.verdict import Evidence


@pytest.fixture
def evidence(aftermath: Aftermath) -> Evidence:
    assert aftermath.evidence is not None
    return aftermath.evidence
