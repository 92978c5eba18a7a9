"""Every log event by name, and where the log goes: JSON lines on standard error, readable text on a terminal.

structlog feeds the standard library's logging, so that what uvicorn and other libraries have to say comes
out in the same form. A program that uses the engine as a library sets its own logging up and leaves
`configure` alone. Nothing here may show a secret: values are masked by the name of their field.
"""

import logging
import re
import sys
from typing import NamedTuple, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

EVENTS = {
    "request failed": "a mistake of ours in answering a request, with its traceback; the client was told 500",
    "a batch failed and is tried in halves": "a mistake of ours in a transaction; only the item at fault will fail",
    "a read failed": "a mistake of ours in reading the ledger, with its traceback",
    "payment step failed": "a mistake, or a refund that its provider refuses: it stays owed, and is tried every minute",
    "the observer could not be told": "a mistake of ours behind a commit: it holds, the shop window may be stale",
    "a question failed": "one read could not be answered; its asker was told 503",
    "an answer could not be delivered": "a mistake of ours behind a commit: it holds, but its asker was not told",
    "the sandbox provider died and is started again": "its books are on the disk; payment steps under way are repeated",
    "the sandbox provider could not be started": "`why` says what it said; tried again until it comes up",
    "the ledger's file is in use or memory is short": "a batch was answered with 503; another program locks the file",
    "disk full: nothing was changed": "the ledger could not grow; requests are answered with 503 until there is room",
    "clock": "the wall clock and the ledger's clock have drifted apart; `alarm` says by how much",
    "a loop failed and goes on at its next tick": "an error in a background loop, with its traceback",
    "payment step put off": "the payment provider gave no answer; the step is repeated until it does",
    "serving": "the ledger is open, and the server begins to listen at `url`",
    "working": "a process without buyers runs `loops`; `health` says where it tells how it is",
    "stopped": "a server has answered what was in flight, or a worker has given its leases back; the ledger is closed",
    "everybody is trusted": "identity `open` or the sandbox provider is served on an address that is not loopback",
    "the ledger cannot be reached": "PostgreSQL did not answer; requests get 503 until it does, nothing is lost",
    "a shard is away": "one database of several; what is in it gets 503, the others go on; `alarm` says why",
    "a shard is back": "everything that is in it can be bought, paid and shown again",
    "a commit's answer was lost": "the connection broke during a commit; `committed` says what became of it",
    "the ledger's rows are locked by somebody else": "a lock was waited for too long; the batch was answered with 503",
    "sessions that were stopped in the middle of a batch were ended": "a process was frozen; its products sell on",
    "events were pruned": "`rows` that were old, or too many, were forgotten; what they came to is kept",
    "movements that do not add up are kept": "the journal of a product is wrong: nothing of it is pruned; reconcile it",
    "the broker is away": "events wait in the ledger, sales go on; said once, until it is back",
    "the broker is back": "everything that waited is being published; `failures` says how often it was tried",
    "a draw is over": "a sale's entrants have their places; its `root` was told before the seed that drew them",
    "the queue could not be read and is asked again": "a mistake of ours, or a broker's client that does not start",
    "a batch of the queue failed and is worked on again": "a mistake of ours: its slice waits, nothing of it is lost",
    "a queued request is a dead letter": "it could not be decided: its buyer is told REJECTED; redrive it",
    "permits are not given back: the gate is away, they lapse": "winners stand, others wait a little for their permits",
    "slices of the queue were lost": "this consumer was silent for too long; others decide what it had not finished",
    "the gate is away": "Redis did not answer; sales go on without it (docs/gate.md). Said once, until it is back",
    "the gate is back": "a probe of Redis succeeded; `failures` says how many calls and probes had failed",
    "counted in this process: the gate is away": "what risk counts (`what`) is not shared until it is back",
    "risk decisions wait for the ledger": "they are written when it is back; beyond 10,000 the oldest are dropped",
    "a probe of the gate failed": "a mistake of ours in a probe, with its traceback; probes go on",
    "workers serve": "all workers of `serve --workers` answer requests",
    "workers are replaced": "SIGHUP: each worker gets a successor and leaves",
    "workers were replaced": "all workers are new",
    "workers were not replaced: the old ones stay": "a new worker did not come to serve, see its messages before",
    "a worker does not come to serve": "it ended or took too long; tried again, less and less often",
    "a worker died and is started again": "`code` is its exit code; nothing that it acknowledged is lost",
    "a worker did not leave and is killed": "it had `drain_seconds` to answer what was in flight",
    "the keys of tokens cannot be read": "a key set is away or is none; the keys that were read before go on counting",
    "the store is broken": "the ledger's file failed; the process ends at once, a restart recovers",
}
"""What flashsale itself logs, each with its meaning. A test holds the code to this list."""


