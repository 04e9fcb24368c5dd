"""CPU time of a pass over a thousand containers' statistics: by a walk of BPF, by files that stay
open, and as others read them, by open, read and close of each file; and what stays open for it.

The files are those that this machine's cgroup2 has: without controllers, cpu.stat and *.pressure.
"""

import os
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from statistics import median

from tests.bench.http import memory
from tests.live import GUEST, TEST_LOADER, Cgroup, Loader, cgroup_tree, loader

CONTAINERS = 300 if GUEST else 1000  # an emulated machine is slow
MANY = 1500 if GUEST else 5000
PASSES = 10 if GUEST else 30
ROUNDS = 3
COLLECTORS = "cgroup_cpu,cgroup_memory,cgroup_io,cgroup_pids,cgroup_pressure"
NAMES = (
    *("cpu.stat", "cpu.max", "cpu.weight", "cpu.pressure", "memory.pressure", "io.pressure"),
    *("memory.current", "memory.peak", "memory.max", "memory.swap.current", "memory.stat"),
    *("memory.events", "io.stat", "pids.current", "pids.max", "pids.events"),
)
WAYS = {
    "nothing": ("--collectors", "cgroup"),
    "walk": ("--collectors", COLLECTORS),
    "files": ("--collectors", COLLECTORS, "--inject-load-failure", ":walk"),
}
WANTED = 0.2 if GUEST else 0.1  # of the files' cost, where the kernel can walk
FLAT = 5.5  # times the cost at five times as many


def cost(running: Loader) -> float:
    """Seconds of CPU a snapshot."""
    first = last = running.fresh().loader
    while last["kpod_snapshots_total"] < first["kpod_snapshots_total"] + PASSES:
        last = running.fresh().loader
    spent = last["kpod_loader_cpu_seconds_total"] - first["kpod_loader_cpu_seconds_total"]
    return float(spent / (last["kpod_snapshots_total"] - first["kpod_snapshots_total"])) / 1e9


def one_by_one(cgroups: list[Cgroup]) -> float:
    """Seconds of CPU of the system calls that a reader makes which keeps nothing open."""
    files = [str(c.path / name) for c in cgroups for name in NAMES if (c.path / name).exists()]
    start = time.process_time()
    for file in files:
        with suppress(OSError):
            fd = os.open(file, os.O_RDONLY)
            os.read(fd, 16384)
            os.close(fd)
    return time.process_time() - start


def measure(directory: Path, way: str) -> tuple[float, int, int]:
    """Seconds of CPU, descriptors and resident kB."""
    options = ("--max-containers", "8192", *WAYS[way])
    with loader(directory, *options, interval=0.1, program=TEST_LOADER) as running:
        spent = cost(running)
        descriptors = len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))
        return spent, descriptors, memory(running.process.pid)["VmRSS"]


def rounds(directory: Path) -> dict[str, tuple[float, int, int]]:
    """Of each way the median, interleaved."""
    found = [{way: measure(directory, way) for way in WAYS} for _ in range(ROUNDS)]
    return {way: sorted(each[way] for each in found)[ROUNDS // 2] for way in WAYS}


def main() -> bool:
    """Prints the figures; true if they are as wanted."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, cgroup_tree() as top:
        enabled = {"cpu", "memory", "io", "pids"}
        enabled &= set((top.path / "cgroup.controllers").read_text().split())
        (top.path / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in enabled))
        names = (f"docker-{i:064x}.scope" for i in range(MANY))
        cgroups = [top.child(next(names)) for _ in range(CONTAINERS)]
        few = rounds(Path(directory))
        peers = median(one_by_one(cgroups) for _ in range(ROUNDS))
        cgroups += [top.child(name) for name in names]
        many = {way: measure(Path(directory), way)[0] for way in ("nothing", "walk")}
    nothing = few["nothing"][0]
    files, walk = (few[way][0] - nothing for way in ("files", "walk"))
    growth = (many["walk"] - many["nothing"]) / walk
    print(f"statistics of {CONTAINERS} containers' cgroups, ms of CPU a pass, median of {ROUNDS}:")
    print(f"  open, read, close   {1e3 * peers:9.2f}   (as others do, without the parsing)")
    print(f"  files that stay open{1e3 * files:9.2f}")
    print(f"  walk                {1e3 * walk:9.2f}   ratio {walk / files:.3f} (at most {WANTED})")
    print(
        f"  walk, {MANY} of them  {1e3 * walk * growth:9.2f}   {growth:.1f} times (at most {FLAT})"
    )
    for way in ("files", "walk"):
        print(f"  descriptors, RSS    {few[way][1]:9} {few[way][2]:9} kB   ({way})")
    return walk <= WANTED * files and growth <= FLAT


if __name__ == "__main__":
    sys.exit(not main())
