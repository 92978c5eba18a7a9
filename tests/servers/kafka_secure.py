"""A Kafka that is spoken to with TLS and a password. Its certificate is its own, made here with Java's keytool."""

import subprocess
from pathlib import Path

from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from servers.kafka import KafkaServer

from flashsale.rehearsal.servers import free_port

USER, PASSWORD = "flashsale", "p@ss:wörd/1"
STORE_PASSWORD = "changeit"
LISTENERS = """
listeners=PLAINTEXT://127.0.0.1:{{port}},SECURE://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{{controller}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}},SECURE://127.0.0.1:{secure}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
ssl.keystore.type=PKCS12
ssl.keystore.location={store}
ssl.keystore.password={password}
listener.name.secure.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"""


class SecureKafka:
    """`servers` is the listener with TLS; `ca` is the certificate to believe."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.servers = f"127.0.0.1:{port}"
        self.ca = folder / "ca.pem"
        store = folder / "store.p12"
        _keytool(store, "-genkeypair", "-keyalg", "RSA", "-dname", "CN=kafka", "-ext", "SAN=IP:127.0.0.1")
        _keytool(store, "-exportcert", "-rfc", "-file", str(self.ca))
        self._server = KafkaServer(LISTENERS.format(secure=port, store=store, password=STORE_PASSWORD))

    def start(self) -> None:
        self._server.start()
        admin = AdminClient({"bootstrap.servers": self._server.servers, "log_level": 0})
        credential = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        user = UserScramCredentialUpsertion(USER, credential, PASSWORD.encode())
        for made in admin.alter_user_scram_credentials([user]).values():
            made.result(timeout=10)

    def stop(self) -> None:
        self._server.stop()


def _keytool(store: Path, *command: str) -> None:
    common = ["-alias", "kafka", "-keystore", str(store), "-storetype", "PKCS12", "-storepass", STORE_PASSWORD]
    subprocess.run(["keytool", *command, *common], check=True, capture_output=True)
