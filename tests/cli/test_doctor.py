"""`flashsale doctor`: it finds what is wrong, and says what to do."""

import json
import socket
import sqlite3
from pathlib import Path
from threading import Thread
from typing import Any

from cli.program import NO_SANDBOX, Server, run
from msgspec import structs
from servers.process import running
from servers.valkey import ValkeyServer, server_url

from flashsale.rehearsal.servers import free_port
from flashsale.settings import Settings


def findings(cwd: Path, *arguments: object, **settings: str) -> tuple[int, dict[str, dict[str, Any]]]:
    told = run("doctor", "--json", *arguments, cwd=cwd, **settings)
    return told.code, {finding["name"]: finding for finding in json.loads(told.out)["checks"]}


def test_a_fit_machine_passes(tmp_path):
    told = run("doctor", "--port", free_port(), cwd=tmp_path)
    assert told.code == 0, told.said
    assert "problems: 0" in told.said
    assert "is made at the first start" in told.said


def test_it_changes_nothing(tmp_path):
    run("doctor", "--port", free_port(), cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_every_setting_is_told_with_its_origin(tmp_path):
    (tmp_path / "shop.toml").write_text("batch_max = 64\n")
    told = run("doctor", "--json", "--data", "d", cwd=tmp_path, FLASHSALE_CONFIG="shop.toml", FLASHSALE_QUEUE_MAX="99")
    knobs = {knob["name"]: knob for knob in json.loads(told.out)["settings"]}
    assert len(knobs) == len(structs.fields(Settings))
    assert knobs["FLASHSALE_BATCH_MAX"] == {"name": "FLASHSALE_BATCH_MAX", "value": 64, "origin": "shop.toml"}
    assert knobs["FLASHSALE_QUEUE_MAX"]["origin"] == "environment"
    assert knobs["FLASHSALE_DATA"]["origin"] == "command line"
    assert knobs["FLASHSALE_FAST_LANE"]["origin"] == "default"


def test_secrets_are_masked(tmp_path):
    for form in ((), ("--json",)):
        told = run("doctor", *form, cwd=tmp_path, FLASHSALE_ADMIN_TOKEN="hush-hush")
        assert "hush-hush" not in told.said
        assert "********" in told.said


def test_a_misspelt_variable_is_noticed(tmp_path):
    _, found = findings(tmp_path, FLASHSALE_LEDGR="sqlite:///x")
    assert found["variables"]["level"] == "warning"
    assert "FLASHSALE_LEDGR" in found["variables"]["found"]


def test_beside_a_server_it_names_the_holder_and_hears_the_answer(server, tmp_path):
    code, found = findings(tmp_path, "--port", server.port, "--data", server.data)
    assert code == 0
    assert f"in use by the process with pid {server.process.pid}" in found["ledger"]["found"]
    assert found["schema"]["level"] == "ok"
    assert f"answers at 127.0.0.1:{server.port}: ok" in found["address"]["found"]


def test_the_ledger_of_a_server_that_has_gone_is_free(tmp_path):
    with Server(tmp_path, **NO_SANDBOX) as server:
        server.stop()
    _, found = findings(tmp_path, "--port", server.port, "--data", server.data)
    assert found["ledger"]["found"].endswith("is free")
    assert found["address"]["found"].endswith("is free")


def test_a_stranger_on_the_port_is_a_problem(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        Thread(target=lambda: stranger.accept()[0].close(), daemon=True).start()
        code, found = findings(tmp_path, "--port", stranger.getsockname()[1])
    assert code == 1
    assert found["address"]["level"] == "problem"
    assert "--port" in found["address"]["remedy"]


def test_a_data_directory_that_cannot_be_written_is_a_problem(tmp_path):
    (tmp_path / "file").touch()
    code, found = findings(tmp_path, "--data", tmp_path / "file" / "data")
    assert code == 1
    assert found["data directory"]["level"] == "problem"
    assert "--data" in found["data directory"]["remedy"]


def test_a_file_that_is_no_ledger_is_a_problem(tmp_path):
    (tmp_path / "ledger.db").write_text("a shopping list, and quite a long one at that")
    code, found = findings(tmp_path, "--data", tmp_path)
    assert code == 1
    assert "is no SQLite file" in found["schema"]["found"]


def test_a_ledger_of_a_newer_version_is_a_problem(tmp_path):
    with sqlite3.connect(tmp_path / "ledger.db") as ledger:
        ledger.execute("PRAGMA user_version = 999")
    ledger.close()
    code, found = findings(tmp_path, "--data", tmp_path)
    assert code == 1
    assert found["schema"]["found"].startswith("999; this version knows")


def test_problems_are_shown_to_people_with_their_remedy(tmp_path):
    (tmp_path / "ledger.db").write_text("a shopping list, and quite a long one at that")
    told = run("doctor", "--data", tmp_path, cwd=tmp_path)
    assert told.code == 1
    assert "To do: restore the ledger from a backup" in told.said


def test_wrong_settings_are_listed(tmp_path):
    told = run("doctor", cwd=tmp_path, FLASHSALE_IDENTITY="magic", FLASHSALE_DRAIN_SECONDS="-1")
    assert told.code == 2
    assert "FLASHSALE_IDENTITY: must be open" in told.said
    assert "FLASHSALE_DRAIN_SECONDS: Expected `float` >= 0" in told.said


def test_a_gate_in_the_process_is_told(tmp_path):
    assert findings(tmp_path)[1]["gate"]["level"] == "ok"


def test_a_redis_that_answers_is_told_with_its_version(tmp_path):
    _, found = findings(tmp_path, FLASHSALE_GATE=server_url())
    assert found["gate"]["level"] == "ok"
    assert ("Valkey" in found["gate"]["found"]) or ("Redis" in found["gate"]["found"])


def test_a_redis_that_cannot_be_reached_is_a_problem_and_its_password_stays_a_secret(tmp_path):
    told = run("doctor", "--json", cwd=tmp_path, FLASHSALE_GATE="redis://:hush-hush@127.0.0.1:9/0")
    [found] = [each for each in json.loads(told.out)["checks"] if each["name"] == "gate"]
    assert (told.code, found["level"]) == (1, "problem")
    assert "redis://127.0.0.1:9" in found["found"]
    assert "hush-hush" not in told.said


def test_a_redis_that_may_throw_keys_away_is_a_warning(tmp_path):
    with running(ValkeyServer("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")) as server:
        _, found = findings(tmp_path, FLASHSALE_GATE=server.url)
    assert found["gate"]["level"] == "warning"
    assert "allkeys-lru" in found["gate"]["found"]


def test_one_server_that_is_named_as_a_cluster_is_a_problem(tmp_path):
    _, found = findings(
        tmp_path, FLASHSALE_GATE=server_url().replace("redis://", "redis+cluster://").removesuffix("/0")
    )
    assert (found["gate"]["level"], found["gate"]["remedy"]) == ("problem", "name it with redis://")


def test_the_profile_follows_from_the_urls(tmp_path):
    nobody = {"FLASHSALE_LEDGER": "postgresql://nobody@127.0.0.1:1/nothing"}
    kafka = {"FLASHSALE_BROKER": "kafka://127.0.0.1:1"}
    for settings, profile in (({}, "embedded"), (nobody, "postgres"), (nobody | kafka, "cluster")):
        _, found = findings(tmp_path, "--port", free_port(), **settings)
        assert found["profile"]["found"].startswith(f"{profile}: ")
