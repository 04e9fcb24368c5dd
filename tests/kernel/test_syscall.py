"""System calls, of a program that knows which it makes."""

import json
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live import IDLER, LOADER, ROOT, Cgroup, Dump, Loader, Worker, loader

# What libc's pause() calls: arm64 has no call of that name.
PAUSE = "pause" if platform.machine() == "x86_64" else "ppoll"
LISTED = (
    f"read,write,writev,openat,close,futex,nanosleep,getppid,getpriority,{PAUSE},execve,"
    "exit,exit_group,wait4,rt_sigsuspend,rt_sigreturn,kill,clone"
)
DURATION = "kpod_syscall_duration_seconds"


@contextmanager
def caller(cgroup: Cgroup, mode: str) -> Iterator[Worker]:
    command = [str(ROOT / "build/calls"), mode]
    worker = Worker(cgroup, f"import os; os.execv({command[0]!r}, {command!r})")
    try:
        yield worker
    finally:
        worker.end()


def by_call(dump: Dump, cgroup: Cgroup) -> dict[str, dict[str, int]]:
    """Per call: how often, how often with a duration, and errors by class."""
    found = {}
    for (name,), row in dump.by_key(cgroup.id, "syscall").items():
        errors = {
            column.partition("{")[2][:-1]: value
            for column, value in row.items()
            if column.startswith("kpod_syscall_errors_total") and value
        }
        timed = sum(row[DURATION])
        found[name] = {"calls": row["kpod_syscall_calls_total"], "timed": timed, **errors}
    return found


def totals(dump: Dump, cgroup: Cgroup) -> dict[str, int]:
    row = dump.row(cgroup.id, "syscalls")
    names = (
        "total",
        "errors_total",
        "seconds_total",
        "foreign_total",
        "untracked_total",
        "unfinished_total",
    )
    return {name: row.get(f"kpod_syscalls_{name}", 0) for name in names}


