"""The cpu collector's numbers against the scheduler's own, with neighbours that must not move."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live import (
    GUEST,
    HOG,
    IDLER,
    INVOLUNTARY,
    LATENCY,
    ONCPU,
    PRELUDE,
    SLEEPER,
    SLOWNESS,
    SWITCHES,
    VOLUNTARY,
    WAITS,
    Cgroup,
    Dump,
    Worker,
    loader,
    wait_for,
)

CPU = 1
TICK = 10_000_000  # ns, the longest that kernels have


def within(value: float, expected: float, share: float, slack: float = 0) -> None:
    __tracebackhide__ = True
    if abs(value - expected) > share * expected + slack:
        pytest.fail(f"{value} is not within {share:.0%} of {expected} (± {slack})")


def moved(before: Dump, after: Dump, cgroup: int, *columns: str) -> int:
    return after.total(cgroup, *columns) - before.total(cgroup, *columns)


@contextmanager
def idle_neighbour(cgroups: Cgroup) -> Iterator[Cgroup]:
    """A container with a process that does nothing, on the CPU where things happen."""
    neighbour = cgroups.child("neighbour.service")
    worker = Worker(neighbour, IDLER, cpu=CPU)
    yield neighbour
    worker.end()


def assert_unmoved(before: Dump, after: Dump, neighbour: Cgroup) -> None:
    assert after.row(neighbour.id) == before.row(neighbour.id)
    assert before.total(neighbour.id, VOLUNTARY) > 0, "it started, so it has a row"


def busy() -> int:
    """Nanoseconds that all CPUs have worked, as the kernel's ticks sample it."""
    user, nice, system, _, _, irq, softirq = Path("/proc/stat").read_text().split()[1:8]
    return sum(map(int, (user, nice, system, irq, softirq))) * 10**9 // os.sysconf("SC_CLK_TCK")


def assert_counted_once(before: Dump, after: Dump, worked: list[int], limit: float) -> None:
    """What a container has the host has not: all together have what the CPUs have worked.

    So the kernel says before and after each of the two snapshots.
    """
    if GUEST:  # its ticks are too coarse
        return
    everywhere = after.everywhere(ONCPU) - before.everywhere(ONCPU)
    assert 0.95 * (worked[2] - worked[1]) - limit <= everywhere
    assert everywhere <= 1.05 * (worked[3] - worked[0]) + limit


YIELDING = (
    PRELUDE
    + """
end = time.process_time() + {seconds}
while time.process_time() < end:
    until = time.process_time() + 0.003
    while time.process_time() < until: pass
    os.sched_yield()
gate()
"""
)


@pytest.mark.guest("cpu")
def test_wait_goes_to_the_one_that_waited(tmpfs: Path, cgroups: Cgroup) -> None:
    a, b = cgroups.child("hog.service"), cgroups.child("sleeper.service")
    with loader(tmpfs) as running, idle_neighbour(cgroups) as neighbour:
        # Of one real-time priority: neither interrupts the other, nor does anybody else get in.
        hog = Worker(a, YIELDING.format(seconds=1.5), cpu=CPU)
        sleeper = Worker(b, SLEEPER.format(times=200, seconds=0.002), cpu=CPU)
        for worker in (hog, sleeper):
            os.sched_setscheduler(worker.pid, os.SCHED_FIFO, os.sched_param(1))
        worked = [busy()]
        before, hog_before, sleeper_before = running.fresh(), hog.schedstat(), sleeper.schedstat()
        worked.append(busy())
        hog.go()
        sleeper.go()
        sleeper.stopped()
        hog.stopped()
        worked.append(busy())
        hog_after, sleeper_after, after = hog.schedstat(), sleeper.schedstat(), running.fresh()
        worked.append(busy())

    for cgroup, first, last in ((a, hog_before, hog_after), (b, sleeper_before, sleeper_after)):
        ran, waited, stints = (y - x for x, y in zip(first, last, strict=True))
        within(moved(before, after, cgroup.id, ONCPU), ran, 0.01)
        within(moved(before, after, cgroup.id, *WAITS), waited, 0.1)
        buckets = zip(before.row(cgroup.id)[LATENCY], after.row(cgroup.id)[LATENCY], strict=True)
        within(sum(y - x for x, y in buckets), stints, 0.01, slack=1)

    # The hog was in the way, and so it is said: held by another container, not by the host.
    waited = moved(before, after, b.id, *WAITS)
    other = WAITS[1]
    assert waited > 50e6, f"the sleeper waited {waited} ns only: this shows nothing"
    assert moved(before, after, b.id, other) > 0.8 * waited
    assert moved(before, after, b.id, WAITS[0]) < 0.05 * waited, "it never waited for itself"
    assert_unmoved(before, after, neighbour)
    assert_counted_once(before, after, worked, 0.2 * moved(before, after, a.id, ONCPU))


