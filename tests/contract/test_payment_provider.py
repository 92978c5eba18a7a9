"""What a payment provider promises to the purchase, one test per sentence of the port."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from contract.till import Sandbox, Till

from flashsale.backends.sandbox import SandboxProvider
from flashsale.core.payment import PaymentStatus, Transaction
from flashsale.ports import PaymentProvider, ProviderUnavailable

AUTHORIZED, CAPTURED = PaymentStatus.AUTHORIZED, PaymentStatus.CAPTURED
FAILED, VOIDED = PaymentStatus.FAILED, PaymentStatus.VOIDED


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with Sandbox(tmp_path_factory.mktemp("sandbox") / "books.db", "--slow-seconds", "0.5") as running:
        yield running


@pytest.fixture(scope="module")
def till(sandbox: Sandbox) -> Iterator[Till]:
    with sandbox.till() as till:
        yield till


# -- Authorise


def test_authorising_takes_a_hold_of_exactly_the_amount_asked_for(till: Till) -> None:
    transaction_id = till.id()
    assert till.authorise(transaction_id, 99_999, "USD") == Transaction(transaction_id, AUTHORIZED, 99_999, "USD")


def test_a_declined_payment_is_an_answer_with_its_reason(till: Till) -> None:
    declined = till.authorise(till.id("pay_declined"), 500)
    assert declined.status is FAILED
    assert declined.reason != ""


def test_only_a_failed_payment_has_a_reason(till: Till) -> None:
    assert till.authorise(till.id(), 500).reason == ""


def test_a_declined_payment_stays_declined_whoever_asks_again(till: Till) -> None:
    transaction_id = till.id("pay_declined")
    assert {till.authorise(transaction_id, 500).status for _ in range(3)} == {FAILED}
    assert till.capture(transaction_id, 500).status is FAILED


def test_a_slow_provider_is_waited_for(till: Till) -> None:
    assert till.authorise(till.id("pay_slow"), 500).status is AUTHORIZED


def test_a_transaction_that_exists_is_shown_as_it_is_with_its_own_amount(till: Till) -> None:
    transaction_id = till.captured(500)
    assert till.authorise(transaction_id, 999, "USD") == Transaction(transaction_id, CAPTURED, 500, "EUR")


@pytest.mark.parametrize("status", ["CREATED", "FAILED", "AUTHORIZED", "VOIDED", "CAPTURED"])
def test_a_transaction_the_buyer_made_beforehand_is_shown_as_it_is(till: Till, sandbox: Sandbox, status: str) -> None:
    transaction_id = till.id()
    sandbox.create(transaction_id, 500, status=status)
    shown = till.authorise(transaction_id, 999)
    assert (shown.status.name, shown.amount_minor) == (status, 500)


# -- Capture and void


def test_a_capture_takes_what_is_held(till: Till) -> None:
    transaction_id = till.held(500)
    assert till.capture(transaction_id, 500) == Transaction(transaction_id, CAPTURED, 500, "EUR")


@pytest.mark.parametrize("amount_minor", [499, 501])
def test_a_capture_of_another_amount_than_is_held_moves_nothing(till: Till, amount_minor: int) -> None:
    assert till.capture(till.held(500), amount_minor).status is AUTHORIZED


def test_what_is_captured_is_not_captured_again(till: Till) -> None:
    transaction_id = till.captured(500)
    assert till.capture(transaction_id, 500) == Transaction(transaction_id, CAPTURED, 500, "EUR")


def test_a_void_lets_the_hold_go(till: Till) -> None:
    transaction_id = till.held(500)
    assert till.void(transaction_id).status is VOIDED
    assert till.capture(transaction_id, 500).status is VOIDED


def test_a_void_after_the_capture_is_refused_by_showing_the_captured_transaction(till: Till) -> None:
    assert till.void(till.captured(500)).status is CAPTURED


def test_of_a_capture_and_a_void_at_the_same_time_exactly_one_wins(till: Till) -> None:
    for _ in range(20):
        transaction_id = till.held(500)
        captured, voided = till.together(
            lambda it, this=transaction_id: it.capture(this, 500, f"capture {this}"),
            lambda it, this=transaction_id: it.void(this, f"void {this}"),
        )
        assert captured.status is voided.status
        assert captured.status in (CAPTURED, VOIDED)


# -- Refund


def test_a_refund_gives_back_a_part_or_all_of_what_was_captured(till: Till) -> None:
    transaction_id = till.captured(500)
    assert till.refund(transaction_id, 200) == Transaction(transaction_id, CAPTURED, 500, "EUR", 200)
    assert till.refund(transaction_id, 300) == Transaction(transaction_id, CAPTURED, 500, "EUR", 500)


def test_a_refund_beyond_what_is_left_moves_nothing(till: Till) -> None:
    transaction_id = till.captured(500)
    till.refund(transaction_id, 400)
    assert till.refund(transaction_id, 101).refunded_minor == 400


def test_refunds_at_the_same_time_never_exceed_what_was_captured(till: Till) -> None:
    transaction_id = till.captured(500)
    till.together(*(lambda it, key=key: it.refund(transaction_id, 60, f"{transaction_id} {key}") for key in range(50)))
    found = till.look_up(transaction_id)
    assert found is not None
    assert found.refunded_minor == 480


def test_only_captured_money_can_be_refunded(till: Till) -> None:
    assert till.refund(till.held(500), 100).refunded_minor == 0


# -- Look up


def test_looking_up_shows_the_transaction_as_it_is_now(till: Till) -> None:
    transaction_id = till.held(500)
    assert till.look_up(transaction_id) == Transaction(transaction_id, AUTHORIZED, 500, "EUR")
    till.capture(transaction_id, 500)
    assert till.look_up(transaction_id) == Transaction(transaction_id, CAPTURED, 500, "EUR")


@pytest.mark.parametrize(
    "strange", ["pay_nobody", "", "..", "../books", "a/b?c#d", "\u00fcber", "x\r\nhost: y", "x" * 9000]
)
def test_looking_up_what_nobody_made_finds_nothing(till: Till, strange: str) -> None:
    assert till.look_up(strange) is None


# -- Keys


VERBS = {
    "authorise": lambda till, it, key: till.authorise(it, 500, key=key),
    "capture": lambda till, it, key: till.capture(it, 500, key),
    "refund": lambda till, it, key: till.refund(it, 200, key),
    "void": lambda till, it, key: till.void(it, key),
}


@pytest.mark.parametrize("verb", VERBS)
def test_repeating_a_call_with_its_key_repeats_its_answer_and_moves_nothing_twice(till: Till, verb: str) -> None:
    transaction_id = till.captured(500) if verb == "refund" else till.held(500)
    key = till.id("key")
    first = VERBS[verb](till, transaction_id, key)
    after_first = till.look_up(transaction_id)
    assert [VERBS[verb](till, transaction_id, key) for _ in range(3)] == [first] * 3
    assert till.look_up(transaction_id) == after_first


def test_the_answer_of_a_key_stays_the_same_when_the_transaction_has_moved_on(till: Till) -> None:
    transaction_id = till.id()
    first = till.authorise(transaction_id, 500, key=f"hold {transaction_id}")
    till.capture(transaction_id, 500)
    assert till.authorise(transaction_id, 500, key=f"hold {transaction_id}") == first


def test_one_key_fifty_times_at_once_moves_money_once(till: Till) -> None:
    transaction_id, key = till.captured(500), till.id("key")
    answers = till.together(*[lambda it: it.refund(transaction_id, 10, key)] * 50)
    assert {answer.refunded_minor for answer in answers} == {10}


def test_another_key_is_another_refund(till: Till) -> None:
    transaction_id = till.captured(500)
    till.refund(transaction_id, 10)
    assert till.refund(transaction_id, 10).refunded_minor == 20


def test_a_key_used_for_another_request_is_the_callers_mistake_and_moves_nothing(till: Till) -> None:
    transaction_id, key = till.captured(500), till.id("key")
    till.refund(transaction_id, 10, key)
    with pytest.raises(ValueError, match="key"):
        till.refund(transaction_id, 20, key)
    found = till.look_up(transaction_id)
    assert found is not None
    assert found.refunded_minor == 10


@pytest.mark.parametrize("verb", ["capture", "refund"])
def test_a_call_about_a_transaction_nobody_made_fails_with_a_reason(till: Till, verb: str) -> None:
    refused = VERBS[verb](till, till.id(), till.id("key"))
    assert refused.status is FAILED
    assert refused.reason != ""


def test_a_call_that_came_before_its_transaction_can_be_made_again_with_its_key(till: Till) -> None:
    transaction_id = till.id()
    assert till.capture(transaction_id, 500, f"capture {transaction_id}").status is FAILED
    till.held(500, transaction_id)
    assert till.capture(transaction_id, 500, f"capture {transaction_id}").status is CAPTURED


def test_a_void_closes_a_transaction_that_the_provider_has_not_seen_yet(till: Till) -> None:
    transaction_id = till.id()
    assert till.void(transaction_id).status is VOIDED
    assert till.authorise(transaction_id, 500).status is VOIDED
    assert till.capture(transaction_id, 500).status is VOIDED


# -- Unknown outcomes


def test_only_an_unknown_outcome_raises_and_it_names_the_drivers_error(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "books.db") as gone, gone.till() as till:
        gone.kill()
        with pytest.raises(ProviderUnavailable) as raised:
            till.authorise("pay_1", 500)
    assert isinstance(raised.value.__cause__, ConnectionError)


def test_a_provider_that_fails_leaves_the_outcome_unknown_every_time(till: Till) -> None:
    transaction_id, key = till.id("pay_error"), till.id("key")
    for _ in range(3):
        with pytest.raises(ProviderUnavailable):
            till.authorise(transaction_id, 500, key=key)
    assert till.look_up(transaction_id) is None


def test_an_unknown_outcome_may_be_money_held_which_looking_up_shows_and_a_void_lets_go(till: Till) -> None:
    transaction_id = till.id("pay_error_recorded")
    with pytest.raises(ProviderUnavailable):
        till.authorise(transaction_id, 500)
    assert till.look_up(transaction_id) == Transaction(transaction_id, AUTHORIZED, 500, "EUR")
    assert till.void(transaction_id).status is VOIDED


def test_no_call_outlasts_its_deadline_and_asking_again_with_its_key_tells_the_outcome(sandbox: Sandbox) -> None:
    with sandbox.till(call_seconds=0.1) as impatient, sandbox.till() as patient:
        transaction_id = impatient.id("pay_slow")
        began = time.monotonic()
        with pytest.raises(ProviderUnavailable):
            impatient.authorise(transaction_id, 500, key=f"hold {transaction_id}")
        assert time.monotonic() - began < 0.5
        assert patient.authorise(transaction_id, 500, key=f"hold {transaction_id}").status is AUTHORIZED


def test_calls_cut_short_never_hand_their_answer_to_another_call(sandbox: Sandbox) -> None:
    async def crowd(provider: PaymentProvider) -> None:
        async def one(transaction_id: str) -> None:
            try:
                answer = await provider.authorise(transaction_id, 500, "EUR", f"hold {transaction_id}")
            except ProviderUnavailable:
                return
            assert answer.transaction_id == transaction_id

        prefixes = ["pay_slow", "pay_quick"]
        for number in range(2):
            await asyncio.gather(*(one(f"{prefixes[i % 2]}_mixed_{number}_{i}") for i in range(60)))

    with sandbox.till(call_seconds=0.5) as till:
        till.run(crowd(till.provider))


# -- A crash of the provider


def test_every_answered_call_is_in_the_books_after_kill_9_of_the_provider(tmp_path: Path) -> None:
    books, told = tmp_path / "books.db", dict[str, Transaction]()
    for life in range(3):
        with Sandbox(books) as sandbox, sandbox.till() as till:
            till.run(buyers_until_the_provider_is_killed(sandbox, till.provider, f"pay_{life}", told))
    with Sandbox(books) as sandbox, sandbox.till() as till:
        assert len(told) > 300
        for transaction_id, answer in told.items():
            found = till.look_up(transaction_id)
            assert found is not None
            assert (found.amount_minor, found.status) >= (answer.amount_minor, answer.status)
            assert till.authorise(transaction_id, 500, key=f"hold {transaction_id}").status is AUTHORIZED
            assert till.capture(transaction_id, 500, f"take {transaction_id}").status is CAPTURED
        page = sandbox.http.get("/books", params={"limit": 10_000}).json()
    captured = sum(it["amountMinor"] for it in page["transactions"] if it["status"] == "CAPTURED")
    assert page["totals"]["EUR"]["capturedMinor"] == captured >= 500 * len(told)
    with sqlite3.connect(books) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    file.close()


async def buyers_until_the_provider_is_killed(
    sandbox: Sandbox, provider: PaymentProvider, prefix: str, told: dict[str, Transaction]
) -> None:
    async def buyer(number: int) -> None:
        for purchase in range(1000):
            this = f"{prefix}_{number}_{purchase}"
            try:
                told[this] = await provider.authorise(this, 500, "EUR", f"hold {this}")
                told[this] = await provider.capture(this, 500, f"take {this}")
            except ProviderUnavailable:
                return
            if len(told) >= enough:
                sandbox.process.kill()

    enough = len(told) + 101
    await asyncio.gather(*(buyer(number) for number in range(16)))


def test_a_client_finds_the_provider_again_after_it_was_restarted_at_the_same_address(tmp_path: Path) -> None:
    with Sandbox(tmp_path / "books.db") as first, first.till() as till:
        transaction_id = till.held(500)
        first.kill()
        with pytest.raises(ProviderUnavailable):
            till.look_up(transaction_id)
        with Sandbox(tmp_path / "books.db", "--port", first.url.rsplit(":", 1)[1]):
            assert till.capture(transaction_id, 500).status is CAPTURED


# -- The port


def test_the_sandbox_is_a_payment_provider_and_knows_its_name(till: Till) -> None:
    provider: PaymentProvider = SandboxProvider("http://127.0.0.1:1")
    assert provider.name == "sandbox"
