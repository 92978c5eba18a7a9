"""A real Apache Kafka for the tests: named by FLASHSALE_TEST_KAFKA (`HOST:PORT`), else started by us.

The broker's jars come from Maven Central, once, into the user's cache, and are held to their checksums at every run.
It is broker and controller in one process (KRaft), on loopback, in a folder of its own below the temporary one, and
ends with the test run. Where Java or Maven is missing the contract is asked of librdkafka's own mock cluster instead,
and pytest's closing summary says so.
"""

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from base64 import urlsafe_b64encode
from functools import cache
from hashlib import sha256
from pathlib import Path

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from servers.process import free_ports, stop_at_end

PARTS = Path(__file__).parent / "kafka_jars"
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
FETCHING_SECONDS = 300
STARTING_SECONDS = 60
PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/data
num.partitions=3
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
"""

notes: list[str] = []
"""What pytest's closing summary says."""


class KafkaServer:
    """A broker of our own that can be killed and started again. Raises RuntimeError without Java and Maven."""

    def __init__(self, more: str = "") -> None:
        """`more`: settings that come after `PROPERTIES`, and win; with the same places for ports."""
        self._jars = jars()
        self.folder = Path(tempfile.mkdtemp(prefix="flashsale-kafka-"))
        port, controller = free_ports(2)
        self.servers = f"127.0.0.1:{port}"
        self._settings = self.folder / "server.properties"
        self._settings.write_text((PROPERTIES + more).format(port=port, controller=controller, folder=self.folder))
        self._process: subprocess.Popen[bytes] | None = None
        cluster = urlsafe_b64encode(secrets.token_bytes(15) + b"k").decode().rstrip("=").replace("-", "A")
        self._run("kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(self._settings))

    def start(self) -> None:
        command = self._java("kafka.Kafka", str(self._settings))
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        until = time.monotonic() + STARTING_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            if _answers(self.servers):
                return
        ended = self._process.poll()
        how = f"does not answer after {STARTING_SECONDS} s" if ended is None else f"ended with code {ended}"
        raise RuntimeError(f"Kafka {how}:\n{self._last_words()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        """As if the machine had lost it."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """It is there, and does not answer."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()  # nobody will miss what is in it
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, *command: str) -> None:
        ran = subprocess.run(self._java(*command), capture_output=True, cwd=self.folder, text=True)
        if ran.returncode:
            raise RuntimeError(f"Kafka's storage could not be formatted:\n{ran.stdout}{ran.stderr}")

    def _java(self, *command: str) -> list[str]:
        return ["java", "-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-cp", f"{self._jars}/*", *command]

    def _last_words(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]


class MockCluster:
    """What stands in for a broker where Java is missing: librdkafka's own, inside this process."""

    def __init__(self) -> None:
        self._keeper = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 0})
        self.servers = ",".join(f"{each.host}:{each.port}" for each in self._keeper.list_topics().brokers.values())


@cache
def kafka_servers() -> str:
    """The servers of the run's one broker."""
    given = os.environ.get("FLASHSALE_TEST_KAFKA")
    if given:
        return given
    if missing := _missing():
        notes.append(
            f"{missing} is missing: the broker's contract was asked of librdkafka's mock cluster, not of Kafka"
        )
        return _mock().servers
    server = KafkaServer()
    stop_at_end(server.stop)
    server.start()
    return server.servers


@cache
def real_kafka() -> str:
    """As `kafka_servers`, but never the mock cluster, which knows nothing of making topics. Raises RuntimeError."""
    if not os.environ.get("FLASHSALE_TEST_KAFKA"):
        jars()
    return kafka_servers()


@cache
def _mock() -> MockCluster:
    return MockCluster()


def jars() -> Path:
    """The folder with the broker's jars, each as `jars.sha256` has it."""
    if missing := _missing():
        raise RuntimeError(f"no Kafka: {missing} is missing; it needs Java 17 and Maven")
    wanted = dict(reversed(line.split()) for line in (PARTS / "jars.sha256").read_text().splitlines())
    place = _cache() / sha256((PARTS / "jars.sha256").read_bytes()).hexdigest()[:16]
    if not place.exists():
        _fetch(place)
    found = {each.name: sha256(each.read_bytes()).hexdigest() for each in place.glob("*.jar")}
    if found != wanted:
        different = sorted(name for name, _ in found.items() ^ wanted.items())
        raise RuntimeError(f"these jars in {place} are not what they must be: {different}")
    return place


def _fetch(place: Path) -> None:
    """Whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=place.parent))
    shutil.copy(PARTS / "pom.xml", fresh)
    command = ["mvn", "-q", "-B", "-f", str(fresh / "pom.xml"), COPY, f"-DoutputDirectory={fresh}"]
    subprocess.run([*command, "-DincludeScope=runtime"], check=True, capture_output=True, timeout=FETCHING_SECONDS)
    fresh.rename(place)


def _missing() -> str:
    return next((program for program in ("java", "mvn") if shutil.which(program) is None), "")


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flashsale-kafka"


def _answers(servers: str) -> bool:
    """Whether the broker is there and lets topics be seen; waits a while for it."""
    client = AdminClient({"bootstrap.servers": servers, "log_level": 0, "reconnect.backoff.max.ms": 100})
    try:
        return bool(client.list_topics(timeout=1).brokers)
    except KafkaException:
        return False
