"""Kills, reclaim and page faults, with neighbours that must not move."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live import HOST, IDLER, PRELUDE, Cgroup, Dump, Worker, loader, wait_for

KILLS = "kpod_memory_oom_kills_total"
MINOR = "kpod_memory_page_faults_total{minor}"
MAJOR = "kpod_memory_page_faults_total{major}"
STALLS = "kpod_memory_reclaim_stalls_total{limit}"
STALL_TIME = "kpod_memory_reclaim_stall_seconds_total{limit}"

# Takes so many megabytes, and then waits.
TAKER = PRELUDE + 'taken = b"x" * ({megabytes} << 20)\ngate()\n'


def moved(before: Dump, after: Dump, cgroup: int, table: str, column: str) -> int:
    first, last = before.row(cgroup, table), after.row(cgroup, table)
    return int(last.get(column, 0)) - int(first.get(column, 0))


@contextmanager
def limited(cgroup: Cgroup, megabytes: int) -> Iterator[Path]:
    """A limit for what is below the cgroup; the file takes the processes that it is for."""
    if (cgroup.path / "memory.max").exists():
        (cgroup.path / "cgroup.subtree_control").write_text("+memory")
        (cgroup.path / "memory.max").write_text(str(megabytes << 20))
        yield Path("/dev/null")
        return
    parent = Path("/sys/fs/cgroup/memory")
    if not (parent / "memory.limit_in_bytes").exists():
        pytest.skip("no memory controller, neither in cgroup2 nor in /sys/fs/cgroup/memory")
    v1 = parent / cgroup.path.name
    v1.mkdir()
    try:
        (v1 / "memory.limit_in_bytes").write_text(str(megabytes << 20))
        yield v1 / "cgroup.procs"
    finally:

        def removed() -> bool:
            try:
                v1.rmdir()
            except OSError:
                return False
            return True

        cgroup.remove()
        wait_for("an empty memory cgroup", removed)


@pytest.mark.guest("memory")
def test_kill_is_the_victims(tmpfs: Path, cgroups: Cgroup) -> None:
    """Another container's process asks for the memory that is not there."""
    a, b, c = (cgroups.child(f"{name}.service") for name in ("victim", "asker", "neighbour"))
    with loader(tmpfs) as running, limited(cgroups, 100) as processes:
        victim = Worker(a, TAKER.format(megabytes=60))
        asker = Worker(b, TAKER.format(megabytes=55))
        neighbour = Worker(c, TAKER.format(megabytes=1))
        for worker in (victim, asker, neighbour):
            processes.write_text(str(worker.pid))
        before = running.fresh()
        victim.go()
        victim.stopped()
        asker.go()
        assert asker.process.stdout
        survived = asker.process.stdout.read(1) == b"x"
        # A kernel may kill it too, when the victim's memory is slow to come back.
        killed = {a: victim} if survived else {a: victim, b: asker}
        for worker in killed.values():
            assert worker.process.wait(60) == -9
        after = running.fresh()
        for cgroup in (a, b, c):
            if (events := cgroup.path / "memory.events").exists():
                assert f"oom_kill {int(cgroup in killed)}\n" in events.read_text()
        a.remove()
        wait_for("the victim's end", lambda: (running.dump().slot(a.id) or {}).get("died_ns"))
        later = running.fresh()
    for cgroup in (a, b, c):
        assert moved(before, after, cgroup.id, "memory", KILLS) == int(cgroup in killed)
    assert moved(before, after, HOST, "memory", KILLS) == 0
    assert later.row(a.id, "memory")[KILLS] == 1, "its container is gone, its end is not"


# Reads a file of so many megabytes, again and again, with the cache that it may have.
READER = (
    PRELUDE
    + """
with open({file!r}, "rb", buffering=0) as f:
    for _ in range({times}):
        f.seek(0)
        while f.read(1 << 20): pass
gate()
"""
)


def file_of(directory: Path, megabytes: int) -> Path:
    """Of which nothing is in the cache, where it would be its writer's."""
    path = directory / "file"
    with path.open("wb") as file:
        file.write(b"x" * (megabytes << 20))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return path


@pytest.mark.guest("memory")
def test_reclaim_is_whose_limit_is_short(tmpfs: Path, disk: Path, cgroups: Cgroup) -> None:
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    file = file_of(disk, 48)
    with loader(tmpfs) as running, limited(cgroups, 32) as processes:
        reader = Worker(a, READER.format(file=str(file), times=2))
        neighbour = Worker(b, TAKER.format(megabytes=1))
        for worker in (reader, neighbour):
            processes.write_text(str(worker.pid))
        before, start = running.fresh(), time.monotonic_ns()
        reader.go()
        reader.stopped()
        elapsed = time.monotonic_ns() - start
        after = running.fresh()
        events = cgroups.path / "memory.events"
        counted = re.findall(r"(?m)^max (\d+)", events.read_text() if events.exists() else "")
    stalls = moved(before, after, a.id, "memory", STALLS)
    assert stalls > 0
    if counted:  # how often the limit was hit; a kernel thread may have been the one that did
        everyone = (slot["cgroup_id"] for slot in after.slots.values())
        assert sum(moved(before, after, i, "memory", STALLS) for i in everyone) == int(counted[0])
        assert stalls >= 0.9 * int(counted[0])
    assert 0 < moved(before, after, a.id, "memory", STALL_TIME) < elapsed
    assert moved(before, after, b.id, "memory", STALLS) == 0


