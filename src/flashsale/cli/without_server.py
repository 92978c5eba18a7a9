"""The app that a server would run, around a ledger that no server has open."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from flashsale import telemetry
from flashsale.cli.data_directory import admin_token
from flashsale.cli.opening import open_engine
from flashsale.edge.app import create_app
from flashsale.settings import Settings


@asynccontextmanager
async def open_app(settings: Settings) -> AsyncIterator[tuple[Any, str]]:
    """The app and its operators' token."""
    telemetry.configure()
    async with open_engine(settings) as engine:
        token, _ = admin_token(settings)
        yield create_app(engine, token), token
