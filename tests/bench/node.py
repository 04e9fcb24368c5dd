"""What a full node costs: 110 pods with 250 containers at a little work, by profile.

Prints the rows of a Markdown table. Each container opens a TCP connection, sends a line, starts
two programs and sleeps two seconds, again and again. The loader and the aggregator run as they are
deployed (snapshots every 10 s, a scrape every 15 s), but no collector is shed. CPU is their own,
from /proc; BPF programs run in the workload's time, and docs/performance.md has what an event costs
there.
"""

import gzip
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from tests.bench.pods import CONTAINERS, container_id, make_pod, uid
from tests.e2e.stack import Aggregator
from tests.e2e.test_pods import Cluster, serve
from tests.live import Cgroup, cgroup_tree, loader, wait_for

PODS, ALL = 110, 250
SECONDS, SCRAPE = 60, 15
HEAD = """\
| profile | series | scrape | gzipped | longest scrape | loader CPU | PSS / peak | segment | \
aggregator CPU | PSS / peak |
|---|---|---|---|---|---|---|---|---|---|"""
PROFILES = ("minimal", "standard", "comprehensive")
SERVER = """
import socket, threading
server = socket.create_server(("127.0.0.1", 0), backlog=500)
print(server.getsockname()[1], flush=True)
def answer(peer):
    with peer:
        while data := peer.recv(4096): peer.sendall(data)
while True:
    threading.Thread(target=answer, args=(server.accept()[0],), daemon=True).start()
"""
WORK = """
while :; do
    exec 3<>/dev/tcp/127.0.0.1/{port}; echo hello >&3; read -r line <&3; exec 3>&-
    /bin/true; sleep 2
done
"""


def cpu(pid: int) -> float:
    """Seconds of user and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def kilobytes(pid: int, file: str, key: str) -> int:
    for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise KeyError(key)


def scrape(served: Aggregator) -> tuple[bytes, float]:
    began = time.monotonic()
    with urllib.request.urlopen(f"{served.url}/metrics", timeout=60) as answer:
        body: bytes = answer.read()
    return body, time.monotonic() - began


def containers(top: Cgroup, stack: ExitStack) -> None:
    """250 of them, in 110 pods, at work."""
    server = subprocess.Popen(
        [sys.executable, "-S", "-c", SERVER], stdout=subprocess.PIPE, text=True
    )
    stack.callback(server.kill)
    assert server.stdout
    port = int(server.stdout.readline())
    burstable = top.child("kubepods").child("burstable")
    left = ALL
    for pod in range(PODS):
        parent = burstable.child(f"pod{uid(pod)}")
        for number in range(min(CONTAINERS, max(1, (left + PODS - pod - 1) // (PODS - pod)))):
            cgroup = parent.child(container_id(pod, number))
            subprocess.Popen(
                ["bash", "-c", WORK.format(port=port)],
                preexec_fn=cgroup.enter,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # at the end the server is gone first
            )
            left -= 1
    assert left == 0


def measure(profile: str, directory: Path) -> str:
    with ExitStack() as stack:
        cluster = Cluster()
        stack.callback(cluster.close)
        for pod in range(PODS):
            cluster.server.pods[uid(pod)] = make_pod(pod)
        top = stack.enter_context(cgroup_tree())
        containers(top, stack)
        options = ("--profile", profile, "--ring-max", "33554432", "--max-overhead", "100")
        running = stack.enter_context(loader(directory, *options, interval=10))
        served = serve(stack, directory, cluster)
        both = running.process.pid, served.pid
        wait_for("names", lambda: len(served.series("kpod_process_execs_total")) > ALL, 60)
        scrape(served)
        before = [cpu(pid) for pid in both]
        began = time.monotonic()
        took = []
        body = b""
        while time.monotonic() < began + SECONDS:
            time.sleep(SCRAPE)
            body, seconds = scrape(served)
            took.append(seconds)
        share = [
            100 * (cpu(pid) - spent) / (time.monotonic() - began)
            for pid, spent in zip(both, before, strict=True)
        ]
        series = sum(not line.startswith(b"#") for line in body.splitlines())
        pss = [kilobytes(pid, "smaps_rollup", "Pss") / 1024 for pid in both]
        peak = [kilobytes(pid, "status", "VmHWM") / 1024 for pid in both]
        ring = (directory / "segment").stat().st_size / 2**20
    return (
        f"| {profile} | {series:,} | {len(body) / 1e6:.1f} MB | "
        f"{len(gzip.compress(body, 6)) / 1e3:,.0f} kB | {max(took) * 1e3:.0f} ms | "
        f"{share[0]:.2f} % | {pss[0]:.0f} / {peak[0]:.0f} MB | {ring:.0f} MB | "
        f"{share[1]:.2f} % | {pss[1]:.0f} / {peak[1]:.0f} MB |"
    )


def main() -> None:
    print(
        "| profile | series | scrape | gzipped | longest scrape | loader CPU | PSS / peak |", end=""
    )
    print(" segment | aggregator CPU | PSS / peak |\n|---|---|---|---|---|---|---|---|---|---|")
    for profile in sys.argv[1:] or PROFILES:
        with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
            Path(made).chmod(0o755)
            print(measure(profile, Path(made)), flush=True)
    assert threading.active_count() < 10


if __name__ == "__main__":
    main()