# Touches so many pages for the first time, one fault each.
TOUCHER = (
    PRELUDE
    + """
import mmap
m = mmap.mmap(-1, {pages} * 4096)
m.madvise(mmap.MADV_NOHUGEPAGE)
for i in range({pages}): m[i * 4096] = 1
gate()
"""
)


def faults(pid: int) -> tuple[int, int]:
    """(minor, major) of the process's threads: the kernel's own totals."""
    minor = major = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        fields = (thread / "stat").read_text().rsplit(") ", 1)[1].split()
        minor, major = minor + int(fields[7]), major + int(fields[9])
    return minor, major


LOWER = PRELUDE + "open({file!r}, 'w').write(str({megabytes} << 20))\ngate()\n"


@pytest.mark.guest("memory")
def test_a_request_to_free_memory_is_nobodys_wait(tmpfs: Path, disk: Path, cgroups: Cgroup) -> None:
    """B lowers A's limit, so the kernel frees A's cache in B's name: B is not at a limit."""
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    file = file_of(disk, 60)
    with loader(tmpfs) as running, limited(cgroups, 200) as processes:
        limit = processes.parent / "memory.limit_in_bytes"
        if not limit.exists():
            limit = cgroups.path / "memory.max"
        reader = Worker(a, READER.format(file=str(file), times=1))
        asker = Worker(b, LOWER.format(file=str(limit), megabytes=30))
        processes.write_text(str(reader.pid))
        reader.go()
        reader.stopped()
        before = running.fresh()
        asker.go()
        asker.stopped()
        after = running.fresh()
    assert moved(before, after, b.id, "memory", STALLS) == 0
    assert moved(before, after, b.id, "memory", STALLS.replace("limit", "request")) > 0
    assert moved(before, after, b.id, "memory", STALL_TIME.replace("limit", "request")) > 0
    assert moved(before, after, a.id, "memory", STALLS.replace("limit", "request")) == 0


@pytest.mark.guest("cpu")
def test_faults_of_a_living_task(tmpfs: Path, cgroups: Cgroup) -> None:
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    older = Worker(a, TOUCHER.format(pages=3000))
    with loader(tmpfs) as running:
        newer, neighbour = Worker(a, TOUCHER.format(pages=5000)), Worker(b, IDLER)
        before, at_start = running.fresh(), (faults(older.pid), faults(newer.pid))
        assert moved(before, before, a.id, "cpu", MINOR) == 0
        for worker in (older, newer):
            worker.go()
            worker.stopped()
        after, at_end = running.fresh(), (faults(older.pid), faults(newer.pid))
        assert neighbour.process.poll() is None
    expected = [sum(at_end[i][kind] - at_start[i][kind] for i in range(2)) for kind in range(2)]
    assert expected[0] >= 8000
    assert moved(before, after, a.id, "cpu", MINOR) == expected[0]
    assert moved(before, after, a.id, "cpu", MAJOR) == expected[1]
    assert moved(before, after, b.id, "cpu", MINOR) == 0
    # What the older one had before the loader's start is not the loader's to count.
    assert 0 < before.row(a.id, "cpu")[MINOR] <= at_start[1][0]


# Short lives, of processes and of threads, one of which replaces its process; then what the kernel
# has counted for all that are gone.
LIVES = (
    PRELUDE
    + """
import mmap, resource, threading
def touch(pages):
    m = mmap.mmap(-1, pages * 4096)
    m.madvise(mmap.MADV_NOHUGEPAGE)
    for i in range(pages): m[i * 4096] = 1
def threads(act):
    for _ in range(3):
        t = threading.Thread(target=act)
        t.start()
        t.join()
def run(act):
    pid = os.fork()
    if not pid:
        try: act()
        finally: os._exit(0)
    os.waitpid(pid, 0)
for _ in range(20): run(lambda: touch(100))
for _ in range(5): run(lambda: threads(lambda: touch(50)))
for _ in range(5): run(lambda: threads(lambda: os.execv("/bin/true", ["true"])))
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print("", usage.ru_minflt, usage.ru_majflt, flush=True)
gate()
"""
)


@pytest.mark.guest("cpu")
def test_faults_of_short_lives(tmpfs: Path, cgroups: Cgroup) -> None:
    a = cgroups.child("a.service")
    with loader(tmpfs, interval=0.05) as running:
        worker = Worker(a, LIVES)
        before, at_start = running.fresh(), faults(worker.pid)
        worker.go()
        assert worker.process.stdout
        line = b""
        while not line.endswith(b"\n"):
            line += worker.process.stdout.read(1)
        worker.stopped()
        of_children = [int(n) for n in line.split()]
        after, at_end = running.fresh(), faults(worker.pid)
    assert of_children[0] > 20 * 100 + 5 * 3 * 50
    own = [y - x for x, y in zip(at_start, at_end, strict=True)]
    assert moved(before, after, a.id, "cpu", MINOR) == of_children[0] + own[0]
    assert moved(before, after, a.id, "cpu", MAJOR) == of_children[1] + own[1]
