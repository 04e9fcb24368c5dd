#!/usr/bin/env bash
# A cgroup's cpu.pressure is a mean over CPUs: one task that always runs halves the stall of another, and "full" rises though it runs.
#
# Setting   Linux 6.18, cgroup2. In cgroup A one task shares its CPU with a task of cgroup B, half and half, for four seconds; then
#           the same while a second task of A, by SCHED_FIFO, has another CPU and never waits.
# Guess     Documentation/accounting/psi.rst: "some" is the share of time in which at least some tasks are stalled, "full" that in which
#           all non-idle tasks are at the same time. So some is 2 s both times; full is 2 s, and then next to nothing, as one of A runs.
# Seen      With the second task some falls to about 1 s, and full is the same 1 s. The kernel takes both on each CPU alone and
#           adds them up weighted by how long the CPU had anything to do for the group (collect_percpu_times()).
# So        Pressure is not the time in which somebody waited, and full not that in which nobody worked, wherever a container has
#           more than one CPU: the more of its threads run, the smaller both are. Time that tasks waited is in schedstat.
set -euo pipefail
skip() { echo "skipped: $*"; exit 77; }
[ "$(id -u)" = 0 ] || skip "making cgroups needs root"
[ "$(nproc)" -ge 2 ] || skip "needs two CPUs"
root=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[ -n "$root" ] || skip "there is no cgroup2"
[ -r /proc/pressure/cpu ] || skip "the kernel has no PSI"
python3 - "$root" <<'PY'
import os
import subprocess
import sys
import time

SECONDS = 4
groups = [f"{sys.argv[1]}/finding-{os.getpid()}-{name}" for name in "ab"]
first, second = sorted(os.sched_getaffinity(0))[:2]


def burner(group: str, cpu: int, fifo: bool = False) -> subprocess.Popen:
    def prepare() -> None:
        with open(f"{group}/cgroup.procs", "w") as file:
            file.write("0")
        os.sched_setaffinity(0, {cpu})
        if fifo:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

    return subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"], preexec_fn=prepare)


def pressure() -> list[float]:
    with open(f"{groups[0]}/cpu.pressure") as file:
        return [int(line.rsplit("=", 1)[1]) / 1e6 for line in file]


def waited(process: subprocess.Popen) -> float:
    with open(f"/proc/{process.pid}/schedstat") as file:
        return int(file.read().split()[1]) / 1e9


def measure(with_second: bool) -> list[float]:
    """Seconds: some, full, and what the first task and the second have waited."""
    tasks = [burner(groups[0], first), burner(groups[1], first)]
    try:
        if with_second:
            tasks.append(burner(groups[0], second, fifo=True))
        time.sleep(0.5)
        of_a = [tasks[0], tasks[-1]]
        before = pressure() + [waited(task) for task in of_a]
        time.sleep(SECONDS)
        return [now - then for then, now in zip(before, pressure() + [waited(task) for task in of_a])]
    finally:
        for task in tasks:
            task.kill()
            task.wait()


made = []
try:
    for group in groups:
        os.mkdir(group)
        made.append(group)
    alone, both = measure(False), measure(True)
except PermissionError as error:
    print(f"skipped: {error}")
    sys.exit(77)
finally:
    time.sleep(0.2)
    for group in made:
        os.rmdir(group)
print("alone: some {:.2f} s, full {:.2f} s, waited {:.2f} s".format(*alone))
print("with a second task that runs: some {:.2f} s, full {:.2f} s, waited {:.2f} s and {:.2f} s".format(*both))
if both[3] > SECONDS / 4:
    print("skipped: the second task had to wait, too: the machine is too busy")
    sys.exit(77)
sys.exit(not (alone[0] > 0.9 * alone[2] and both[0] < 0.8 * both[2] and both[1] > 0.3 * both[2]))
PY
echo "as described"
