"""Half an hour of churn, then: does anything grow? `python -m tests.soak [MINUTES]`."""

import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean, linear_regression

from tests.e2e.stack import Aggregator, aggregator
from tests.live import Cgroup, Loader, cgroup_tree, loader

# Containers that each start processes and talk over loopback, in a network namespace of ours.
CHURN = """
import os, socket, threading
listener = socket.create_server(("127.0.0.1", 0))
def serve():
    peer, _ = listener.accept()
    while data := peer.recv(65536): peer.sendall(data)
thread = threading.Thread(target=serve)
thread.start()
with socket.create_connection(listener.getsockname()) as client:
    for _ in range(20):
        client.sendall(b"x" * 5000)
        client.recv(65536)
thread.join()
for _ in range(5):
    pid = os.fork()
    if not pid: os._exit(0)
    os.waitpid(pid, 0)
"""
WARM_UP = 0.2  # of the time: caches fill, windows are mapped
PARTS = 20  # of each half
STUDENT = 2.88  # two-sided 99 %, 18 degrees of freedom


@dataclass
class Track:
    """Something that is to stay flat."""

    name: str
    read: Callable[[], float]
    points: list[tuple[float, float]] = field(default_factory=list)

    def grows(self) -> bool:
        """In both halves, by more than chance: a step, as of a cache, is no leak."""
        middle = len(self.points) // 2
        halves = self.points[:middle], self.points[middle:]
        return all(slope > error for slope, error in map(trend, halves))


def trend(points: list[tuple[float, float]]) -> tuple[float, float]:
    """The slope a minute, and half of its confidence interval, by least squares.

    Neighbours in time are alike, so they are averaged before.
    """
    size = max(len(points) // PARTS, 1)
    parts = [points[i : i + size] for i in range(0, len(points) - size + 1, size)]
    xs = [fmean(x for x, _ in part) for part in parts]
    ys = [fmean(y for _, y in part) for part in parts]
    slope, start = linear_regression(xs, ys)
    rest = sum((y - start - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    spread = sum((x - fmean(xs)) ** 2 for x in xs)
    return 60 * slope, 60 * STUDENT * math.sqrt(rest / (len(xs) - 2) / spread)


def resident(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGESIZE"))


def descriptors(pid: int) -> float:
    return float(len(os.listdir(f"/proc/{pid}/fd")))


def map_memory(pid: int) -> float:
    total = 0
    for fd in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            lines = dict(line.split(":\t", 1) for line in fd.read_text().splitlines())
        except (OSError, ValueError):
            continue  # closed meanwhile
        if "map_type" in lines:
            total += int(lines["memlock"])
    return float(total)


def churn(cgroups: Cgroup, number: int) -> None:
    """One container's life."""
    cgroup = cgroups.child(f"{number}.service")
    script = f"ip link set lo up 2>/dev/null; exec {sys.executable} -S -c '{CHURN}'"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script], preexec_fn=cgroup.enter, check=False
    )
    assert done.returncode == 0
    cgroup.remove()


def soak(running: Loader, served: Aggregator, cgroups: Cgroup, minutes: float) -> list[str]:
    """What is wrong afterwards."""
    pids = {"loader": running.process.pid, "aggregator": served.pid}
    tracks = [
        Track(f"{name}, {what}", partial(read, pid))
        for name, pid in pids.items()
        for what, read in (("resident bytes", resident), ("descriptors", descriptors))
    ]
    tracks.append(Track("loader, map bytes", partial(map_memory, running.process.pid)))
    start = time.monotonic()
    wrong: list[str] = []
    scrapes = 0
    number = 0
    while (now := time.monotonic() - start) < 60 * minutes:
        churn(cgroups, number)
        number += 1
        scrapes += 1
        if list(served.series("kpod_loader_up").values()) != [1]:
            wrong.append(f"after {now:.0f} s: the loader was not up")
        if now > WARM_UP * 60 * minutes:
            for track in tracks:
                track.points.append((now, track.read()))
    loader_row = running.fresh().loader
    for name, value in loader_row.items():
        failed = ("failures", "unmapped", "exhausted", "evicted", "full", "truncated")
        if any(word in name for word in failed) and value:
            wrong.append(f"{name} is {value}")
    print(f"{number} containers, {scrapes} scrapes, {minutes:g} minutes")
    for track in tracks:
        slope, error = trend(track.points)
        print(f"{track.name}: {track.points[-1][1]:.0f}, {slope:+.2f} ± {error:.2f} a minute")
        if track.grows():
            wrong.append(f"{track.name}: growing")
    return wrong


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 30
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="kpod-soak-") as directory:
        Path(directory).chmod(0o755)
        with (
            cgroup_tree() as cgroups,
            loader(Path(directory), "--tombstone", "5", interval=1) as running,
            aggregator(Path(directory)) as served,
        ):
            wrong = soak(running, served, cgroups, minutes)
    print("\n".join(wrong) or "flat")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