PING_PONG = """
import os, sys
os.sched_setaffinity(0, {%d})
a, b = os.pipe(), os.pipe()
child = os.fork()
if not child:
    os.close(a[0]), os.close(b[1])
    while os.read(b[0], 1): os.write(a[1], b"x")
    os._exit(0)
os.close(a[1]), os.close(b[0])
print(child, flush=True)
def gate():
    os.write(1, b"x")
    if not os.read(0, 1): sys.exit()
gate()
for _ in range(%d):
    os.write(b[1], b"x")
    os.read(a[0], 1)
gate()
"""


class PingPong(Worker):
    """Two processes that pass a byte to and fro, `times` times."""

    def __init__(self, cgroup: Cgroup, times: int, cpu: int = CPU) -> None:
        super().__init__(cgroup, PING_PONG % (cpu, times))

    def stopped(self) -> None:
        if not hasattr(self, "partner"):
            assert self.process.stdout
            line = b""
            while not line.endswith(b"\n"):
                line += self.process.stdout.read(1)
            self.partner = int(line)
        super().stopped()

    def both(self) -> tuple[int, int]:
        mine, self.pid, pid = self.switches(), self.partner, self.pid
        theirs, self.pid = self.switches(), pid
        return mine[0] + theirs[0], mine[1] + theirs[1]


def context_switches() -> int:
    """Of all CPUs, as the kernel counts them."""
    found = re.search(r"(?m)^ctxt (\d+)", Path("/proc/stat").read_text())
    assert found
    return int(found[1])


@pytest.mark.guest("cpu")
def test_context_switches(tmpfs: Path, cgroups: Cgroup) -> None:
    a = cgroups.child("pair.service")
    with loader(tmpfs) as running, idle_neighbour(cgroups) as neighbour:
        pair = PingPong(a, 20_000)
        first, before, status_before = context_switches(), running.fresh(), pair.both()
        second = context_switches()
        pair.go()
        pair.stopped()
        third, status_after = context_switches(), pair.both()
        after, last = running.fresh(), context_switches()

    voluntary, involuntary = (y - x for x, y in zip(status_before, status_after, strict=True))
    assert voluntary + involuntary >= 35_000
    within(moved(before, after, a.id, VOLUNTARY), voluntary, 0.01)
    within(moved(before, after, a.id, INVOLUNTARY), involuntary, 0.01, slack=2)
    assert_unmoved(before, after, neighbour)
    # What a container has the host has not: all together have what the kernel has counted.
    everywhere = after.everywhere(*SWITCHES) - before.everywhere(*SWITCHES)
    assert 0.99 * (third - second) <= everywhere <= 1.01 * (last - first)


def test_sum_is_what_the_kernel_counted(tmpfs: Path, cgroups: Cgroup) -> None:
    with loader(tmpfs) as running:
        pairs = [PingPong(cgroups.child(f"{i}.service"), 100_000, cpu=i) for i in range(2)]
        # Others switch, too: a snapshot lies between two readings.
        first, before, second = context_switches(), running.fresh(), context_switches()
        for pair in pairs:
            pair.go()
        for pair in pairs:
            pair.stopped()
        third, after, last = context_switches(), running.fresh(), context_switches()

    assert third - second > 200_000
    everywhere = after.everywhere(*SWITCHES) - before.everywhere(*SWITCHES)
    assert 0.99 * (third - second) <= everywhere <= 1.01 * (last - first)


SHORT = """
import os, time
while time.process_time() < 0.04: pass
for _ in range(10): time.sleep(0.002)
with open("/proc/self/schedstat") as f, open("/proc/self/status") as g:
    os.write(1, (f.read() + g.read()).encode())
"""


