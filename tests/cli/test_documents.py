"""What the documents say about the command line, the settings and the library is so."""

import ast
import re
import subprocess
import sys
from pathlib import Path

from cli.program import environment
from msgspec import structs

from flashsale.core.risk import RULES, RiskTerms
from flashsale.core.thresholds import Thresholds, shown
from flashsale.settings import PREFIX, Settings
from flashsale.telemetry import EVENTS

ROOT = Path(__file__).parents[2]
OPERATING = (ROOT / "docs" / "operating.md").read_text()
RISK = (ROOT / "docs" / "risk.md").read_text()
LIBRARY = (ROOT / "docs" / "library.md").read_text()
EXAMPLE = ROOT / "examples" / "library.py"


def test_the_table_of_settings_is_complete_and_its_defaults_are_true():
    told = re.findall(rf"^\| `({PREFIX}\w+)` \| (?:`(.*?)`)? ?\| \S", OPERATING, re.MULTILINE)
    fields = structs.fields(Settings)
    assert told == [(PREFIX + field.name.upper(), default(field.default)) for field in fields]


def default(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return ""  # it depends on another setting
    return " ".join(value) if isinstance(value, tuple) else str(value)


def test_the_library_example_runs_and_prints_what_the_document_says(tmp_path):
    ran = subprocess.run(
        [sys.executable, EXAMPLE], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
    assert f"It prints\n\n```\n{ran.stdout}```\n" in LIBRARY
    assert list(tmp_path.iterdir()) == []


def test_the_document_shows_the_example_as_it_is():
    assert f"```python\n{EXAMPLE.read_text()}```\n" in LIBRARY


def test_every_log_event_of_the_code_is_listed_by_name():
    logged = {event for path in (ROOT / "src").rglob("*.py") for event in logged_in(path)}
    assert logged == EVENTS.keys()


def logged_in(path: Path) -> set[str]:
    return {
        node.args[0].value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func).startswith("log.")
        and node.args
        and isinstance(node.args[0], ast.Constant)
    }


def test_the_rules_and_thresholds_of_risk_are_documented_as_they_are():
    terms = {name: getattr(RiskTerms(), name) for name in RiskTerms.__struct_fields__}
    for rule in RULES:
        assert f"| `{rule.name}` | {rule.says.format(**terms)} | {rule.points} |" in RISK
    thresholds = shown(Thresholds())
    told = dict(re.findall(r"^\| `(risk\w+)` \| (\S+) \|$", RISK, re.MULTILINE))
    assert told == {name: str(value) for name, value in thresholds.items() if name.startswith("risk")}
    assert {f"risk_{name}": value for name, value in terms.items()} == {
        name: value for name, value in structs.asdict(Thresholds()).items() if name.startswith("risk_")
    }
