"""Lives of processes, against a workload that knows what it does."""

import re
from pathlib import Path

import pytest

from tests.live import Cgroup, Dump, Worker, loader

LIVES = """
import os, signal, threading
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
for _ in range(8): assert end(thread_execs) == 0
gate()
"""

EXPECTED = {
    "kpod_process_execs_total": 11 + 3 + 8,
    "kpod_process_forks_total{process}": 20 + 7 + 5 + 11 + 3 + 4 + 8,
    "kpod_process_forks_total{thread}": 6 + 8,
    "kpod_process_exits_total{success}": 20 + 11 + 8,
    "kpod_process_exits_total{failure}": 7 + 3 + 4,
    "kpod_process_exits_total{signal}": 5,
}


def moved(before: Dump, after: Dump, cgroup: int) -> dict[str, int]:
    first, last = before.row(cgroup, "exec"), after.row(cgroup, "exec")
    return {name: last.get(name, 0) - first.get(name, 0) for name in EXPECTED}


@pytest.mark.guest("exec")
def test_every_life_is_counted_once(tmpfs: Path, cgroups: Cgroup) -> None:
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    with loader(tmpfs) as running:
        worker, _idle = Worker(a, LIVES), Worker(b, LIVES)
        before = running.fresh()
        worker.go()
        worker.stopped()
        after = running.fresh()
    assert moved(before, after, a.id) == EXPECTED
    assert set(moved(before, after, b.id).values()) == {0}
    host = moved(before, after, 1)
    assert all(host[name] < EXPECTED[name] for name in EXPECTED if "signal" not in name)


def test_sum_is_what_the_kernel_counted(tmpfs: Path, cgroups: Cgroup) -> None:
    """`processes` of /proc/stat counts every task, threads included."""

    def counted() -> int:
        found = re.search(r"(?m)^processes (\d+)", Path("/proc/stat").read_text())
        assert found
        return int(found[1])

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
        before, first = running.fresh(), counted()
        worker.go()
        worker.stopped()
        last, after = counted(), running.fresh()
    assert last - first > count
    # Each dump is a process too, and some lie between a snapshot and the kernel's count.
    off = everywhere(after) - everywhere(before) - (last - first)
    assert abs(off) <= 0.01 * (last - first) + 10
