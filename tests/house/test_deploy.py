"""The files under deploy/ name only what there is: settings, commands, options, metrics, files."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from house.project import ROOT, text_of

from flashsale.cli import COMMANDS
from flashsale.cli.lazy import load
from flashsale.settings import NOT_YET, PREFIX, Settings
from flashsale.telemetry import METRICS

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load(text_of(DEPLOY / "compose.yaml"))
DOCKERFILE = text_of(DEPLOY / "Dockerfile")
ALERTS: dict[str, Any] = yaml.safe_load(text_of(DEPLOY / "alerts.yaml"))
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("flashsale")}
COMMANDED = {name: service["command"] for name, service in OURS.items() if "entrypoint" not in service}


def test_every_setting_that_is_named_there_exists():
    known = {PREFIX + name.upper() for name in (*Settings.__struct_fields__, *NOT_YET, "config")}
    texts = [text_of(path) for path in DEPLOY.iterdir() if path.is_file()] + [text_of(ROOT / "docs" / "deploying.md")]
    named = {name for text in texts for name in re.findall(rf"\b{PREFIX}[A-Z_]+\b", text)}
    assert named and named <= known


@pytest.mark.parametrize("name", COMMANDED)
def test_every_command_and_option_of_a_service_exists(name):
    command, *words = COMMANDED[name]
    assert command in COMMANDS
    options = {option for param in typer.main.get_command(load(command).app).params for option in param.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_the_fleet_is_whole():
    assert SERVICES.keys() == {"api", "worker", "migrate", "sandbox", "postgres", "valkey", "kafka"}
    assert COMMANDED["worker"][:4] == ["worker", "sweep", "publish", "consume"]
    assert COMMANDED["api"][COMMANDED["api"].index("--loops") + 1] == "none"


def test_every_service_that_stays_has_a_health_check_and_nobody_starts_before_what_he_needs():
    checked = {name for name, service in SERVICES.items() if "healthcheck" in service}
    assert SERVICES.keys() - checked == {"migrate", "sandbox"}
    for name, service in OURS.items():
        for needed, how in service.get("depends_on", {}).items():
            wanted = {"migrate": "service_completed_successfully", "sandbox": "service_started"}
            assert how["condition"] == wanted.get(needed, "service_healthy"), (name, needed)


def test_every_image_has_a_version():
    images = [service["image"] for service in SERVICES.values()] + re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert [image for image in images if ":" not in image or image.endswith(":latest")] == []


def test_no_secret_stands_in_the_file():
    assert not re.search(r"(?i)(password|token|secret)[\w-]*: *[\"']?[^\s\"'{/[]", text_of(DEPLOY / "compose.yaml"))
    assert "deploy/secrets/" in text_of(ROOT / ".gitignore")


def test_our_processes_are_nobody_in_particular_and_can_write_their_data_only():
    assert re.search(r"^USER 10001:10001$", DOCKERFILE, re.MULTILINE)
    for service in OURS.values():
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert [volume.rpartition(":")[2] for volume in service["volumes"]] == ["/data"]


def test_the_port_is_published_on_this_machine_only_as_long_as_everybody_is_believed():
    assert SERVICES["api"]["environment"]["FLASHSALE_OPEN_ANYWHERE"] == "true"
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:8080:8080"]


def test_what_the_image_is_made_of_lies_in_the_repository_and_is_sent_to_the_builder():
    copied = [
        word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()
    ]
    sent = re.findall(r"^!(\S+)", text_of(DEPLOY / "Dockerfile.dockerignore"), re.MULTILINE)
    assert sorted(copied) == sorted(sent)
    assert [name for name in copied if not (ROOT / name).exists()] == []


def test_the_backends_of_the_image_are_in_the_lock():
    (names,) = re.findall(r"\^\(([\w|-]+)\)==", DOCKERFILE)
    pinned = re.findall(r"^([\w.-]+)==", text_of(ROOT / "requirements-dev.lock"), re.MULTILINE)
    assert set(names.split("|")) <= set(pinned)


def test_the_secrets_are_made_once_and_hold_settings(tmp_path):
    script = tmp_path / "deploy" / "make-secrets"
    script.parent.mkdir()
    script.write_bytes((DEPLOY / "make-secrets").read_bytes())
    for _ in range(2):
        subprocess.run(["bash", script], check=True, capture_output=True)
    made = {path.name: path.read_text() for path in (script.parent / "secrets").iterdir()}
    assert made.keys() == {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert f":{made['postgres-password']}@postgres/" in made["flashsale.toml"]
    assert set(re.findall(r"^(\w+) =", made["flashsale.toml"], re.MULTILINE)) <= {*Settings.__struct_fields__}


# -- Alerts


def test_every_alert_is_about_metrics_that_there_are_and_stands_in_the_document():
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    named = {name for rule in rules for name in re.findall(r"flashsale_\w+", rule["expr"])}
    assert named <= {*METRICS, "flashsale_reserve_seconds_bucket"}
    told = re.findall(r"^\| (Flashsale\w+) \|", text_of(ROOT / "docs" / "metrics.md"), re.MULTILINE)
    assert [rule["alert"] for rule in rules] == told
