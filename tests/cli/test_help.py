"""What a newcomer sees first."""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from cli.program import run

from flashsale import __version__
from flashsale.cli import COMMANDS

SALE_COMMANDS = ("create", "list", "show", "start", "pause", "resume", "end", "stats")


def test_without_arguments_the_commands_are_listed(tmp_path):
    shown = run(cwd=tmp_path)
    assert shown.code == 2
    assert all(f"│ {command} " in shown.said for command in COMMANDS)


def test_every_command_explains_itself_with_an_example(tmp_path):
    commands = [*COMMANDS, *(f"sale {name}" for name in SALE_COMMANDS)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        helps = threads.map(lambda command: run(*command.split(), "--help", cwd=tmp_path), commands)
    for command, shown in zip(commands, helps, strict=True):
        assert shown.code == 0
        assert f"Usage: flashsale {command}" in shown.said
        assert command == "sale" or f"Example: flashsale {command}" in shown.said


def test_an_unknown_command_is_refused_by_name(tmp_path):
    refused = run("sevre", cwd=tmp_path)
    assert refused.code == 2
    assert "No such command 'sevre'" in refused.said


def test_an_unknown_option_is_refused_by_name(tmp_path):
    refused = run("serve", "--prot", "80", cwd=tmp_path)
    assert refused.code == 2
    assert "--prot" in refused.said


def test_the_version_is_told_to_people_and_to_scripts(tmp_path):
    assert run("version", cwd=tmp_path).out.startswith(f"flashsale {__version__} (Python ")
    python = ".".join(map(str, sys.version_info[:3]))
    assert json.loads(run("version", "--json", cwd=tmp_path).out) == {"flashsale": __version__, "python": python}


def test_the_version_is_told_within_400_ms(tmp_path):
    """At some moment of many, since the machine has other things to do."""
    taken: list[float] = []
    while min(taken, default=1) >= 0.4 and len(taken) < 20:
        started = time.perf_counter()
        run("version", cwd=tmp_path)
        taken.append(time.perf_counter() - started)
    assert min(taken) < 0.4
