"""Processes that are killed or stopped at any time: what is served is right, or named as gone."""

import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.stack import aggregator, comes_alive, state
from tests.live import (
    HOG,
    IDLER,
    LOADER,
    ONCPU,
    PRELUDE,
    ROOT,
    Cgroup,
    Dump,
    Worker,
    exact,
    loader,
    same_time,
    wait_for,
)

TIMES = 100
FEW = ("--collectors", "cpu,exec")
FORKS = "kpod_process_forks_total"

# Starts processes, one after the other, until it is told to stop.
FORKER = (
    PRELUDE
    + """
import select
while not select.select([0], [], [], 0.002)[0]:
    pid = os.fork()
    if not pid: os._exit(0)
    os.waitpid(pid, 0)
"""
)

# Starts this many processes each time that it is told to.
SOME = 7
COUNTED = (
    PRELUDE
    + f"""
while True:
    for _ in range({SOME}):
        pid = os.fork()
        if not pid: os._exit(0)
        os.waitpid(pid, 0)
    gate()
"""
)


def program_ids(pid: int) -> set[str]:
    ids = set()
    for fd in Path(f"/proc/{pid}/fdinfo").iterdir():
        ids |= set(re.findall(r"(?m)^prog_id:\t(\d+)$", fd.read_text()))
    return ids


def existing_programs() -> set[str]:
    listed = subprocess.check_output(["bpftool", "prog", "list"], text=True)
    return set(re.findall(r"(?m)^(\d+): ", listed))


def forked(dump: Dump, cgroup: Cgroup) -> int:
    return int(dump.row(cgroup.id, "exec").get(FORKS + "{process}", 0))


def test_loader_killed_again_and_again_under_load(tmpfs: Path, cgroups: Cgroup) -> None:
    """Each life's totals are its own and exact; nothing of it stays in the kernel."""
    busy, counted = cgroups.child("busy.service"), cgroups.child("counted.service")
    idle = cgroups.child("idle.service")
    worker, known, _ = Worker(busy, FORKER), Worker(counted, COUNTED), Worker(idle, IDLER)
    worker.go()
    programs: set[str] = set()
    starts = set()
    with aggregator(tmpfs) as served:

        def forks() -> dict[frozenset[tuple[str, str]], float]:
            return served.series(FORKS, unit="busy.service", kind="process")

        for life in range(TIMES):
            with loader(tmpfs, *FEW, interval=0.05) as running:
                programs |= program_ids(running.process.pid)
                known.go()
                known.stopped()
                dump = running.fresh()
                assert forked(dump, counted) == SOME
                assert forked(dump, idle) == 0
                if life % 10 == 0:  # a scrape of each life would be a test of scrapes
                    first = wait_for("forks", forks)
                    running.fresh()
                    second = forks()
                    assert second.keys() == first.keys()
                    assert sum(first.values()) <= sum(second.values())
                    starts.add(next(iter(served.series("kpod_loader_start_time_seconds").values())))
                    comes_alive(served)
                running.stop(signal.SIGKILL)
                assert forked(running.dump(), counted) == SOME
        assert len(starts) == TIMES / 10, "each life had a start of its own"
        assert len(programs) >= 3 * TIMES
        wait_for("all programs to be gone", lambda: not programs & existing_programs())
        left = {"segment", "segment.building", "segment.doorbell", "segment.lock"}
        assert {f.name for f in tmpfs.iterdir()} <= left

        worker.go()
        worker.process.wait(60)
        with loader(tmpfs, *FEW) as running:
            exact(running, busy)
            comes_alive(served)
    assert list(tmpfs.iterdir()) == []


def test_aggregator_killed_again_and_again(tmpfs: Path, cgroups: Cgroup) -> None:
    """Each one serves a whole answer with exact totals, and the loader does not notice."""
    counted, busy = cgroups.child("counted.service"), cgroups.child("busy.service")
    known, worker = Worker(counted, COUNTED), Worker(busy, FORKER)
    cgroups.child("idle.service")
    last = 0.0
    with loader(tmpfs, *FEW, interval=0.05) as running:
        worker.go()
        before = running.fresh()
        for life in range(TIMES):
            known.go()
            known.stopped()
            running.fresh()
            process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "aggregator", "--listen", "127.0.0.1:0"),
                    *("--segment", str(running.segment)),
                ],
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            assert process.stderr
            while "serving http://" not in (line := process.stderr.readline()):
                assert line, "the aggregator did not start"
            with urllib.request.urlopen(line.split()[-1], timeout=60) as answer:
                families = list(text_string_to_metric_families(answer.read().decode()))
            total = next(f for f in families if f.name == "kpod_cpu_oncpu_seconds")
            host = next(s.value for s in total.samples if s.labels["scope"] == "host")
            assert host >= last
            last = host
            forks = {
                s.labels.get("unit"): s.value
                for family in families
                for s in family.samples
                if s.name == FORKS and s.labels.get("kind") == "process"
            }
            assert forks["counted.service"] == SOME * (life + 1)
            assert forks["busy.service"] > 0
            assert forks.get("idle.service", 0) == 0
            process.kill()
            process.communicate()
        after = running.fresh()
        assert after.sequence > before.sequence
        assert after.loader["kpod_snapshot_failures_total"] == 0