@pytest.mark.guest("cpu")
def test_short_life_between_two_snapshots(tmpfs: Path, cgroups: Cgroup) -> None:
    interval = 5.0 if GUEST else 3.0
    with loader(tmpfs, interval=interval) as running, idle_neighbour(cgroups) as neighbour:
        # Everything from here to the removal is far inside one interval, if not at the first time.
        for attempt in range(10):
            before = running.fresh()
            a = cgroups.child(f"short-{attempt}.service")
            said = subprocess.check_output(
                [sys.executable, "-S", "-c", SHORT], preexec_fn=a.enter, text=True
            )
            a.remove()
            if running.dump().sequence == before.sequence:
                break
        else:
            pytest.fail("a snapshot saw it live each time")
        after = running.fresh()
        slot, row = after.slot(a.id), after.row(a.id)
        later = running.fresh()

    assert slot
    assert slot["died_ns"] > slot["born_ns"] > before.monotonic_ns
    assert slot["died_ns"] - slot["born_ns"] < interval * 1e9
    ran = int(said.split()[0])
    within(row[ONCPU], ran, 0.1, slack=5e6 * SLOWNESS**2)  # it had still to read, write and exit
    switched = int(re.findall(r"\nvoluntary_ctxt_switches:\t(\d+)", said)[0])
    assert switched >= 10
    assert 10 <= row[VOLUNTARY] <= switched + 3 * SLOWNESS
    assert later.row(a.id) == row, "its last totals stay"
    assert_unmoved(before, after, neighbour)


# A thread that calls execve() takes the place, and the pid, of its process.
EXECS = (
    PRELUDE
    + """
import resource, threading
def work():
    end = time.thread_time() + 0.03
    while time.thread_time() < end: pass
    os.execv("/bin/true", ["true"])
for _ in range(10):
    pid = os.fork()
    if not pid:
        threading.Thread(target=work).start()
        time.sleep(60)
    os.waitpid(pid, 0)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
open({told!r}, "w").write(str(used.ru_utime + used.ru_stime))
gate()
"""
)


@pytest.mark.guest("cpu")
def test_thread_that_replaces_its_process(tmpfs: Path, cgroups: Cgroup) -> None:
    a, told = cgroups.child("a.service"), tmpfs / "told"
    with loader(tmpfs) as running:
        worker = Worker(a, EXECS.format(told=str(told)))
        before, at_start = running.fresh(), worker.schedstat()
        worker.go()
        worker.stopped()
        at_end, after = worker.schedstat(), running.fresh()
    children = float(told.read_text()) * 1e9
    assert children > 0.3e9
    # The kernel counts a child when it is dead, which is a little before its end.
    within(
        moved(before, after, a.id, ONCPU), children + at_end[0] - at_start[0], 0.01, 1e6 * SLOWNESS
    )


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("docker-" + "ab" * 32 + ".scope", marks=pytest.mark.guest("cpu")),
        "kubepods/besteffort/pod12345678-1234-1234-1234-1234567890ab",
        "kubepods.slice/kubepods-besteffort-pod12345678_1234_1234_1234_1234567890ab.slice",
    ],
)
def test_nested_cgroup_is_the_containers(tmpfs: Path, cgroups: Cgroup, name: str) -> None:
    with loader(tmpfs) as running, idle_neighbour(cgroups) as neighbour:
        container = cgroups.below(name)
        if "pod" in name:
            container = container.child("cri-containerd-" + "cd" * 32 + ".scope")
        inner = container.child("init.scope").child("worker.service").child("deep")
        hog = Worker(inner, HOG.format(seconds=0.5), cpu=CPU)
        worked = [busy()]
        before, first = running.fresh(), hog.schedstat()
        worked.append(busy())
        hog.go()
        hog.stopped()
        worked.append(busy())
        last, after = hog.schedstat(), running.fresh()
        worked.append(busy())

    within(moved(before, after, container.id, ONCPU), last[0] - first[0], 0.01)
    assert last[0] - first[0] > 0.3e9
    assert after.slot(inner.id) is None
    assert_unmoved(before, after, neighbour)
    assert_counted_once(before, after, worked, 0.2e9)


