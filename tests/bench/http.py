"""The aggregator as a server, 100,000 samples: time of a scrape, memory, and who has to wait.

The other server is prometheus-client's own, with the same samples ready.
"""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

from prometheus_client import start_http_server

from tests.bench.render import make_segment, registry_of, timed

SAMPLES = 100_000
ROUNDS = 20
CLIENT_ROUNDS = 3
STALLED = 20
CLIENTS = 8
PROBES = 300

Address = tuple[str, int]


@contextmanager
def aggregator(path: Path) -> Iterator[tuple[Address, int]]:
    """Yields its address and pid."""
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "aggregator",
            "--segment",
            str(path),
            "--listen",
            "127.0.0.1:0",
            "--max-page",
            "100",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        while "http://" not in (line := process.stderr.readline()):
            if not line:
                raise RuntimeError("the aggregator did not start")
        yield ("127.0.0.1", int(line.split(":")[-1].split("/")[0])), process.pid
    finally:
        process.terminate()
        process.communicate()


@contextmanager
def forked(work: Callable[[], object]) -> Iterator[None]:
    """Something that runs beside us, without our interpreter lock."""
    pid = os.fork()
    if not pid:
        try:
            work()
        finally:
            os._exit(1)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@contextmanager
def prometheus_client(text: str) -> Iterator[Address]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    registry = registry_of(text)

    def serve() -> None:
        start_http_server(port, "127.0.0.1", registry)
        signal.pause()

    with forked(serve):
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        yield "127.0.0.1", port


def scrape(address: Address) -> bytes:
    connection = http.client.HTTPConnection(*address)
    connection.request("GET", "/metrics")
    body = connection.getresponse().read()
    connection.close()
    return body


def memory(pid: int) -> dict[str, int]:
    """VmRSS and VmHWM in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        line.split(":")[0]: int(line.split()[1])
        for line in status.splitlines()
        if line.startswith(("VmRSS", "VmHWM"))
    }


def measure_scrape(address: Address, text: str) -> bool:
    ours = [timed(lambda: scrape(address)) for _ in range(ROUNDS)]
    with prometheus_client(text) as other:
        theirs = [timed(lambda: scrape(other)) for _ in range(CLIENT_ROUNDS)]
    ratio = median(theirs) / median(ours)
    print(
        f"scrape over loopback, ms: kpod-metrics {median(ours) / 1e6:.1f}, prometheus-client "
        f"{median(theirs) / 1e6:.1f}, ratio {ratio:.0f} (wanted: at least 25)"
    )
    return ratio >= 25


def measure_stalled(address: Address, pid: int, path: Path) -> bool:
    """Scrapers that do not read, with and without gzip, over three snapshots.

    With snapshots 10 s apart they do not live to see a fourth: aggregator.http.protocol.DEADLINE.
    """
    before = memory(pid)["VmRSS"]
    clients = []
    for number in range(STALLED):
        if number and number % (STALLED // 3 + 1) == 0:
            # The same again in another file is a new snapshot.
            shutil.copy2(path, path.with_suffix(".new"))
            path.with_suffix(".new").rename(path)
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address)
        gzip = b"Accept-Encoding: gzip\r\n" if number % 2 else b""
        client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\n" + gzip + b"\r\n")
        clients.append(client)
        time.sleep(0.2)
    growth = (memory(pid)["VmRSS"] - before) / STALLED
    for client in clients:
        client.close()
    print(f"{STALLED} stalled scrapers, kB of RSS for each: {growth:.0f} (wanted: at most 1024)")
    return growth <= 1024


def measure_waiting(address: Address) -> bool:
    def scrapers() -> None:
        def run() -> None:
            buffer = bytearray(1 << 20)
            while True:
                with socket.create_connection(address) as client:
                    client.send(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    while client.recv_into(buffer):
                        pass

        for _ in range(CLIENTS):
            threading.Thread(target=run).start()
        signal.pause()

    connection = http.client.HTTPConnection(*address)
    took = []

    def probe() -> None:
        connection.request("GET", "/healthz")
        assert connection.getresponse().read() == b"ok\n"

    with forked(scrapers):
        time.sleep(1)
        for _ in range(PROBES):
            took.append(timed(probe) / 1e6)
            time.sleep(0.01)
    print(
        f"/healthz while {CLIENTS} clients scrape, ms: median {median(took):.1f}, worst "
        f"{max(took):.1f} (wanted: at most 50)"
    )
    return max(took) <= 50


def main() -> bool:
    """Prints the figures; true if they are as wanted."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory) / "segment"
        make_segment(path, SAMPLES)
        with aggregator(path) as (address, pid):
            text = ""
            for _ in range(10):
                text = scrape(address).decode()
            rss = memory(pid)
            print(f"aggregator, {SAMPLES} samples, after 10 scrapes: {rss} kB (wanted: 45 MB)")
            good = [
                rss["VmHWM"] <= 45 * 1024,
                measure_scrape(address, text),
                measure_stalled(address, pid, path),
                measure_waiting(address),
            ]
    return all(good)


if __name__ == "__main__":
    sys.exit(not main())
