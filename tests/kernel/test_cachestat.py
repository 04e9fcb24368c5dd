"""The page cache, by a program that knows which pages it touches, with mincore() as the oracle."""

import mmap
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.live import IDLER, SLOWNESS, Cgroup, Dump, Loader, Worker, loader

PAGE = mmap.PAGESIZE
PAGES = 1000

# Its own code is mapped whole before the gate: no fault but those it makes.
LOCKED = """
import ctypes, mmap, os
def gate():
    os.write(1, b"x")
    if not os.read(0, 1): os._exit(0)
fd = os.open({path!r}, os.O_RDWR)
size = {pages} * {page}
def drop(): os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
def alone(): os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
def walk(step=1, pages=1):
    for i in range(0, 300 * step, step): os.pread(fd, {page} * pages, i * {page})
def whole():
    while os.read(fd, 1 << 20): pass
    os.lseek(fd, 0, 0)
b = bytes({page})
walk(); whole(); drop()
assert ctypes.CDLL(None).mlockall(1) == 0
os.close(fd)
fd = os.open({path!r}, os.O_RDWR)
m = mmap.mmap(fd, size)
gate()
{work}
gate()
"""


@pytest.fixture
def file(disk: Path) -> Path:
    """Whole pages on a disk, none of them in the page cache."""
    path = disk / "file"
    with path.open("wb", buffering=0) as f:
        for _ in range(PAGES):  # a page at a time: no folio is larger
            f.write(os.urandom(PAGE))
        os.fsync(f.fileno())
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(path):
        pytest.skip(f"{disk} is on a file system that keeps its pages")
    return path


def resident(path: Path) -> int:
    command = ["fincore", "--raw", "--noheadings", "--output", "PAGES", str(path)]
    return int(subprocess.check_output(command))


def counted(dump: Dump, cgroup: Cgroup) -> dict[str, int]:
    row = dump.row(cgroup.id, "cachestat")
    return {
        "accesses": row.get("kpod_page_cache_accesses_total", 0),
        "additions": row.get("kpod_page_cache_additions_total", 0),
        "dirtied": row.get("kpod_page_cache_dirtied_pages_total", 0),
    }


def missed(dump: Dump) -> int:
    """Runs of the collector's programs that the kernel left out."""
    return sum(
        row["kpod_bpf_program_misses_total"]
        for row in dump.keyed
        if row["table"] == "programs" and row["keys"][1] == "cachestat"
    )


def by_page(running: Loader) -> bool:
    """Whether accesses are, or are what the kernel marks: more than reads, and no faults."""
    ways = ("tp_btf", "tracepoint")
    return any(f"cachestat: up ({way})" in line for way in ways for line in running.log)


CASES = [
    ("alone(); walk()", 300, 300, 300, 0),
    ("alone(); walk(); walk(); walk()", 900, 900, 300, 0),
    ("alone(); walk(3, 2)", 600, 600, 600, 0),
    ("whole()", PAGES, PAGES, PAGES, 0),
    ("whole(); whole(); whole()", 3 * PAGES, 3 * PAGES, PAGES, 0),
    ("os.pread(fd, 100, size - 10); os.pread(fd, 100, size)", 1, 1, None, 0),
    ("for i in range(300): os.pwrite(fd, b, i * len(b))", 0, 0, 300, 300),
    ("alone(); walk()\nfor i in range(300): os.pwrite(fd, b, i * len(b))", 300, 300, 300, 300),
    ("whole()\nfor i in range(0, 800, 16): m[i * len(b)]", PAGES + 50, PAGES, PAGES, 0),
]
IN_GUESTS = ("alone(); walk()", "whole(); whole(); whole()", CASES[6][0])  # to save time


@pytest.mark.parametrize(
    ("work", "accesses", "reads", "additions", "dirtied"),
    [
        pytest.param(*case, marks=pytest.mark.guest("cachestat") if case[0] in IN_GUESTS else ())
        for case in CASES
    ],
)
def test_pages_are_exact(
    tmpfs: Path,
    cgroups: Cgroup,
    file: Path,
    work: str,
    accesses: int,
    reads: int,
    additions: int | None,
    dirtied: int,
) -> None:
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    code = LOCKED.format(path=str(file), pages=PAGES, page=PAGE, work=work)

    def written(worker: Worker) -> int:
        """Pages that the worker has dirtied, as the kernel itself accounts them to it."""
        said = Path(f"/proc/{worker.pid}/io").read_text()
        return int(said.split("\nwrite_bytes: ")[1].split()[0]) // PAGE

    with loader(tmpfs, "--collectors", "cachestat") as running:
        exact = by_page(running)
        worker, idle = Worker(a, code), Worker(b, IDLER)
        assert resident(file) == 0
        before, written_before = running.fresh(), written(worker)
        worker.go()
        worker.stopped()
        after, by_kernel = running.fresh(), written(worker) - written_before
        cached = resident(file)
        worker.end()
        idle.end()
    moved = {kind: n - counted(before, a)[kind] for kind, n in counted(after, a).items()}
    expected = cached if additions is None else additions
    marked = moved.pop("accesses")
    # A write that moves the file's times on, once a tick, looks at its inode's block.
    spare = 20 * (SLOWNESS if dirtied else 1)
    least, most = (accesses, accesses) if exact else (reads, reads + spare)
    # What came while a program ran on the same CPU the kernel leaves out, and counts.
    assert least - (missed(after) - missed(before)) <= marked <= most
    # Older kernels read some of the file system's own blocks on the way.
    assert 0 <= moved["additions"] - expected <= (0 if exact else 2)
    # A write may also dirty the block of the file's inode, when it was written back meanwhile.
    assert moved["dirtied"] == by_kernel >= dirtied
    # The machine may take back what it likes meanwhile: here a daemon looks for cold pages.
    assert 0.9 * expected <= cached <= expected
    assert counted(after, b) == counted(before, b)


def test_dirtied_is_the_kernels(tmpfs: Path, tmp_path: Path, cgroups: Cgroup) -> None:
    """nr_dirtied of /proc/vmstat, which counts all mappings that are written back."""

    def kernel() -> int:
        Path("/proc/sys/vm/stat_refresh").write_text("1")  # what CPUs have not added yet
        found = re.search(r"(?m)^nr_dirtied (\d+)", Path("/proc/vmstat").read_text())
        assert found
        return int(found[1])

    def everywhere(dump: Dump) -> int:
        return sum(
            row["kpod_page_cache_dirtied_pages_total"]
            for (table, _, _), row in dump.rows.items()
            if table == "cachestat"
        )

    code = f"""
import os
def gate():
    os.write(1, b"x")
    if not os.read(0, 1): os._exit(0)
gate()
fd = os.open({str(tmp_path / "file")!r}, os.O_WRONLY | os.O_CREAT)
for _ in range(8): os.write(fd, bytes(1000 * {PAGE}))
gate()
"""
    with loader(tmpfs, "--collectors", "cachestat") as running:
        worker = Worker(cgroups.child("a.service"), code)
        low0, first, high0 = kernel(), everywhere(running.fresh()), kernel()
        worker.go()
        worker.stopped()
        low1, last, high1 = kernel(), everywhere(running.fresh()), kernel()
        worker.end()
    assert low1 - high0 >= 8000
    slack = 0.01 * (high1 - low0)
    assert low1 - high0 - slack <= last - first <= high1 - low0 + slack
