"""A real browser for the tests: Debian's Chromium, named by FLASHSALE_TEST_CHROMIUM, found, or installed from apt."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Page, async_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGE = "chromium"
FLAGS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync")
"""Root gets no sandbox; and a test loads what it names, and nothing else."""


@asynccontextmanager
async def page() -> AsyncIterator[Page]:
    """An empty page of a browser that has nothing stored."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        try:
            yield await browser.new_page()
        finally:
            await browser.close()


def program() -> str:
    found = _found()
    if found is None:
        _install()
        found = _found()
    if found is None:
        raise RuntimeError(f"none of the programs {NAMES} is here after the installation of {PACKAGE}")
    return found


def _found() -> str | None:
    given = os.environ.get("FLASHSALE_TEST_CHROMIUM")
    return given or next((path for name in NAMES if (path := shutil.which(name))), None)


def _install() -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"the tests need a browser; run: sudo apt-get install {PACKAGE}")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", PACKAGE]):
        subprocess.run(["apt-get", "-qq", *command], check=True, env=quiet, capture_output=True)