def test_loader_stopped_longer_than_its_heartbeat(tmpfs: Path, cgroups: Cgroup) -> None:
    """Meanwhile there are no samples; afterwards nothing that happened meanwhile is missing."""
    a = cgroups.child("a.service")
    with loader(tmpfs, *FEW) as running, aggregator(tmpfs) as served:
        hog = Worker(a, HOG.format(seconds=0.3))
        before, spent = running.fresh(), hog.schedstat()[0]
        running.process.send_signal(signal.SIGSTOP)
        hog.go()
        hog.stopped()
        wait_for("the aggregator to see it", lambda: state(served) == "stale")
        assert not served.series("kpod_cpu_oncpu_seconds_total")
        assert list(served.series("kpod_loader_up").values()) == [0]
        born = cgroups.child("born.service")
        running.process.send_signal(signal.SIGCONT)
        after = running.fresh()
        assert after.slot(born.id)
        spent = hog.schedstat()[0] - spent
        assert same_time(after.total(a.id, ONCPU) - before.total(a.id, ONCPU), spent)
        comes_alive(served)
        assert served.series("kpod_cpu_oncpu_seconds_total", unit="a.service")


def test_both_stopped(tmpfs: Path, cgroups: Cgroup) -> None:
    """For a minute. What came and went meanwhile is there with all it has done."""
    a, gone = cgroups.child("a.service"), cgroups.child("gone.service")
    with loader(tmpfs, *FEW) as running, aggregator(tmpfs) as served:
        hogs = [Worker(cgroup, HOG.format(seconds=0.3)) for cgroup in (a, gone)]
        before, spent = running.fresh(), [hog.schedstat()[0] for hog in hogs]
        for process in (running.process, served.process):
            process.send_signal(signal.SIGSTOP)
        for hog in hogs:
            hog.go()
            hog.stopped()
        spent = [hog.schedstat()[0] - was for hog, was in zip(hogs, spent, strict=True)]
        gone.remove()
        time.sleep(60)
        served.process.send_signal(signal.SIGCONT)
        assert state(served) == "stale"
        assert not served.series("kpod_cpu_oncpu_seconds_total")
        running.process.send_signal(signal.SIGCONT)
        comes_alive(served)
        after = running.fresh()
        for cgroup, ns in zip((a, gone), spent, strict=True):
            assert same_time(after.total(cgroup.id, ONCPU) - before.total(cgroup.id, ONCPU), ns)
        slot = after.slot(gone.id)
        assert slot
        assert slot["died_ns"]
        assert served.series("kpod_cpu_oncpu_seconds_total", unit="gone.service")


def test_aggregator_stopped_while_the_ring_goes_round(tmpfs: Path) -> None:
    with (
        loader(tmpfs, *FEW, "--ring-size", "65536", interval=0.01) as running,
        aggregator(tmpfs) as served,
    ):
        first = running.fresh()
        comes_alive(served)
        served.process.send_signal(signal.SIGSTOP)
        size = first.loader["kpod_snapshot_size_bytes"]
        rounds = 3 * 65536 // max(size, 1)
        wait_for(
            "the ring to go round", lambda: running.dump().sequence > first.sequence + rounds, 60
        )
        served.process.send_signal(signal.SIGCONT)
        now = running.fresh()
        comes_alive(served)
        taken = next(iter(served.series("kpod_snapshots_total").values()))
        assert taken >= now.sequence - 1, "what it shows is not what it had"


# The signal comes with the n-th call of this kind: from the C library's start to the loop.
PHASES = [
    *(("mmap", 3), ("rt_sigprocmask", 1), ("bpf", 1), ("bpf", 30), ("bpf", 60), ("bpf", 90)),
    *(("openat", 12), ("getdents64", 2), ("capset", 1), ("seccomp", 3), ("fallocate", 1)),
    *(("rename", 1), ("epoll_create1", 1), ("signalfd4", 1), ("epoll_wait", 1), ("epoll_wait", 9)),
    *(("inotify_add_watch", 1), ("fcntl", 1)),
]


def signalled(
    log: Path, call: str, when: int, number: signal.Signals, *command: str
) -> subprocess.CompletedProcess[str]:
    """What becomes of a command that gets a signal; log: these calls and signals, by strace."""
    return subprocess.run(
        [
            *("strace", "-f", "-o", str(log), f"--trace={call},exit_group"),
            f"--inject={call}:signal={number.name}:when={when}",
            *command,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(("call", "when"), PHASES, ids=[f"{c}-{n}" for c, n in PHASES])
def test_signal_in_every_phase_leaves_nothing(
    tmpfs: Path, call: str, when: int, number: signal.Signals
) -> None:
    log = tmpfs.parent / f"{tmpfs.name}.strace"
    command = (str(LOADER), "run", *FEW, "--segment", str(tmpfs / "s"), "--interval", "0.05")
    done = signalled(log, call, when, number, *command)
    said = log.read_text()
    log.unlink()
    assert said.count(call) >= when
    # It ended, so the signal came. Before it blocks the signal it has nothing to clean up.
    assert done.returncode == (-number if call == "mmap" else 0), done.stderr
    assert list(tmpfs.iterdir()) == []


# From the first import to the loop that serves.
AGGREGATOR_PHASES = [
    *(("newfstatat", 700), ("newfstatat", 1200), ("seccomp", 3), ("listen", 1), ("socketpair", 1)),
    *(("epoll_create1", 1), ("epoll_pwait", 1), ("epoll_pwait", 20)),
]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("call", "when"), AGGREGATOR_PHASES, ids=[f"{c}-{n}" for c, n in AGGREGATOR_PHASES]
)
def test_signal_in_every_phase_ends_the_aggregator(
    tmpfs: Path, call: str, when: int, number: signal.Signals
) -> None:
    """By itself and without a word; its port goes with the process."""
    log = tmpfs / "strace"
    command = (sys.executable, "-m", "aggregator", "--listen", "127.0.0.1:0")
    done = signalled(log, call, when, number, *command, "--segment", str(tmpfs / "segment"))
    assert f"--- {number.name} " in log.read_text()
    assert done.returncode == 0, done.stderr
    assert all(" kpod-aggregator: " in f" {line}" for line in done.stderr.splitlines())
