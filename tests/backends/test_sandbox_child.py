"""The sandbox provider as a child of the engine: it comes up, and goes with whoever started it."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from flashsale.backends.sandbox import KeptSandbox, SandboxNotStarted, SandboxProvider, start_sandbox
from flashsale.core.payment import PaymentStatus, Transaction
from flashsale.ports import ProviderUnavailable

PARENT = """
import asyncio, sys
from pathlib import Path
from flashsale.backends.sandbox import start_sandbox

async def live():
    child = await start_sandbox(Path(sys.argv[1]), slow_seconds=1)
    print(child.url, flush=True)
    await asyncio.sleep(60)

asyncio.run(live())
"""


def test_the_child_answers_until_it_is_closed(tmp_path: Path) -> None:
    async def story() -> None:
        child = await start_sandbox(tmp_path / "made" / "on the way" / "books.db")
        provider = SandboxProvider(child.url)
        assert (await provider.authorise("pay_1", 500, "EUR", "key")).status is PaymentStatus.AUTHORIZED
        await provider.close()
        await child.close()
        assert child.process.returncode == 0

    asyncio.run(story())


def test_a_child_that_is_closed_finishes_the_calls_in_flight(tmp_path: Path) -> None:
    async def story() -> None:
        child = await start_sandbox(tmp_path / "books.db", slow_seconds=0.5)
        provider = SandboxProvider(child.url)
        call = asyncio.create_task(provider.authorise("pay_slow_1", 500, "EUR", "key"))
        await until_held(provider, "pay_slow_1")
        await child.close()
        assert (await call).status is PaymentStatus.AUTHORIZED
        await provider.close()

    asyncio.run(story())


def test_a_child_that_is_closed_does_not_wait_for_long_calls(tmp_path: Path) -> None:
    async def story() -> None:
        child = await start_sandbox(tmp_path / "books.db", slow_seconds=60)
        provider = SandboxProvider(child.url)
        call = asyncio.create_task(provider.authorise("pay_slow_1", 500, "EUR", "key"))
        await until_held(provider, "pay_slow_1")
        began = time.monotonic()
        await child.close()
        assert time.monotonic() - began < 4
        assert isinstance((await asyncio.gather(call, return_exceptions=True))[0], Exception)
        await provider.close()

    asyncio.run(story())


async def until_held(provider: SandboxProvider, transaction_id: str) -> None:
    for _ in range(500):
        if await provider.look_up(transaction_id):
            return
        await asyncio.sleep(0.01)


def test_the_child_of_a_killed_parent_goes_and_a_new_one_takes_the_books_at_once(tmp_path: Path) -> None:
    books = tmp_path / "books.db"

    async def hold(url: str, transaction_id: str) -> PaymentStatus:
        provider = SandboxProvider(url)
        answer = await provider.authorise(transaction_id, 500, "EUR", transaction_id)
        await provider.close()
        return answer.status

    async def story(orphan_url: str) -> None:
        slow = asyncio.create_task(hold(orphan_url, "pay_slow_1"))
        while_slow = SandboxProvider(orphan_url)
        await until_held(while_slow, "pay_slow_1")
        os.kill(parent.pid, signal.SIGKILL)
        heir = await start_sandbox(books)
        assert await hold(heir.url, "pay_2") is PaymentStatus.AUTHORIZED
        assert not slow.done()
        assert await slow is PaymentStatus.AUTHORIZED
        await while_slow.close()
        await heir.close()

    command = [sys.executable, "-c", PARENT, str(books)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        asyncio.run(story(parent.stdout.readline().strip()))
        _, complaints = parent.communicate(timeout=4)  # ends when the child has left too: it shares our stderr
    assert complaints == ""


def test_a_child_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "books.db").write_text("a diary, not a database\n" * 100)
    with pytest.raises(SandboxNotStarted, match="file is not a database"):
        asyncio.run(start_sandbox(tmp_path / "books.db"))


def test_a_child_that_never_comes_up_is_an_error_and_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mute = tmp_path / "mute"
    mute.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    mute.chmod(0o755)
    monkeypatch.setattr("flashsale.backends.sandbox.START_SECONDS", 0.5)
    monkeypatch.setattr(sys, "executable", str(mute))
    with pytest.raises(SandboxNotStarted, match=r"did not come up within 0\.5 s"):
        asyncio.run(start_sandbox(tmp_path / "books.db"))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def answered_again(provider: SandboxProvider, transaction_id: str) -> Transaction | None:
    """Where it was, because others may have been told of that place."""
    async with asyncio.timeout(10):
        while True:
            with suppress(ProviderUnavailable):
                return await provider.look_up(transaction_id)
            await asyncio.sleep(0.05)


async def test_a_kept_provider_that_is_killed_comes_back_with_its_books_where_it_was(tmp_path: Path) -> None:
    async with KeptSandbox(tmp_path / "sandbox.db") as kept:
        provider = SandboxProvider(kept.url)
        await provider.authorise("pay_1", 100, "USD", "key-1")
        kept._process.process.kill()
        found = await answered_again(provider, "pay_1")
        await provider.close()
    assert found is not None and found.status is PaymentStatus.AUTHORIZED
