"""What goes wrong in a way that the user can mend, said in three parts: what, why it matters, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flashsale.settings import Settings, SettingsError, load

FAILED = 1
WRONG_INPUT = 2


class Problem(Exception):
    """Ends the command with this message on standard error and this exit code, without a traceback."""

    def __init__(self, what: str, meaning: str = "", remedy: str = "", code: int = FAILED) -> None:
        super().__init__(what)
        self.what = what
        self.meaning = meaning
        self.remedy = remedy
        self.code = code

    def __str__(self) -> str:
        lines = [f"error: {self.what}", self.meaning, f"To do: {self.remedy}" if self.remedy else ""]
        return "\n  ".join(line for part in lines if part for line in part.splitlines())


@contextmanager
def settings_problems() -> Iterator[None]:
    """Turns wrong settings into a Problem."""
    try:
        yield
    except SettingsError as error:
        remedy = "correct them in the environment, or in the file that FLASHSALE_CONFIG names"
        raise Problem("the settings are wrong", str(error), remedy, WRONG_INPUT) from error


def load_settings(data: str | None, **said: Any) -> Settings:
    """The settings in force; `data` and the others are what the command line said."""
    with settings_problems():
        return load(data=data, **said)
