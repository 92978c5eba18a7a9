"""What the closing summary of a run has to say."""

import pytest
from servers.kafka import notes


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for note in notes:
        terminalreporter.write_line(f"note: {note}", yellow=True)
