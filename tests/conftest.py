"""What ends with a run, and what its closing summary says, also when several processes shared it (`scripts/test`)."""

from typing import Any

import pytest
from servers.kafka import notes
from servers.process import stop_all


def pytest_sessionfinish(session: pytest.Session) -> None:
    stop_all()
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
