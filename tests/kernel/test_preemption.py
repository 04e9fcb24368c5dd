"""Tasks that the kernel preempts within programs, and what is lost of the others' events meanwhile.

Four tasks of one container share a CPU and do known work (tests/kernel/churn.c). The oracles are
what they have done and, of reclaim, the kernel's own count; a neighbour does nothing.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.live import GUEST, IDLER, ROOT, TEST_LOADER, Cgroup, Dump, Worker, loader

COLLECTORS = ("cpu", "exec", "memory", "biolatency", "tcp", "udp", "cachestat")
pytestmark = [
    pytest.mark.guest(*COLLECTORS),
    pytest.mark.skipif(
        not GUEST or not re.fullmatch(r"7\..*|.*-full", GUEST),
        reason="needs a kernel that preempts programs, and its cgroup controllers: see tests/vm",
    ),
]

TASKS = 4
LOSS = 0.001  # at most
STANDINS = ("cpu", "biolatency", "tcp")  # where a miss loses nothing, and is not shown
SPARE = {"writes": 20}  # the file system's own blocks that a write may dirty
LIMIT = 8 << 20  # less memory than the files have that are read again and again


@dataclass(frozen=True)
class Count:
    """What is counted of a kind of work: in which column, and how much of it each time."""

    table: str
    column: str
    each: int = 1
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    times: int  # that each task does it
    counts: tuple[Count, ...]


SENT, RECEIVED = (f"kpod_udp_datagrams_total{{{way}}}" for way in ("sent", "received"))
OPENED = "kpod_tcp_connections_opened_total"
STALLS = Count("memory", "kpod_memory_reclaim_stalls_total{limit}")
WRITES = ("vdb", "write")

WORK = {
    "touch": Work(1000, (Count("cpu", "kpod_memory_page_faults_total{minor}"),)),
    "datagrams": Work(
        2000,
        (
            Count("udp", SENT),
            Count("udp", RECEIVED),
            Count("udp", "kpod_udp_bytes_total{sent}", 100),
            Count("udp", "kpod_udp_bytes_total{received}", 100),
        ),
    ),
    "connections": Work(
        500,
        (
            Count("tcp", OPENED + "{active}"),
            Count("tcp", OPENED + "{passive}"),
            Count("tcp", "kpod_tcp_connect_seconds"),
            Count("tcp", "kpod_tcp_bytes_total{sent}", 10),
            Count("tcp", "kpod_tcp_bytes_total{received}", 10),
        ),
    ),
    "programs": Work(
        250,
        (
            Count("exec", "kpod_process_forks_total{process}"),
            Count("exec", "kpod_process_execs_total"),
            Count("exec", "kpod_process_exits_total{success}"),
        ),
    ),
    "reads": Work(5000, (Count("cachestat", "kpod_page_cache_accesses_total"),)),
    "blocks": Work(
        500,
        (
            Count("biolatency", "kpod_block_io_device_seconds", 1, WRITES),
            Count("biolatency", "kpod_block_io_bytes_total", 4096, WRITES),
        ),
    ),
    "writes": Work(
        1000,
        (
            Count("cachestat", "kpod_page_cache_additions_total"),
            Count("cachestat", "kpod_page_cache_dirtied_pages_total"),
        ),
    ),
    "reclaim": Work(4, (STALLS,)),
}


def value(dump: Dump, cgroup: Cgroup, count: Count) -> int:
    if count.key:
        row = dump.by_key(cgroup.id, count.table).get(count.key, {})
    else:
        row = dump.row(cgroup.id, count.table)
    found = row.get(count.column, 0)
    return sum(found) if isinstance(found, list) else int(found)


def missed(dump: Dump, collector: str) -> int:
    """Runs of a collector's programs that the kernel left out."""
    return sum(
        row["kpod_bpf_program_misses_total"]
        for row in dump.keyed
        if row["table"] == "programs" and row["keys"][1] == collector
    )


@contextmanager
def tasks(cgroup: Cgroup, disk: Path, *kinds: str) -> Iterator[list[Worker]]:
    """That wait before each kind of work."""
    plan = [word for kind in kinds for word in (kind, str(WORK[kind].times))]
    commands = [[str(ROOT / "build/churn"), str(disk / f"{n}"), *plan] for n in range(TASKS)]
    codes = [f"import os; os.execv({command[0]!r}, {command!r})" for command in commands]
    workers = [Worker(cgroup, code, cpu=1) for code in codes]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.end()


def do(workers: list[Worker]) -> None:
    for worker in workers:
        worker.go()
    for worker in workers:
        worker.stopped()


def limit_hits(cgroup: Cgroup) -> int:
    """How often the kernel reclaimed because the cgroup was at its limit."""
    found = re.search(r"(?m)^max (\d+)", (cgroup.path / "memory.events").read_text())
    assert found
    return int(found[1])


def test_nothing_is_lost_beside_preempted_tasks(tmpfs: Path, disk: Path, cgroups: Cgroup) -> None:
    (cgroups.path / "cgroup.subtree_control").write_text("+memory +io")
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    wrong = []
    with loader(tmpfs) as running, tasks(a, disk, *WORK) as workers:
        idle = Worker(b, IDLER)
        first = before = running.fresh()
        for kind, work in WORK.items():
            hits = limit_hits(a)
            if kind == "reclaim":
                os.sync()  # there is something to reclaim
                (a.path / "memory.max").write_text(str(LIMIT))
                before, hits = running.fresh(), limit_hits(a)
            do(workers)
            hits = limit_hits(a) - hits
            after = running.fresh()
            for count in work.counts:
                expected = hits if count == STALLS else TASKS * work.times * count.each
                found = value(after, a, count) - value(before, a, count)
                misses = missed(after, count.table) - missed(before, count.table)
                lost = expected - found
                said = count.table in STANDINS or lost <= count.each * misses
                print(f"{kind}: {count.column}: {found} of {expected}, {misses} misses")
                if not (-SPARE.get(kind, 0) <= lost <= LOSS * expected and said and expected > 100):
                    wrong.append(f"{kind}: {count.column}: {found} of {expected}, {misses} misses")
            before = after
        for count in {count for work in WORK.values() for count in work.counts}:
            assert value(before, b, count) == value(first, b, count)
        idle.end()
    assert not wrong


def test_the_cure_is_needed_and_its_lack_is_said(tmpfs: Path, disk: Path, cgroups: Cgroup) -> None:
    """So is what the test above would find: its work has tasks preempted in programs."""
    assert GUEST
    cure = "tp_btf, as functions are preempted" if GUEST.endswith("-full") else "tracepoint"
    options = ("--collectors", "udp", "--inject-load-failure", f":{cure}")
    a, rounds = cgroups.child("a.service"), 10
    counts = [Count("udp", column) for column in (SENT, RECEIVED)]
    with (
        loader(tmpfs, *options, program=TEST_LOADER) as running,
        tasks(a, disk, *["datagrams"] * rounds) as workers,
    ):
        before, expected, misses = running.fresh(), 0, 0
        while not misses and rounds:
            do(workers)
            rounds -= 1
            after = running.fresh()
            expected += len(counts) * TASKS * WORK["datagrams"].times
            misses = missed(after, "udp") - missed(before, "udp")
    found = sum(value(after, a, count) - value(before, a, count) for count in counts)
    assert 0 < expected - found <= misses
    assert any("collector udp: up" in line and "preempted" in line for line in running.log)
