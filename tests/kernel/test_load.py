"""Floods: all is counted or said to be missing, and the loader does not grow."""

import re
from pathlib import Path

from tests.kernel.test_syscall import caller, needs_task_storage
from tests.live import IDLER, Cgroup, Dump, Loader, Worker, loader

FLOOD = 1_000_000  # calls; as calls.c
BOMB = 2_000  # processes, all alive at once; as calls.c


def anonymous_kib(running: Loader) -> int:
    status = Path(f"/proc/{running.process.pid}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found
    return int(found[1])


def value(dump: Dump, cgroup: Cgroup, table: str, column: str) -> int:
    return int(dump.row(cgroup.id, table).get(column, 0))


def test_floods_are_counted_whole(tmpfs: Path, cgroups: Cgroup) -> None:
    a, b, c = (cgroups.child(f"{name}.service") for name in "abc")
    options = ("--profile", "comprehensive", "--syscalls", "getppid,clone")
    with (
        loader(tmpfs, *options) as running,
        caller(a, "flood") as flood,
        caller(b, "bomb") as bomb,
    ):
        needs_task_storage(running)
        idle = Worker(c, IDLER)
        before, small = running.fresh(), anonymous_kib(running)
        flood.go()
        bomb.go()
        flood.stopped()
        bomb.stopped()
        after, large = running.fresh(), anonymous_kib(running)
        idle.end()

    def moved(cgroup: Cgroup, table: str, column: str) -> int:
        return value(after, cgroup, table, column) - value(before, cgroup, table, column)

    def called(cgroup: Cgroup, call: str) -> int:
        row = after.by_key(cgroup.id, "syscall").get((call,), {})
        return int(row.get("kpod_syscall_calls_total", 0))

    assert called(a, "getppid") == FLOOD
    assert moved(a, "syscalls", "kpod_syscalls_total") == FLOOD + 2  # with the gate
    assert called(b, "clone") == BOMB
    assert moved(b, "exec", "kpod_process_forks_total{process}") == BOMB
    assert moved(b, "exec", "kpod_process_exits_total{signal}") == BOMB
    assert moved(c, "syscalls", "kpod_syscalls_total") == 0
    for cgroup in (a, b):
        assert moved(cgroup, "syscalls", "kpod_syscalls_untracked_total") == 0
    for row in after.keyed:
        if row["table"] == "units":
            assert row["kpod_table_units_exhausted_total"] == 0, row
            assert row["kpod_table_units"] <= row["kpod_table_units_capacity"]
    for missed in (
        "rows_unmapped",
        "flush_failures",
        "walk_failures",
        "snapshot_failures",
    ):
        assert after.loader[f"kpod_{missed}_total"] == before.loader[f"kpod_{missed}_total"]
    assert after.missed == before.missed
    assert large <= small + 256, "KiB of the loader's own memory"
