"""Softirqs and interrupts, against /proc/softirqs and /proc/interrupts."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live import (
    HOG,
    IDLER,
    PRELUDE,
    Cgroup,
    Dump,
    Loader,
    Worker,
    hides_process_1,
    loader,
    softirqs,
)

SOFTIRQ = "kpod_softirq_duration_seconds"
HARDIRQ = "kpod_hardirq_duration_seconds"
STOLEN = {
    "softirqs": "kpod_softirq_stolen_seconds_total",
    "hardirqs": "kpod_hardirq_stolen_seconds_total",
}
CPUS = os.cpu_count() or 1

# Each datagram to loopback raises net_rx.
DATAGRAMS = (
    PRELUDE
    + """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 0))
for _ in range(20000):
    s.sendto(b"x", s.getsockname())
    s.recv(1)
gate()
"""
)
# Each fdatasync() waits for the disk.
SYNCS = (
    PRELUDE
    + """
fd = os.open({path!r}, os.O_RDWR | os.O_CREAT)
for i in range(400):
    os.pwrite(fd, b"x" * 4096, 0)
    os.fdatasync(fd)
gate()
"""
)


def interrupts() -> dict[str, int]:
    """Of those with a handler, which are the numbered ones."""
    by_name: dict[str, int] = {}
    for line in Path("/proc/interrupts").read_text().splitlines()[1:]:
        number, *fields = line.split()
        if number[:-1].isdigit():
            counts = [int(field) for field in fields[:CPUS]]
            for name in re.split(r", ", fields[-1]):
                by_name[name] = by_name.get(name, 0) + sum(counts)
    return by_name


def stolen(dump: Dump, cgroup: Cgroup, table: str) -> int:
    return int(dump.row(cgroup.id, f"{table}_stolen").get(STOLEN[table], 0))


def bracket(
    running: Loader, kernel: Callable[[], dict[str, int]], table: str, column: str
) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
    """What the kernel had counted before a snapshot, what is in it, and what after."""
    before = kernel()
    dump = running.fresh()
    return before, dump.durations(table, column), kernel()


@pytest.mark.parametrize(
    ("kernel", "table", "column", "work", "busiest", "events"),
    [
        (softirqs, "softirqs", SOFTIRQ, DATAGRAMS, "net_rx", 20000),
        (interrupts, "hardirqs", HARDIRQ, SYNCS, "", 400),
    ],
    ids=["softirqs", "hardirqs"],
)
def test_counts_are_the_kernels(
    tmpfs: Path,
    tmp_path: Path,
    cgroups: Cgroup,
    kernel: Callable[[], dict[str, int]],
    table: str,
    column: str,
    work: str,
    busiest: str,
    events: int,
) -> None:
    """By name, between what /proc said before and after each snapshot."""
    path = str(tmp_path / "file")
    with loader(tmpfs, "--collectors", table) as running:
        worker = Worker(cgroups.child("a.service"), work.format(path=path))
        low0, first, high0 = bracket(running, kernel, table, column)
        worker.go()
        worker.stopped()
        low1, last, high1 = bracket(running, kernel, table, column)
        worker.end()
    moved = {name: count - first.get(name, 0) for name, count in last.items()}
    assert set(last) <= set(high1)
    for name in high1:
        # The kernel counts at entry, we at exit: one may be on its way on each CPU.
        unseen = 0.01 * (high1[name] - low0[name]) if hides_process_1() else 0
        assert moved.get(name, 0) >= low1[name] - high0[name] - CPUS - unseen, name
        assert moved.get(name, 0) <= high1[name] - low0[name] + CPUS, name
    busiest = busiest or max(moved, key=lambda name: moved[name])
    if moved[busiest] < events and table == "hardirqs":
        pytest.skip(f"fdatasync() of {path} makes no interrupts: {moved}")
    assert moved[busiest] >= 0.99 * events if hides_process_1() else events


@pytest.mark.guest("softirqs")
def test_softirqs_are_stolen_from_who_runs(tmpfs: Path, cgroups: Cgroup) -> None:
    """The tick alone raises some under whoever has the CPU; who sleeps loses nothing."""
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    with loader(tmpfs, "--collectors", "softirqs") as running:
        hog, sleeper = Worker(a, HOG.format(seconds=1.5)), Worker(b, IDLER)
        before = running.fresh()
        hog.go()
        hog.stopped()
        after = running.fresh()
        hog.end()
        sleeper.end()

    taken = stolen(after, a, "softirqs") - stolen(before, a, "softirqs")
    assert 0 < taken < 1.5e9
    assert stolen(after, b, "softirqs") == stolen(before, b, "softirqs")


def interrupted_cpu(cgroup: Cgroup, path: str) -> int:
    """A CPU that is interrupted by the disk for what it asks of it."""
    for cpu in range(CPUS):
        before = interrupts()
        writer = Worker(cgroup, SYNCS.format(path=path), cpu=cpu)
        writer.go()
        writer.stopped()
        writer.end()
        moved = {name: count - before.get(name, 0) for name, count in interrupts().items()}
        disk = max(moved, key=lambda name: moved[name])
        number = next(
            line.split(":")[0].strip()
            for line in Path("/proc/interrupts").read_text().splitlines()
            if line.endswith(f" {disk}")
        )
        affinity = Path(f"/proc/irq/{number}/effective_affinity_list").read_text().strip()
        if moved[disk] >= 400 and affinity == str(cpu):
            return cpu
    pytest.skip(f"fdatasync() of {path} interrupts no CPU")


def test_interrupts_are_stolen_from_who_runs(tmpfs: Path, tmp_path: Path, cgroups: Cgroup) -> None:
    """One container waits for the disk, which interrupts another that works meanwhile."""
    a, b, c = (cgroups.child(f"{name}.service") for name in "abc")
    path = str(tmp_path / "file")
    cpu = interrupted_cpu(a, path)
    with loader(tmpfs, "--collectors", "hardirqs") as running:
        hog = Worker(b, HOG.format(seconds=3), cpu=cpu)
        writer, sleeper = Worker(a, SYNCS.format(path=path), cpu=cpu), Worker(c, IDLER)
        before = running.fresh()
        hog.go()
        writer.go()
        writer.stopped()
        hog.stopped()
        after = running.fresh()
        for worker in (hog, writer, sleeper):
            worker.end()
    assert stolen(after, b, "hardirqs") > stolen(before, b, "hardirqs")
    assert stolen(after, c, "hardirqs") == stolen(before, c, "hardirqs")
