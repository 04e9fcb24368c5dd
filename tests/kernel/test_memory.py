"""Page faults, against the kernel's own count for the process. OOM: tests/vm/guest."""

from pathlib import Path

from tests.live import IDLER, PRELUDE, Cgroup, Dump, Worker, loader

MINOR, MAJOR = (f"kpod_memory_page_faults_total{{{kind}}}" for kind in ("minor", "major"))

# Touches new pages in threads, on and off the CPU, and pages of a file that is not in memory.
FAULTER = (
    PRELUDE.replace("gate()\n", "")
    + """
import mmap, threading
fd = os.open({file!r}, os.O_RDWR | os.O_CREAT, 0o600)
os.write(fd, bytes(256 * 4096))
os.fsync(fd)
def touch():
    m = mmap.mmap(-1, 512 * 4096)
    m.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(512):
        m[4096 * page] = 1
        if page % 64 == 0: time.sleep(0.001)
gate()
for t in [threading.Thread(target=touch) for _ in range(4)]: t.start()
while threading.active_count() > 1: time.sleep(0.01)
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
m = mmap.mmap(fd, 256 * 4096)
m.madvise(mmap.MADV_RANDOM)
assert sum(m[4096 * page] for page in range(256)) == 0
gate()
"""
)


def counted(pid: int) -> tuple[int, int]:
    """(minor, major) of a process and the threads it had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return int(fields[7]), int(fields[9])


def moved(before: Dump, after: Dump, cgroup: int) -> tuple[int, ...]:
    first, last = before.row(cgroup, "memory"), after.row(cgroup, "memory")
    return tuple(last.get(c, 0) - first.get(c, 0) for c in (MINOR, MAJOR))


def test_page_faults_are_the_kernels_own_count(
    tmpfs: Path, cgroups: Cgroup, tmp_path: Path
) -> None:
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    with loader(tmpfs, "--collectors", "memory") as running:
        worker = Worker(a, FAULTER.format(file=str(tmp_path / "file")))
        idler = Worker(b, IDLER)
        before, first, idle = running.fresh(), counted(worker.pid), counted(idler.pid)
        worker.go()
        worker.stopped()
        last, after = counted(worker.pid), running.fresh()
        assert counted(idler.pid) == idle
    faults = tuple(y - x for x, y in zip(first, last, strict=True))
    assert faults[0] > 4 * 512
    assert faults[1] > 0
    assert moved(before, after, a.id) == faults
    assert moved(before, after, b.id) == (0, 0)


def test_a_process_that_has_ended_is_counted_whole(tmpfs: Path, cgroups: Cgroup) -> None:
    """Its end tears down memory, and is the last of its stints."""
    a = cgroups.child("a.service")
    told = tmpfs / "told"
    code = (
        PRELUDE
        + f"""
import mmap, resource
if not os.fork():
    m = mmap.mmap(-1, 300 * 4096)
    m.madvise(mmap.MADV_NOHUGEPAGE)
    for page in range(300): m[4096 * page] = 1
    os._exit(0)
os.wait()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
open({str(told)!r}, "w").write(f"{{used.ru_minflt}} {{used.ru_majflt}}")
gate()
"""
    )
    with loader(tmpfs, "--collectors", "memory") as running:
        worker = Worker(a, code)
        before, first = running.fresh(), counted(worker.pid)
        worker.go()
        worker.stopped()
        last, after = counted(worker.pid), running.fresh()
        child = tuple(map(int, told.read_text().split()))
    own = tuple(y - x for x, y in zip(first, last, strict=True))
    assert child[0] >= 300
    assert moved(before, after, a.id) == tuple(x + y for x, y in zip(own, child, strict=True))
