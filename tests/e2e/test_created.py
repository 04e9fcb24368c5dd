"""Since when totals count: receivers of OTLP and of created timestamps make rates of it."""

import os
import time
from pathlib import Path

from tests.e2e.stack import Aggregator, aggregator
from tests.live import HOG, IDLER, PRELUDE, Cgroup, Worker, loader

COLLECTORS = ("--collectors", "cgroup,cpu,cgroup_cpu,cgroup_pressure,interface")
USAGE = "kpod_cgroup_cpu_usage_seconds"
ONCPU = "kpod_cpu_oncpu_seconds"
RECEIVED = "kpod_interface_receive_bytes"


def samples(served: Aggregator, unit: str) -> dict[str, float]:
    """By name and labels other than who it is; OpenMetrics, as that has _created in text."""
    _, page = served.get("/metrics", Accept="application/openmetrics-text")
    found = {}
    for line in page.splitlines():
        if f'unit="{unit}"' in line:
            series, value = line.rsplit(" ", 1)
            name, labels = series.split("{", 1)
            kind = [x for x in labels.rstrip("}").split(",") if x.split("=")[0] in KEYS]
            found[",".join([name, *kind])] = float(value)
    return found


KEYS = ("resource", "kind", "interface")
# In a network namespace of its own with one interface.
LINK = (
    PRELUDE
    + """
import ctypes, subprocess
assert not ctypes.CDLL(None).unshare(0x40000000)
subprocess.run("ip link add kpod0 type veth peer name kpod1".split(), check=True)
gate()
"""
)
STALL = "kpod_pressure_stall_seconds"


def test_a_restart_of_the_loader_moves_no_start(tmpfs: Path, cgroups: Cgroup) -> None:
    """What the kernel counts is since the cgroup is there: neither value nor start changes.

    What programs count is since they run: the start of that is later, and the total smaller.
    """
    made = time.time()
    a = cgroups.child("a.service")
    os.setxattr(a.path, "trusted.kpod", b"as systemd does")
    hogs = [Worker(a, HOG.format(seconds=0.5)) for _ in range(2)]
    for hog in hogs:
        hog.go()
    for hog in hogs:
        hog.stopped()
        hog.end()
    inside = Worker(a, LINK)  # whose network the cgroup's is, as its oldest process
    inside.go()
    inside.stopped()
    ready = time.time()
    looks = []
    for _ in range(2):
        with loader(tmpfs, *COLLECTORS) as running:
            before = time.time()
            Worker(a, IDLER).end()
            running.fresh()
            with aggregator(tmpfs, "--created", "all") as served:
                looks.append((before, samples(served, "a.service")))
        # It has an attribute, so its directory's mtime is that of what came or went in it last.
        (a.path / "inner").mkdir()
        (a.path / "inner").rmdir()
    (_, first), (again, second) = looks
    for look in (first, second):
        assert made - 5 <= look[f"{USAGE}_created"] <= ready - 0.5
        assert look[f"{USAGE}_total"] >= 1
    starts = {name: value for name, value in first.items() if "_created" in name}
    moved = {name for name, value in starts.items() if second.get(name) != value}
    assert moved
    still = ("kpod_cgroup_", "kpod_pressure_", "kpod_interface_")
    assert not [name for name in moved if name.startswith(still)]
    assert second[f"{ONCPU}_created"] > starts[f"{ONCPU}_created"]
    assert again - 5 < second[f"{ONCPU}_created"] < time.time()
    assert any(name.startswith(f"{RECEIVED}_created") for name in starts)
    assert any(name.startswith(f"{STALL}_created") for name in starts)
    assert second[f"{USAGE}_total"] >= first[f"{USAGE}_total"]
