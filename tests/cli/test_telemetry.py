"""The log: one event a line, and no secret in it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from flashsale import telemetry


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(**fields: object) -> dict[str, object]:
    stream = io.StringIO()
    telemetry.configure(stream)
    structlog.get_logger("flashsale.test").warning("clock", **fields)
    (line,) = stream.getvalue().splitlines()
    told: dict[str, object] = json.loads(line)
    return told


def test_an_event_is_a_line_of_json_with_its_logger_level_and_time():
    told = logged(alarm="late")
    assert told["event"] == "clock"
    assert told["alarm"] == "late"
    assert told["logger"] == "flashsale.test"
    assert told["level"] == "warning"
    assert str(told["timestamp"]).endswith("Z")


def test_on_a_terminal_it_is_readable():
    stream = Terminal()
    telemetry.configure(stream)
    structlog.get_logger("flashsale.test").warning("clock", alarm="late")
    assert "clock" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize("name", ["admin_token", "Authorization", "jwt_secret", "password", "api_key"])
def test_what_is_named_like_a_secret_is_masked(name):
    assert logged(**{name: "hush-hush"})[name] == telemetry.MASK


def test_a_password_in_an_address_is_masked():
    assert logged(url="redis://shop:hush@cache:6379/0")["url"] == f"redis://shop:{telemetry.MASK}@cache:6379/0"


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_traceback_shows_no_local_variables(stream):
    out = stream()
    telemetry.configure(out)
    hush = "hush-" * 2
    try:
        raise ValueError("wrong")
    except ValueError:
        structlog.get_logger("flashsale.test").exception("clock")
    assert "ValueError: wrong" in out.getvalue()
    assert hush not in out.getvalue()


def test_other_libraries_are_heard_in_the_same_form():
    stream = io.StringIO()
    telemetry.configure(stream)
    logging.getLogger("uvicorn.error").error("odd request from %s", "somewhere")
    told = json.loads(stream.getvalue())
    assert told["event"] == "odd request from somewhere"
    assert told["logger"] == "uvicorn.error"