@pytest.mark.guest("cpu")
def test_tree_that_was_there_before_the_loader(tmpfs: Path, cgroups: Cgroup) -> None:
    container = cgroups.child("cri-containerd-" + "ef" * 32 + ".scope")
    hog = Worker(container.child("inner"), HOG.format(seconds=0.5), cpu=CPU)
    with loader(tmpfs) as running:
        before, first = running.fresh(), hog.schedstat()
        hog.go()
        hog.stopped()
        last, after = hog.schedstat(), running.fresh()
    within(moved(before, after, container.id, ONCPU), last[0] - first[0], 0.01)
    # What it did before the loader's start is not the loader's to count.
    assert before.total(container.id, ONCPU) < 5e6


def test_running_task_is_in_the_snapshot(tmpfs: Path, cgroups: Cgroup) -> None:
    """A hog that does not leave its CPU by itself is booked up to each snapshot."""
    a = cgroups.child("hog.service")
    with loader(tmpfs, interval=0.5) as running:
        hog = Worker(a, HOG.format(seconds=30), cpu=CPU, nice=-20)
        hog.go()
        # What the scheduler says before and after each snapshot; of who runs, up to the last tick.
        low0, first, high0 = hog.schedstat()[0], running.fresh(), hog.schedstat()[0]
        wait_for("half a second of work", lambda: hog.schedstat()[0] > high0 + 500_000_000)
        low1, second, high1 = hog.schedstat()[0], running.fresh(), hog.schedstat()[0]
        hog.end()
    booked = moved(first, second, a.id, ONCPU)
    assert low1 - high0 - TICK <= booked <= high1 - low0 + TICK


@pytest.mark.guest("cpu")
def test_move_between_cgroups(tmpfs: Path, cgroups: Cgroup) -> None:
    """Work is charged to where the task is when it is done."""
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    code = 2 * HOG.format(seconds=0.4)
    with loader(tmpfs) as running:
        worker = Worker(a, code, cpu=CPU)
        start, at_start = running.fresh(), worker.schedstat()
        worker.go()
        worker.stopped()
        (b.path / "cgroup.procs").write_text(str(worker.pid))
        half, at_half = running.fresh(), worker.schedstat()
        worker.go()
        worker.stopped()
        worker.go()
        worker.stopped()
        end, at_end = running.fresh(), worker.schedstat()
    within(moved(start, half, a.id, ONCPU), at_half[0] - at_start[0], 0.01)
    within(moved(half, end, b.id, ONCPU), at_end[0] - at_half[0], 0.01, slack=1e6)
    assert at_end[0] - at_half[0] > 0.3e9
    assert moved(half, end, a.id, ONCPU) < 1e6


def usage_ns(cgroup: Cgroup) -> int:
    """What the kernel charged the cgroup with, from tick to tick (update_curr())."""
    found = re.search(r"(?m)^usage_usec (\d+)$", (cgroup.path / "cpu.stat").read_text())
    assert found
    return int(found[1]) * 1000


@pytest.mark.guest("cpu")
@pytest.mark.parametrize("who", ["main", "thread"])
def test_move_of_a_task_that_runs(tmpfs: Path, cgroups: Cgroup, who: str) -> None:
    """Somebody else moves it in the middle of one stint: each cgroup has what it ran there.

    The hook sees the main thread of a process that is moved; its other threads are moved too.
    """
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    burn = "end = time.thread_time() + 1\nwhile time.thread_time() < end: pass\n"
    if who == "thread":
        lines = "".join(f"  {line}\n" for line in burn.splitlines())
        burn = (
            f"import threading\ndef burn():\n{lines}"
            "thread = threading.Thread(target=burn)\nthread.start()\nthread.join()\n"
        )
    # With the highest of the ordinary priorities: it is moved in the middle of a long stint.
    with loader(tmpfs) as running:
        worker = Worker(a, f"{PRELUDE}os.nice(-20)\n{burn}gate()\n", cpu=CPU)
        before, charged = running.fresh(), (usage_ns(a), usage_ns(b))
        worker.go()
        wait_for("half of the work", lambda: usage_ns(a) - charged[0] > 0.4e9)
        (b.path / "cgroup.procs").write_text(str(worker.pid))
        worker.stopped()
        after = running.fresh()
        charged = (usage_ns(a) - charged[0], usage_ns(b) - charged[1])
    assert charged[1] > 0.1e9
    # A tick, which in a slow guest is late: the kernel charges the time since the last one to b.
    slack = 10e6 * SLOWNESS
    within(moved(before, after, a.id, ONCPU), charged[0], 0.02, slack)
    within(moved(before, after, b.id, ONCPU), charged[1], 0.02, slack)
