"""`flashsale` as its users meet it: a process with arguments, an environment and a directory of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from flashsale.rehearsal.servers import free_port

PROGRAM = (sys.executable, "-m", "flashsale.cli")
PATIENCE_SECONDS = 20.0
NO_SANDBOX = {"FLASHSALE_SANDBOX_URL": "http://127.0.0.1:1"}
"""Starts faster; for where nobody pays."""


class Finished(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything, on one line: where a terminal breaks lines is no promise."""
        return " ".join((self.out + " " + self.err).split())


def environment(**settings: str) -> dict[str, str]:
    """Nothing of the developer's own configuration reaches a test."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FLASHSALE_", "COV"))}
    return clean | {"COLUMNS": "200", "NO_COLOR": "1"} | settings


def run(*arguments: object, cwd: Path, **settings: str) -> Finished:
    command = [*PROGRAM, *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(**settings),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stdout + done.stderr
    return Finished(done.returncode, done.stdout, done.stderr)


class Server:
    """`flashsale serve`, from its announcement on."""

    def __init__(self, directory: Path, *arguments: str, **settings: str) -> None:
        self.data = directory / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / f"server-{self.port}.log"
        command = [*PROGRAM, "serve", "--port", str(self.port), "--data", str(self.data), *arguments]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                cwd=directory,
                env=environment(**settings),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self.announced = self._announcement()
        except AssertionError:
            self.close()
            raise

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends it, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    @property
    def errors(self) -> str:
        return self.log.read_text()

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(PATIENCE_SECONDS)

    def _announcement(self) -> str:
        """Until the line about the docs, which comes last, and until it listens."""
        lines = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            lines.append(line)
            if "docs" in line:
                self._wait_until_it_listens()
                return "".join(lines)
        raise AssertionError(f"the server ended with {self.process.wait()}: {self.errors}")

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise AssertionError(f"the server does not listen: {self.errors}")