class Told(NamedTuple):
    """A metric: what Prometheus takes it for, by what it is told apart, what it means."""

    kind: str
    labels: tuple[str, ...]
    meaning: str


METRICS = {
    "flashsale_requests_total": Told("counter", ("route", "status", "worker"), "Answers, by class of route and status"),
    "flashsale_refusals_total": Told("counter", ("code", "worker"), "Refusals, by their code"),
    "flashsale_reserve_seconds": Told("histogram", ("worker",), "From a whole request for units to its answer"),
    "flashsale_ledger_queue": Told("gauge", ("worker",), "Requests that wait for the ledger's writer"),
    "flashsale_lease_held": Told("gauge", ("lease", "worker"), "1 where a process does what only one does"),
    "flashsale_clock_drift_seconds": Told("gauge", ("worker",), "How far the clock that the ledger's follows was away"),
    "flashsale_clock_alarm": Told("gauge", ("worker",), "1 while the clock is further away than the ledger's follows"),
    "flashsale_build_info": Told("gauge", ("version", "worker"), "1, with the version that runs"),
    "flashsale_part_state": Told("gauge", ("part", "state"), "1 for the state of a part: up, degraded or down"),
    "flashsale_outbox_rows": Told("gauge", (), "Events that the broker has not got yet, 100000 at most"),
    "flashsale_outbox_oldest_seconds": Told("gauge", (), "How long the oldest of them has waited"),
    "flashsale_outbox_alarm": Told("gauge", (), "1 while that is more than 30 seconds"),
    "flashsale_queued_requests": Told("gauge", (), "Requests that wait in the ledger's own queue, of all queued sales"),
    "flashsale_dead_letters": Told("gauge", (), "Dead letters that nobody has redriven"),
    "flashsale_waits_total": Told(
        "counter", ("near", "worker"), "People let in, by whether their wait was within half of what they had been told"
    ),
    "flashsale_people_waiting": Told("gauge", ("sale",), "Places of a waiting room whose turn has not come"),
    "flashsale_units": Told("gauge", ("sale", "sku", "state"), "Units of a product: available, held, sold"),
}
"""Every metric by its name. A test holds docs/metrics.md and what is scraped to this list."""

SECRET = re.compile(r"token|secret|password|passwd|authorization|cookie|api_?key", re.IGNORECASE)
PASSWORD_IN_URL = re.compile(r"(://[^/\s:@]*:)[^/\s@]+@")
MASK = "********"


def configure(stream: TextIO | None = None) -> None:
    """Sets the process's logging up. May be called again; the last call holds."""
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(readable=stream.isatty()))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for talkative in ("httpx", "httpcore", "asyncio", "uvicorn.error"):
        logging.getLogger(talkative).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_shared(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        mask_secrets,
    ]


def _formatter(readable: bool) -> logging.Formatter:
    render: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if readable:  # plain tracebacks: the pretty ones show local variables, and with them secrets
        render.append(structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback))
    else:
        render += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return structlog.stdlib.ProcessorFormatter(processors=render, foreign_pre_chain=_shared())


def mask_secrets(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Hides the values of fields that are named like secrets, and passwords inside addresses."""
    for name, value in event.items():
        if SECRET.search(name):
            event[name] = MASK
        elif isinstance(value, str) and "://" in value:
            event[name] = PASSWORD_IN_URL.sub(rf"\1{MASK}@", value)
    return event
