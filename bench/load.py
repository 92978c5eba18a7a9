"""The two load generators: wrk for the maximum, bench/openloop for the latency at a given rate."""

import json
import os
import re
import secrets
import subprocess
from dataclasses import dataclass

from machine import BENCH, CACHE, tool

CONNECTIONS = 256
THREADS = 2  # of wrk: nginx reaches its highest figure so


@dataclass(frozen=True)
class Counted:
    """What wrk was told: refused are the answers other than 2xx and 3xx, broken the socket errors."""

    requests: int
    seconds: float
    refused: int
    broken: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def wrk(port: int, script: str, sku: str, seconds: int) -> Counted:
    command = [tool("wrk"), f"-t{THREADS}", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", "10s"]
    command += ["-s", str(BENCH / script), f"http://127.0.0.1:{port}"]
    variables = os.environ | {"BENCH_SEED": secrets.token_hex(4), "BENCH_SKU": sku}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=seconds + 60)
    found = re.search(r"^result requests=(\d+) us=(\d+) refused=(\d+) broken=(\d+)$", done.stdout, re.MULTILINE)
    if found is None:
        raise SystemExit(f"bench: wrk failed: {done.stdout}{done.stderr}")
    requests, microseconds, refused, broken = map(int, found.groups())
    return Counted(requests, microseconds / 1e6, refused, broken)


@dataclass(frozen=True)
class Timed:
    """What the open loop saw, in milliseconds from the moment each request was due."""

    rate: float
    p50: float
    p99: float
    p999: float
    statuses: dict[str, int]
    broken: int
    lost: int


def openloop(port: int, sku: str, rate: float, seconds: int) -> Timed:
    command = generator(port, sku, f"-rate={rate:.0f}", f"-duration={seconds}s")
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode != 0:
        raise SystemExit(f"bench: openloop failed: {done.stderr}")
    said = json.loads(done.stdout)
    return Timed(rate, said["p50Ms"], said["p99Ms"], said["p999Ms"], said["statuses"], said["broken"], said["lost"])


def generator(port: int, sku: str, *options: str) -> list[str]:
    return [
        str(CACHE / "openloop"),
        f"-address=127.0.0.1:{port}",
        f"-sku={sku}",
        f"-seed={secrets.randbits(31)}",
        f"-connections={CONNECTIONS}",
        *options,
    ]
