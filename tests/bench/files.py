"""CPU time of one pass over the files of a thousand containers, and what stays open for it.

The files are those that this machine's cgroup2 has: without controllers, cpu.stat and *.pressure.
"""

import sys
import tempfile
from pathlib import Path

from tests.bench.http import memory
from tests.live import Loader, cgroup_tree, loader

CONTAINERS = 1000
PASSES = 100
FILES = "cgroup_cpu,cgroup_memory,cgroup_io,cgroup_pids,cgroup_pressure"
WANTED_MS = 25


def cost(running: Loader) -> float:
    """Seconds of CPU a snapshot."""
    first = last = running.fresh().loader
    while last["kpod_snapshots_total"] < first["kpod_snapshots_total"] + PASSES:
        last = running.fresh().loader
    spent = last["kpod_loader_cpu_seconds_total"] - first["kpod_loader_cpu_seconds_total"]
    return float(spent / (last["kpod_snapshots_total"] - first["kpod_snapshots_total"])) / 1e9


def main() -> bool:
    """Prints the figures; true if they are as wanted."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory, cgroup_tree() as top:
        for i in range(CONTAINERS):
            top.child(f"docker-{i:064x}.scope")
        costs = {}
        for collectors in ("cgroup", FILES, f"{FILES},interface,filesystem"):
            with loader(Path(directory), "--collectors", collectors, interval=0.1) as running:
                costs[collectors] = cost(running)
                files = len(list(Path(f"/proc/{running.process.pid}/fd").iterdir()))
                rss = memory(running.process.pid)["VmRSS"]
    slots, cgroups, everything = costs.values()
    wanted = f"(wanted: at most {WANTED_MS})"
    print(f"files of {CONTAINERS} containers, one pass, the mean of {PASSES}:")
    print(f"  cgroup files               {1e3 * (cgroups - slots):9.2f} ms CPU   {wanted}")
    print(f"  and a walk over processes  {1e3 * (everything - cgroups):9.2f} ms CPU")
    print(f"  descriptors, RSS           {files:9} {rss:9} kB")
    return cgroups - slots <= WANTED_MS / 1e3


if __name__ == "__main__":
    sys.exit(not main())
