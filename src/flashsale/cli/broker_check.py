"""What `flashsale doctor` looks at where there is a broker. It changes nothing there."""

import socket
from typing import Any

from flashsale.cli.finding import Finding, ok, problem, warning
from flashsale.composition import ExtraMissing, kafka_facts
from flashsale.ports import BrokerUnavailable
from flashsale.settings import Settings

ANSWER_SECONDS = 2.0
SESSION_SLOW_MS = 2_000
COPIES_SAFE = 3
IN_SYNC_SAFE = 2
RETENTION_MS = 7 * 24 * 3600 * 1000


def broker(settings: Settings) -> list[Finding]:
    """Whether it answers, and whether its topics are such that nothing queued is lost."""
    if not settings.broker:
        return []
    try:
        found = kafka_facts(settings)
    except ExtraMissing as error:
        return [problem("broker", str(error), "install it, or leave FLASHSALE_BROKER out")]
    except BrokerUnavailable as error:
        remedy = "see that Kafka runs, is to be reached under the names that it tells, and lets this user in"
        return [problem("broker", str(error), remedy)]
    return [_reached(found, settings), _session(found.session_ms), *_topics(found, settings)]


def _reached(facts: Any, settings: Settings) -> Finding:
    """One address is enough: it knows the others. But while it is the only one, all hangs on it."""
    silent = [server for server in (settings.kafka_servers or "").split(",") if not _listens(server)]
    if silent:
        return warning("broker", f"nobody listens at {', '.join(silent)}", "start it, or take it out of the list")
    return ok("broker", f"{facts.brokers} to be reached")


def _listens(server: str) -> bool:
    host, _, port = server.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS):
            return True
    except OSError:
        return False


def _session(session_ms: int) -> Finding:
    if session_ms > SESSION_SLOW_MS:
        remedy = (
            f"set group.min.session.timeout.ms={SESSION_SLOW_MS} on the brokers, if queued requests shall go on sooner"
        )
        return warning("queue sessions", f"a killed consumer is waited for {session_ms / 1000:.0f} s", remedy)
    return ok("queue sessions", f"{session_ms / 1000:.0f} s")


def _topics(facts: Any, settings: Settings) -> list[Finding]:
    if facts.unfit:
        what, _, remedy = facts.unfit.partition(": ")
        return [problem("topics", what, remedy)]
    findings = [unsafe for topic in facts.partitions if (unsafe := _unsafe(topic, facts))]
    others = {
        topic: number
        for topic, number in facts.partitions.items()
        if ".requests" in topic and not topic.endswith(".dlq") and number != settings.partitions
    }
    if others:
        told = ", ".join(f"{topic} {number}" for topic, number in others.items())
        wanted = f"set FLASHSALE_PARTITIONS={min(others.values())}: the number of those that exist counts"
        findings.append(warning("topics", f"partitions: {told}; the setting says {settings.partitions}", wanted))
    missing = f", {len(facts.missing)} are made at the start" if facts.missing else ""
    return findings or [ok("topics", f"{len(facts.partitions)} are there{missing}")]


def _unsafe(topic: str, facts: Any) -> Finding | None:
    """How many copies there are, and how many of them must have a message before it is acknowledged."""
    said, copies = facts.settings.get(topic, {}), facts.copies[topic]
    in_sync = int(said.get("min.insync.replicas", 1))
    remedy = f"kafka-configs.sh --alter --entity-type topics --entity-name {topic} --add-config"
    if in_sync > copies:
        found = f"{topic} wants {in_sync} replicas in sync and has {copies}: it takes nothing in"
        return problem("topics", found, f"{remedy} min.insync.replicas={max(1, copies - 1)}")
    if copies >= COPIES_SAFE and in_sync < IN_SYNC_SAFE:
        found = f"{topic} acknowledges what one of {copies} brokers has"
        return warning("topics", found, f"{remedy} min.insync.replicas={IN_SYNC_SAFE}")
    if copies < min(COPIES_SAFE, facts.brokers):
        found = f"{topic} has {copies} of {min(COPIES_SAFE, facts.brokers)} possible copies"
        return warning(
            "topics", found, "add replicas with kafka-reassign-partitions.sh: what one broker has may be lost"
        )
    if ".requests" in topic and 0 <= int(said.get("retention.ms", RETENTION_MS)) < RETENTION_MS:
        found = f"{topic} keeps what waits for less than 7 days"
        return warning("topics", found, f"{remedy} retention.ms={RETENTION_MS}")
    return None
