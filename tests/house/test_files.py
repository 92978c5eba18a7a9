"""What lies in the repository, and what does not."""

import os
import re

import pytest
from house.project import PACKAGE, ROOT, place, project_files, sources, text_of, tree_of

ROOT_DOCUMENTS = {"README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}

EMOJI = re.compile("[\u2600-\u27bf\u2b50\u2b55\ufe0f\U0001f000-\U0001faff]")
DEVELOPERS_MACHINE = re.compile(r"/(?:home|Users)/[a-z]|/(?:root|work)/|[A-Z]:\\Users")
PUT_OFF = re.compile(r"\b(?:TO[D]O|FIX[M]E|XX[X]|HA[C]K)\b")


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{place(path)}:{number} {line.strip()}"
        for path in project_files()
        for number, line in enumerate(text_of(path).splitlines(), start=1)
        if path.name != "LICENSE" and pattern.search(line)
    ]


def test_the_root_holds_no_markdown_but_the_five_documents():
    assert {path.name for path in ROOT.glob("*.md")} <= ROOT_DOCUMENTS


def test_nothing_is_put_off_in_a_comment():
    assert lines_with(PUT_OFF) == [], "do it, or open an issue"


def test_no_emoji():
    assert lines_with(EMOJI) == []


def test_no_path_of_a_developers_machine():
    assert lines_with(DEVELOPERS_MACHINE) == []


@pytest.mark.parametrize("suffix", ["sql", "lua"])
def test_every_sql_and_lua_file_begins_with_a_comment_that_says_what_it_is_for(suffix):
    assert [place(path) for path in PACKAGE.rglob(f"*.{suffix}") if not re.match(r"-- \w", text_of(path))] == []


def test_every_module_says_in_its_first_line_what_it_holds():
    silent = [place(path) for path in sources() if tree_of(path).body and not text_of(path).startswith('"""')]
    assert silent == []


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").iterdir()), ids=lambda path: path.name)
def test_every_script_can_be_run_and_says_what_it_is_for(script):
    assert os.access(script, os.X_OK)
    interpreter, purpose, *_ = text_of(script).splitlines()
    assert interpreter.startswith("#!/usr/bin/env ")
    assert re.match(r'# \w|"""\w', purpose)


def test_the_locks_name_no_registry_and_hash_every_package():
    for lock in (ROOT / "requirements.lock", ROOT / "requirements-dev.lock"):
        requirements = text_of(lock).replace("\\\n", "")
        assert "://" not in requirements
        pinned = [line for line in requirements.splitlines() if line and not line.lstrip().startswith("#")]
        assert [line for line in pinned if "==" not in line or "--hash=sha256:" not in line] == []


def test_the_runtime_lock_is_part_of_the_developers_lock():
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^[\w.-]+==\S+", text_of(ROOT / name), re.MULTILINE))

    assert pins("requirements.lock") <= pins("requirements-dev.lock")
