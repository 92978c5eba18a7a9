"""How a run is shared between two processes, and what its closing summary has to say.

`scripts/test` runs the tests in two processes, because most of them wait most of the time. Those of a file stay
together: they share what they have started. Those of `tests/e2e` stay together, too, and come first: they kill servers
and look at the clock, and two such tests at once would hurt each other.
"""

from typing import Any

import pytest
from servers.kafka import notes

ENDS = "tests/e2e/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(ENDS))
    for item in items:
        file = item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group("e2e" if file.startswith(ENDS) else file))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["notes"] = notes


class Controller:
    """Hears the notes of the processes that run the tests."""

    def pytest_testnodedown(self, node: Any) -> None:
        notes.extend(each for each in getattr(node, "workeroutput", {}).get("notes", ()) if each not in notes)


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("dsession"):
        config.pluginmanager.register(Controller())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for note in notes:
        terminalreporter.write_line(f"note: {note}", yellow=True)
