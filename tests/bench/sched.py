"""Nanoseconds per context switch of our scheduler programs and of libbpf-tools' runqlat.

Ours, runqlat's and an empty program are attached at the same time and see the same events, which a
pair of processes makes by passing a byte through pipes on one CPU. The kernel itself measures each
program (kernel.bpf_stats_enabled); the cost of measuring is the empty program's figure and is taken
off. Who attaches first, and so runs first, changes from round to round.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
ROUNDS = 6
SECONDS = 2.0
OURS = ("kpod_cpu_switch", "kpod_cpu_fork")
RUNQLAT = ("sched_wakeup", "sched_wakeup_new", "sched_switch")


@contextmanager
def running(*command: str, ready: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said `ready` on its output; ended by SIGINT afterwards."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    try:
        while ready not in (line := process.stdout.readline()):
            if not line:
                raise RuntimeError(f"{command[0]} ended before it was ready")
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


@contextmanager
def ping_pong(cpu: int) -> Iterator[None]:
    """Two processes on one CPU that wake each other without end."""
    code = f"""
import os
os.sched_setaffinity(0, {{{cpu}}})
a, b = os.pipe(), os.pipe()
if os.fork():
    os.write(b[1], b"x")
    while os.read(a[0], 1): os.write(b[1], b"x")
else:
    while os.read(b[0], 1): os.write(a[1], b"x")
"""
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def programs() -> dict[str, tuple[int, int]]:
    """Name -> (ns, runs) of every loaded tracing program."""
    listed = json.loads(subprocess.check_output(["bpftool", "--json", "prog", "show"]))
    return {
        p["name"]: (p.get("run_time_ns", 0), p.get("run_cnt", 0))
        for p in listed
        if p["type"] == "tracing" and "name" in p
    }


def one_round(loader: Path, empty: Path, segment: Path, ours_first: bool) -> tuple[float, float]:
    """(ours, runqlat) in ns per context switch, net of the empty program."""
    # The kernel shows at most 15 bytes of a name.
    ours, theirs = [n[:15] for n in OURS], [n[:15] for n in RUNQLAT]
    with ExitStack() as stack:
        tools = [
            # stdbuf: it does not flush what it says.
            running("stdbuf", "-oL", "runqlat", "3600", "1", ready="Tracing"),
            running(str(loader), "run", "--segment", str(segment), ready="snapshots every"),
        ]
        for tool in reversed(tools) if ours_first else tools:
            stack.enter_context(tool)
        stack.enter_context(running(str(empty), f"{empty}.bpf.o", ready="attached"))
        stack.enter_context(ping_pong(0))
        time.sleep(0.5)
        before = programs()
        time.sleep(SECONDS)
        after = programs()

    def spent(name: str) -> tuple[int, int]:
        if name not in after:
            return 0, 0
        first = before.get(name, (0, 0))
        return after[name][0] - first[0], after[name][1] - first[1]

    floor_ns, switches = spent("empty_switch")
    floor = floor_ns / switches

    def net(names: list[str]) -> float:
        found = [spent(n) for n in names]
        if not any(runs for _, runs in found):
            raise RuntimeError(f"{names} did not run")
        return sum(ns - runs * floor for ns, runs in found) / switches

    return net(ours), net(theirs)


def main(build: Path) -> bool:
    """Prints the figures; true if ours cost at most half of runqlat's."""
    segment = Path(f"/dev/shm/kpod-bench.{os.getpid()}")
    was = STATS.read_text()
    STATS.write_text("1")
    try:
        rounds = [
            one_round(build / "kpod-loader", build / "bench/empty", segment, bool(i % 2))
            for i in range(ROUNDS)
        ]
    finally:
        STATS.write_text(was)
    ours, theirs = (median(r[i] for r in rounds) for i in (0, 1))
    ratio = median(r[0] / r[1] for r in rounds)
    print(f"scheduler, ns per context switch net of an empty program, median of {ROUNDS} rounds:")
    print(f"  kpod-metrics cpu      {ours:8.0f}")
    print(f"  libbpf-tools runqlat  {theirs:8.0f}")
    print(f"  ratio                 {ratio:8.2f}   (wanted: at most 0.50)")
    return ratio <= 0.5


if __name__ == "__main__":
    sys.exit(not main(Path("build")))