def minus(after: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {key: value - before.get(key, 0) for key, value in after.items()}


def needs_task_storage(running: Loader) -> None:
    """Which tracing programs have since 5.12; all later kernels must load it."""
    down = [line for line in running.log if "collector syscall: down" in line]
    if down and tuple(map(int, platform.release().split(".")[:2])) < (5, 12):
        pytest.skip(down[0])
    assert not down


class Moved:
    """What a mode of the program did to its own cgroup; its neighbour's has not moved."""

    def __init__(self, tmpfs: Path, cgroups: Cgroup, mode: str) -> None:
        a, b = cgroups.child("a.service"), cgroups.child("b.service")
        options = ("--collectors", "syscall", "--syscalls", LISTED)
        with loader(tmpfs, *options) as running, caller(a, mode) as worker:
            needs_task_storage(running)
            idle = Worker(b, IDLER)
            before = running.fresh()
            worker.go()
            worker.stopped()
            after = running.fresh()
            idle.end()
        first, last = by_call(before, a), by_call(after, a)
        moved = {name: minus(row, first.get(name, {})) for name, row in last.items()}
        self.calls = {name: {key: n for key, n in row.items() if n} for name, row in moved.items()}
        self.totals = minus(totals(after, a), totals(before, a))
        self.after = after.by_key(a.id, "syscall")
        assert by_call(before, b) == by_call(after, b)
        assert totals(before, b) == totals(after, b)
        assert self.totals["untracked_total"] == 0
        assert before.loader["kpod_rows_unmapped_total"] == 0
        assert after.missed == 0


def bucket(seconds: float) -> int:
    """The first whose upper bound is not below this."""
    return next(i for i in range(98) if 2 ** (-20 + i / 4) >= seconds)


@pytest.mark.guest("syscall")
def test_calls_errors_and_durations_are_exact(tmpfs: Path, cgroups: Cgroup) -> None:
    moved = Moved(tmpfs, cgroups, "plain")
    expected = {
        "getppid": {"calls": 1000, "timed": 1000},
        "openat": {"calls": 300, "timed": 300, "not_found": 300},
        "close": {"calls": 50, "timed": 50, "bad_argument": 50},
        "read": {"calls": 21, "timed": 21, "again": 20},
        "write": {"calls": 1, "timed": 1},
        "futex": {"calls": 7, "timed": 7, "timeout": 7},
        "nanosleep": {"calls": 20, "timed": 20},
    }
    assert {name: row for name, row in moved.calls.items() if row} == expected
    pipe2 = 1
    assert moved.totals["total"] == sum(row["calls"] for row in expected.values()) + pipe2
    assert moved.totals["errors_total"] == 300 + 50 + 20 + 7
    assert moved.totals["foreign_total"] == 0
    assert moved.totals["seconds_total"] >= 20 * 3_000_000 + 7 * 1_000_000
    sleeps = moved.after[("nanosleep",)][DURATION]
    assert sum(sleeps[: bucket(0.003)]) == 0
    assert sum(sleeps[bucket(0.003) : bucket(2)]) == 20


def test_calls_that_never_return(tmpfs: Path, cgroups: Cgroup) -> None:
    """Threads, forks, execs, deaths, and what seccomp refuses."""
    moved = Moved(tmpfs, cgroups, "lives").calls
    assert moved["getppid"] == {"calls": 4 * 500, "timed": 4 * 500}
    assert moved["exit"] == {"calls": 4}
    assert moved["exit_group"] == {"calls": 6 + 5 + 3 + 1}
    assert moved["clone"] == {"calls": 17, "timed": 17}
    assert moved["wait4"] == {"calls": 17, "timed": 17}
    assert moved["execve"] == {"calls": 5 + 3, "timed": 5 + 3, "not_found": 3}
    assert moved[PAUSE] == {"calls": 2, "timed": 2, "interrupted": 2}
    assert moved["kill"] == {"calls": 2, "timed": 2}
    assert moved["getpriority"] == {"calls": 30, "permission": 30}


@pytest.mark.guest("syscall")
def test_calls_of_threads_that_preempt_each_other(tmpfs: Path, cgroups: Cgroup) -> None:
    moved = Moved(tmpfs, cgroups, "crowd")
    unfinished = moved.totals["unfinished_total"]
    for name, error in (("getppid", None), ("close", "bad_argument")):
        row = moved.calls[name]
        assert row["calls"] == 80_000
        # Programs that a task was preempted in are left out for others: for most, a twin steps in.
        assert row["timed"] >= 72_000
        assert not error or 80_000 - unfinished <= row[error] <= 80_000


def test_interrupted_calls(tmpfs: Path, cgroups: Cgroup) -> None:
    moved = Moved(tmpfs, cgroups, "signals").calls
    assert moved["rt_sigsuspend"] == {"calls": 3, "timed": 3, "interrupted": 3}
    assert moved["rt_sigreturn"] == {"calls": 4, "timed": 4}
    # The gate's, and one that the kernel made again after the handler.
    assert moved["read"] == {"calls": 1 + 2, "timed": 1 + 2, "interrupted": 1}


def test_calls_of_other_tables(tmpfs: Path, cgroups: Cgroup) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("32-bit calls are made for x86_64 only")
    moved = Moved(tmpfs, cgroups, "foreign")
    if moved.totals["total"] < 9 + 9 + 4 + 2:
        pytest.skip("this kernel has no 32-bit calls")
    assert moved.totals["foreign_total"] == 9 + 4
    assert moved.totals["total"] == 9 + 9 + 4 + 2  # with getpid() and the gate
    assert moved.totals["errors_total"] == 4  # no x32 here
    assert not moved.calls.get("writev")


def schema(*options: str) -> dict[str, dict[str, object]]:
    document = json.loads(subprocess.check_output([str(LOADER), "schema", *options]))
    return {table["name"]: table for table in document["tables"]}


def test_off_unless_asked_for() -> None:
    assert "syscalls" not in schema()
    assert "syscalls" in schema("--profile", "comprehensive")


@pytest.mark.parametrize(
    ("names", "says"),
    [("read,fly", "--syscalls: there is no system call 'fly' here"), ("read,", "")],
)
def test_names_of_calls(names: str, says: str) -> None:
    done = subprocess.run(
        [str(LOADER), "schema", "--syscalls", names], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == ((2, f"kpod-loader: {says}\n") if says else (0, ""))


def test_default_list_is_twenty() -> None:
    keys = schema("--collectors", "syscall")["syscall"]["keys"]
    assert isinstance(keys, list)
    assert len(keys[0]["values"]) == (20 if platform.machine() == "x86_64" else 18)
