"""What the closing summary of a run has to say, also when the tests were shared between processes (`scripts/test`)."""

from typing import Any

import pytest
from servers.kafka import notes


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
