"""`flashsale migrate`: what it applies, and when it refuses."""

import json
import sqlite3

from cli.program import run


def test_a_new_ledger_gets_every_migration_and_a_current_one_none(tmp_path):
    first = run("migrate", "--data", tmp_path, cwd=tmp_path)
    assert first.code == 0
    assert "applied 0001_ledger.sql" in first.said
    again = run("migrate", "--data", tmp_path, "--json", cwd=tmp_path)
    assert json.loads(again.out) == {"ledger": str(tmp_path / "ledger.db"), "applied": []}
    assert "is up to date" in run("migrate", "--data", tmp_path, cwd=tmp_path).said


def test_it_is_refused_while_a_server_uses_the_ledger(server, tmp_path):
    refused = run("migrate", "--data", server.data, cwd=tmp_path)
    assert refused.code == 1
    assert f"in use by the process with pid {server.process.pid}" in refused.said


def test_a_ledger_of_a_newer_version_is_left_alone(tmp_path):
    with sqlite3.connect(tmp_path / "ledger.db") as ledger:
        ledger.execute("PRAGMA user_version = 999")
    ledger.close()
    refused = run("migrate", "--data", tmp_path, cwd=tmp_path)
    assert refused.code == 1
    assert "schema 999" in refused.said
    assert "run a newer flashsale" in refused.said


def test_a_file_that_is_no_ledger_is_left_alone(tmp_path):
    (tmp_path / "ledger.db").write_text("a shopping list, and quite a long one at that")
    refused = run("migrate", "--data", tmp_path, cwd=tmp_path)
    assert refused.code == 1
    assert "ledger.db" in refused.said
    assert (tmp_path / "ledger.db").read_text().startswith("a shopping list")
