"""Resident memory of the loader, and its CPU time per snapshot."""

import sys
import tempfile
from pathlib import Path

from tests.bench.http import memory
from tests.live import IDLER, Worker, cgroup_tree, loader

CONTAINERS = 100
SNAPSHOTS = 100


def main() -> bool:
    """Prints the figures; true if they are as wanted."""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as directory,
        cgroup_tree() as top,
        loader(Path(directory), interval=0.05) as running,
    ):
        workers = [Worker(top.child(f"{i}.service"), IDLER) for i in range(CONTAINERS)]
        first = last = running.fresh().loader
        while last["kpod_snapshots_total"] < first["kpod_snapshots_total"] + SNAPSHOTS:
            last = running.fresh().loader
        rss = memory(running.process.pid)
        for worker in workers:
            worker.end()
    took = last["kpod_loader_cpu_seconds_total"] - first["kpod_loader_cpu_seconds_total"]
    snapshots = last["kpod_snapshots_total"] - first["kpod_snapshots_total"]
    print(f"loader, {CONTAINERS} containers, after {snapshots} snapshots:")
    print(f"  CPU per snapshot  {took / snapshots / 1e3:9.0f} us")
    print(f"  RSS               {rss['VmRSS']:9} kB   (wanted: at most 8192)")
    return rss["VmRSS"] <= 8 << 10


if __name__ == "__main__":
    sys.exit(not main())
