"""`flashsale doctor`: every setting with its origin, and whether this machine is fit for a sale."""

from collections import Counter

import msgspec
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flashsale.cli.checks import examine
from flashsale.cli.finding import Finding, Level
from flashsale.cli.options import DEFAULT_HOST, DEFAULT_PORT, Data, Host, Json, Port, new_app
from flashsale.cli.problem import FAILED, load_settings
from flashsale.settings import Origin, origins

app = new_app()

STYLE = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


@app.command(epilog="Example: flashsale doctor --data shop-data --json")
def doctor(host: Host = DEFAULT_HOST, port: Port = DEFAULT_PORT, data: Data = None, json: Json = False) -> None:
    """Show every setting with its origin, and check this machine.

    Looks at Python, open files, the clock, the data directory, its disk, the ledger and its schema, the
    broker, and the address; says which profile the settings make (embedded, postgres or cluster). Changes
    nothing, and may run beside a server. Exit code 1 if something is wrong; each problem comes with its
    remedy.
    """
    settings = load_settings(data)
    knobs = origins(data=data)
    findings = examine(settings, host, port)
    if json:
        typer.echo(msgspec.json.encode({"settings": knobs, "checks": findings}))
    else:
        _show(knobs, findings)
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(FAILED)


def _show(knobs: list[Origin], findings: list[Finding]) -> None:
    console = Console()
    settings = Table("setting", "value", "origin", box=box.SIMPLE_HEAD, pad_edge=False)
    for knob in knobs:
        settings.add_row(knob.name, Text(_value(knob.value)), Text(knob.origin))
    console.print(settings)
    checks = Table("check", "", "found", box=box.SIMPLE_HEAD, pad_edge=False)
    for finding in findings:
        found = finding.found if finding.level is Level.OK else f"{finding.found}\nTo do: {finding.remedy}"
        checks.add_row(finding.name, Text(finding.level, STYLE[finding.level]), Text(found))
    console.print(checks)
    console.print(_verdict(findings), highlight=False)


def _value(value: object) -> str:
    match value:
        case bool():
            return "on" if value else "off"
        case tuple():
            return " ".join(map(str, value))
    return str(value)


def _verdict(findings: list[Finding]) -> str:
    levels = Counter(finding.level for finding in findings)
    return f"{len(findings)} checks; problems: {levels[Level.PROBLEM]}, warnings: {levels[Level.WARNING]}."
