"""`flashsale serve`: what it says, what it refuses, how it ends."""

import json
import resource
import signal
import socket
import stat
import urllib.request
from pathlib import Path

import pytest
from cli.program import NO_SANDBOX, Server, run

from flashsale import __version__
from flashsale.cli.address import is_loopback
from flashsale.rehearsal.servers import free_port

EVERYWHERE = "0.0.0.0"  # noqa: S104 (to see it refused)
EXAMPLE = Path(__file__).parents[2] / "examples" / "sale.toml"


def test_it_says_where_it_is_and_where_ledger_token_and_docs_are(server):
    assert f"flashsale {__version__} at {server.url}" in server.announced
    assert str(server.data / "ledger.db") in server.announced
    assert str(server.data / "admin-token") in server.announced
    assert f"{server.url}/api/docs" in server.announced
    with urllib.request.urlopen(f"{server.url}/health") as health:
        assert json.load(health)["status"] == "ok"


def test_the_token_it_makes_is_for_the_owner_only_and_is_not_shown(server):
    kept = server.data / "admin-token"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert kept.read_text() not in server.announced + server.errors


def test_a_configured_token_is_neither_kept_nor_shown(tmp_path):
    with Server(tmp_path, FLASHSALE_ADMIN_TOKEN="hush-hush", **NO_SANDBOX) as server:
        assert "as set in FLASHSALE_ADMIN_TOKEN" in server.announced
        assert not (server.data / "admin-token").exists()
        assert "hush-hush" not in server.announced + server.errors


def test_a_second_server_on_the_same_data_directory_is_refused_naming_the_first(server, tmp_path):
    refused = run("serve", "--port", free_port(), "--data", server.data, cwd=tmp_path)
    assert refused.code == 1
    assert f"ledger.db is in use by the process with pid {server.process.pid}" in refused.said
    assert "--data" in refused.said


def test_a_port_in_use_is_refused_in_a_sentence(server, tmp_path):
    refused = run("serve", "--port", server.port, "--data", tmp_path / "other", cwd=tmp_path)
    assert refused.code == 1
    assert f"cannot listen on 127.0.0.1:{server.port}: Address already in use" in refused.said
    assert "--port" in refused.said


def test_an_address_of_another_machine_is_refused_in_a_sentence(tmp_path):
    refused = run("serve", "--host", "192.0.2.1", cwd=tmp_path, FLASHSALE_OPEN_ANYWHERE="1")
    assert refused.code == 1
    assert "No network interface of this machine has this address" in refused.said


def test_more_than_one_worker_is_refused_naming_postgresql(tmp_path):
    refused = run("serve", "--workers", 2, cwd=tmp_path)
    assert refused.code == 2
    assert "SQLite" in refused.said
    assert "postgresql://" in refused.said


def test_identity_open_is_refused_where_other_machines_reach_it(tmp_path):
    refused = run("serve", "--host", EVERYWHERE, cwd=tmp_path)
    assert refused.code == 2
    assert "refused to listen on 0.0.0.0" in refused.said
    assert "FLASHSALE_OPEN_ANYWHERE=1" in refused.said
    assert not (tmp_path / "flashsale-data").exists()


def test_the_sandbox_is_refused_there_too_and_a_known_identity_is_not(tmp_path):
    secret = {"FLASHSALE_IDENTITY": "jwt", "FLASHSALE_JWT_SECRET": "a-secret-of-32-bytes-at-the-least"}
    refused = run("serve", "--host", EVERYWHERE, cwd=tmp_path, **secret)
    assert refused.code == 2
    assert "Here payment `sandbox` takes no money." in refused.said
    assert "identity" not in refused.said
    both = run("serve", "--host", EVERYWHERE, cwd=tmp_path)
    assert "identity `open` believes every request about who sends it, payment `sandbox` takes no money" in both.said


def test_a_file_of_keys_that_is_missing_or_none_is_refused_before_anything_is_opened(tmp_path):
    for text in (None, "nonsense", '{"keys":[]}'):
        if text is not None:
            (tmp_path / "keys.json").write_text(text)
        jwt = {"FLASHSALE_IDENTITY": "jwt", "FLASHSALE_JWT_JWKS": "keys.json"}
        refused = run("serve", cwd=tmp_path, **jwt)
        assert refused.code == 2
        assert "the keys of tokens cannot be read" in refused.said
        assert "FLASHSALE_JWT_JWKS" in refused.said
        assert not (tmp_path / "flashsale-data").exists()
        assert "token keys" in run("doctor", cwd=tmp_path, **jwt).said


def test_whoever_insists_on_identity_open_is_warned_loudly(tmp_path):
    with Server(tmp_path, "--host", EVERYWHERE, FLASHSALE_OPEN_ANYWHERE="1", **NO_SANDBOX) as server:
        assert "WARNING: 0.0.0.0 can be reached from other machines" in server.errors


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), (EVERYWHERE, False), ("::", False)],
)
def test_loopback_is_told_from_the_rest(host, expected):
    assert is_loopback(host) is expected


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    refused = run("serve", "--data", tmp_path / "file" / "data", cwd=tmp_path)
    assert refused.code == 1
    assert f"the data directory {tmp_path / 'file' / 'data'} cannot be made" in refused.said
    assert "To do: choose another one with --data" in refused.said


def test_one_run_shows_every_wrong_setting(tmp_path):
    refused = run("serve", cwd=tmp_path, FLASHSALE_BATCH_MAX="0", FLASHSALE_LEDGER="mysql://x")
    assert refused.code == 2
    assert "FLASHSALE_BATCH_MAX: Expected `int` >= 1" in refused.said
    assert "FLASHSALE_LEDGER: must be sqlite:///PATH" in refused.said


def test_a_file_that_is_no_ledger_is_named(tmp_path):
    (tmp_path / "ledger.db").write_text("a shopping list, and quite a long one at that")
    refused = run("serve", "--port", free_port(), "--data", tmp_path, cwd=tmp_path)
    assert refused.code == 1
    assert "ledger.db" in refused.said


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_cleanly_when_told_to(how, tmp_path):
    with Server(tmp_path) as server:
        assert server.stop(how) == 0
        assert "stopped" in server.errors
        assert "Traceback" not in server.errors


def test_after_its_end_address_and_ledger_are_free(tmp_path):
    with Server(tmp_path, **NO_SANDBOX) as server:
        server.stop()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
    assert run("migrate", "--data", server.data, cwd=tmp_path).code == 0


def test_a_broken_store_ends_it_saying_what_happened_what_it_means_and_what_to_do(tmp_path):
    """No file may grow any more: the next write to the ledger fails as on a broken disk."""
    with Server(tmp_path, **NO_SANDBOX) as server:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (16_384, 16_384))
        lost = run("sale", "create", EXAMPLE, "--url", server.url, "--data", server.data, cwd=tmp_path)
        assert lost.code == 1
        assert server.process.wait(10) == 70
    said = " ".join(server.errors.split())
    assert f"error: the ledger {server.data / 'ledger.db'} has failed" in said
    assert "After an I/O error nobody knows what reached the disk" in said
    assert "To do: look at the disk" in said
    assert "Traceback" not in said


def test_its_log_is_json_lines_where_nobody_watches(tmp_path):
    with Server(tmp_path, **NO_SANDBOX) as server:
        server.stop()
    events = [json.loads(line) for line in server.errors.splitlines()]
    assert {"event", "level", "logger", "timestamp"} <= events[-1].keys()
