"""Lives of processes, against a workload that knows what it does."""

import re
from pathlib import Path

import pytest

from tests.live import HOST, Cgroup, Dump, Worker, loader

LIVES = """
import ctypes, os, signal, threading
def gate():
    os.write(1, b"x")
    if not os.read(0, 1): os._exit(0)
def end(act):
    pid = os.fork()
    if not pid:
        try: act()
        finally: os._exit(1)
    return os.waitpid(pid, 0)[1]
def thread_execs():
    t = threading.Thread(target=lambda: os.execv("/bin/true", ["true"]))
    t.start()
    t.join()
gate()
for _ in range(20): assert end(lambda: os._exit(0)) == 0
for _ in range(7): assert end(lambda: os._exit(3)) == 3 << 8
for _ in range(5): assert end(lambda: os.kill(os.getpid(), signal.SIGKILL)) == 9
for _ in range(11): assert end(lambda: os.execv("/bin/true", ["true"])) == 0
for _ in range(3): assert end(lambda: os.execv("/bin/false", ["false"])) == 1 << 8
for _ in range(4): assert end(lambda: os.execv("/nowhere", ["x"])) == 1 << 8
for _ in range(6):
    t = threading.Thread(target=int)
    t.start()
    t.join()
def main_ends(act):
    # The main thread ends, and only when it has, another thread does this.
    def later():
        while open(f"/proc/{os.getpid()}/stat").read().rpartition(") ")[2][0] != "Z": pass
        act()
    threading.Thread(target=later).start()
    ctypes.CDLL(None).pthread_exit(None)
def all_at_once():
    for _ in range(7): threading.Thread(target=signal.pause).start()
    os._exit(0)
for _ in range(8): assert end(thread_execs) == 0
for _ in range(3): assert end(lambda: main_ends(lambda: os._exit(3))) == 3 << 8
for _ in range(2): assert end(lambda: main_ends(os.abort)) & 127 == signal.SIGABRT
for _ in range(50): assert end(all_at_once) == 0
gate()
"""

EXPECTED = {
    "kpod_process_execs_total": 11 + 3 + 8,
    "kpod_process_forks_total{process}": 20 + 7 + 5 + 11 + 3 + 4 + 8 + 3 + 2 + 50,
    "kpod_process_forks_total{thread}": 6 + 8 + 3 + 2 + 50 * 7,
    "kpod_process_exits_total{success}": 20 + 11 + 8 + 50,
    "kpod_process_exits_total{failure}": 7 + 3 + 4 + 3,
    "kpod_process_exits_total{signal}": 5 + 2,
}


def moved(before: Dump, after: Dump, cgroup: int) -> dict[str, int]:
    first, last = before.row(cgroup, "exec"), after.row(cgroup, "exec")
    return {name: last.get(name, 0) - first.get(name, 0) for name in EXPECTED}


@pytest.mark.guest("exec")
def test_every_life_is_counted_once(tmpfs: Path, cgroups: Cgroup) -> None:
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    with loader(tmpfs) as running:
        worker, _idle = Worker(a, LIVES), Worker(b, LIVES)
        first, before = started(), running.fresh()
        worker.go()
        worker.stopped()
        after, last = running.fresh(), started()
    assert moved(before, after, a.id) == EXPECTED
    assert set(moved(before, after, b.id).values()) == {0}
    # Whatever else the machine does meanwhile: the host has no more than the kernel's count leaves.
    host = moved(before, after, HOST)
    ours = sum(count for name, count in EXPECTED.items() if "forks" in name)
    assert sum(count for name, count in host.items() if "forks" in name) <= last - first - ours


def started() -> int:
    """All tasks that were ever made, threads included."""
    found = re.search(r"(?m)^processes (\d+)", Path("/proc/stat").read_text())
    assert found
    return int(found[1])


def test_sum_is_what_the_kernel_counted(tmpfs: Path, cgroups: Cgroup) -> None:
    def everywhere(dump: Dump) -> int:
        return sum(
            value
            for (table, _, _), row in dump.rows.items()
            if table == "exec"
            for name, value in row.items()
            if "forks" in name
        )

    count = 3000
    churn = LIVES.replace("range(20)", f"range({count})")
    with loader(tmpfs) as running:
        worker = Worker(cgroups.child("a.service"), churn)
        # Others make tasks, too: a snapshot lies between two readings.
        first, before, second = started(), running.fresh(), started()
        worker.go()
        worker.stopped()
        third, after, last = started(), running.fresh(), started()
    assert third - second > count
    forks = everywhere(after) - everywhere(before)
    assert 0.99 * (third - second) <= forks <= 1.01 * (last - first)
