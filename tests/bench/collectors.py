"""Nanoseconds of BPF per event: each collector, and the libbpf-tools program that is like it.

Ours, theirs and an empty program on the same hook are attached at the same time and see the same
events. The kernel itself measures each program (kernel.bpf_stats_enabled); the cost of measuring
is the empty program's figure and is taken off. Who attaches first, and so runs first, changes from
round to round.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from tests.live import wait_for

BUILD = Path("build")
STATS = Path("/proc/sys/kernel/bpf_stats_enabled")
SESSIONS = 4
WINDOWS = 3
SECONDS = 0.7

# What workload() runs: each is an endless loop.
PIPES = """
a, b = os.pipe(), os.pipe()
os.sched_setaffinity(0, {0})
if os.fork():
    os.write(b[1], b"x")
    while os.read(a[0], 1): os.write(b[1], b"x")
while os.read(b[0], 1): os.write(a[1], b"x")
"""
PROCESSES = """
while True: os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)
"""
SOCKETS = """
import socket
kind = socket.SOCK_STREAM
def pair():
    listener = socket.create_server(("127.0.0.1", 0))
    while True:
        client = socket.create_connection(listener.getsockname())
        yield client, listener.accept()[0]
"""
CONNECTIONS = (
    SOCKETS
    + """
for client, server in pair():
    server.close()
    client.recv(1)
    client.close()
"""
)
MESSAGES = (
    SOCKETS
    + """
client, server = next(pair())
while True:
    client.send(bytes(64))
    server.recv(64)
"""
)
REFUSED = """
import socket
nobody = socket.socket()
nobody.bind(("127.0.0.1", 0))
while True:
    client = socket.socket()
    client.connect_ex(nobody.getsockname())
    client.close()
"""
DATAGRAMS = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 0))
s.connect(s.getsockname())
while True:
    s.send(bytes(64))
    s.recv(64)
"""
FAULTS = """
import mmap
while True:
    m = mmap.mmap(-1, 64 << 20)
    for at in range(0, 64 << 20, 4096): m[at] = 1
    m.close()
"""
FILE = """
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 1 << 20)
os.write(fd, bytes(1 << 20))
"""
READS = (
    FILE
    + """
while True: os.pread(fd, 4096, 0)
"""
)
DISK = (
    FILE
    + """
while True:
    os.pwrite(fd, bytes(4096), 0)
    os.fdatasync(fd)
"""
)


def number(path: str, pattern: str) -> Callable[[int], int]:
    """The sum of a number that stands in a file of the kernel; {pid} is the workload's."""

    def read(pid: int) -> int:
        text = Path(path.format(pid=pid)).read_text()
        return sum(map(int, re.findall(pattern, text, re.MULTILINE)))

    return read


def snmp(protocol: str, name: str) -> Callable[[int], int]:
    def read(_pid: int) -> int:
        lines = Path("/proc/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith(f"{protocol}:"))
        return int(values[names.index(name)])

    return read


@dataclass(frozen=True)
class Case:
    """ratio: what ours may cost of theirs; cost: how many ns it may, whatever theirs does."""

    collector: str
    event: str
    events: Callable[[int], int]
    hook: str  # of the empty program: one that this workload runs
    workload: str
    tool: tuple[str, ...] = ()
    ratio: float = 1.0
    cost: float | None = None


SWITCHES = number("/proc/stat", r"^ctxt (\d+)")
PROCESSES_MADE = number("/proc/stat", r"^processes (\d+)")
PAGE_FAULTS = number("/proc/vmstat", r"^pgfault (\d+)")
READ_CALLS = number("/proc/{pid}/io", r"^syscr: (\d+)")
HARDIRQS = number("/proc/stat", r"^intr (\d+)")
SOFTIRQS = number("/proc/softirqs", r" (\d+)")
WRITES = number("/proc/diskstats", r"^ *\d+ +\d+ [a-z]+ \d+ \d+ \d+ \d+ (\d+)")

CASES = (
    Case("cpu", "context switch", SWITCHES, "sched_switch", PIPES, ("runqlat", "3600", "1"), 0.5),
    Case(
        *("exec", "fork, exec and exit", PROCESSES_MADE, "sched_process_exec", PROCESSES),
        ("execsnoop",),
    ),
    Case(
        *("tcp", "connection", snmp("Tcp", "ActiveOpens"), "inet_sock_set_state", CONNECTIONS),
        ("tcplife",),
    ),
    Case("tcp", "message", snmp("Tcp", "OutSegs"), "sys_enter", MESSAGES, ("tcptop",), cost=0),
    Case("tcpdrop", "dropped SYN", snmp("Tcp", "OutRsts"), "kfree_skb", REFUSED),
    Case("udp", "datagram", snmp("Udp", "OutDatagrams"), "sys_enter", DATAGRAMS),
    Case("cpu", "page fault", PAGE_FAULTS, "sys_enter", FAULTS),
    Case("biolatency", "write", WRITES, "block_rq_complete", DISK, ("biolatency", "-QD")),
    Case("cachestat", "page read", READ_CALLS, "sys_enter", READS, ("cachestat",)),
    Case("syscall", "system call", READ_CALLS, "sys_enter", READS, ("syscount", "-L")),
    Case("hardirqs", "interrupt", HARDIRQS, "irq_handler_entry", DISK, ("hardirqs", "-d")),
    Case("softirqs", "soft interrupt", SOFTIRQS, "softirq_entry", DATAGRAMS, ("softirqs", "-d")),
)


@contextmanager
def running(*command: str) -> Iterator[int]:
    """A process whose BPF programs are attached: its pid. Ended by SIGINT afterwards."""
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    seen: list[tuple[int, int]] = []

    def settled() -> bool:
        """Has as many programs and links as it had half a second ago, and some."""
        if process.poll() is not None:
            raise RuntimeError(f"{command[0]} does not run here")
        seen.append((len(programs(process.pid)), len(os.listdir(f"/proc/{process.pid}/fd"))))
        time.sleep(0.1)
        return len(seen) > 5 and seen[-6] == seen[-1] and seen[-1][0] > 0

    try:
        wait_for(f"{command[0]} to attach", settled, 60)
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate()


@contextmanager
def workload(code: str) -> Iterator[int]:
    file = BUILD / "bench/file"  # on a disk
    command = [sys.executable, "-c", f"import os, sys\n{code}", str(file)]
    process = subprocess.Popen(command, start_new_session=True)
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        file.unlink(missing_ok=True)


def programs(pid: int) -> dict[int, tuple[int, int]]:
    """id -> (ns, runs) of every program that the process holds."""
    found = {}
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            fields = dict(re.findall(r"(?m)^(\w+):\s+(\d+)$", info.read_text()))
        except FileNotFoundError:
            continue
        if "run_cnt" in fields:
            found[int(fields["prog_id"])] = int(fields["run_time_ns"]), int(fields["run_cnt"])
    return found


def grown(before: dict[int, tuple[int, int]], after: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """(ns, runs) of all programs together."""
    start = {i: before.get(i, (0, 0)) for i in after}
    return (
        sum(ns - start[i][0] for i, (ns, _) in after.items()),
        sum(runs - start[i][1] for i, (_, runs) in after.items()),
    )


def with_tracefs(case: Case) -> tuple[str, ...]:
    """The tool's command. It wants tracefs, which is not mounted everywhere."""
    mount = 'mount -t tracefs tracefs /sys/kernel/tracing 2>/dev/null; exec "$@"'
    return ("unshare", "-m", "sh", "-c", mount, "sh", *case.tool)


def attaches(case: Case) -> bool:
    try:
        with running(*with_tracefs(case)):
            return True
    except RuntimeError:
        return False


def session(case: Case, directory: str, ours_first: bool) -> list[tuple[float, float]]:
    """(ours, theirs) of each window, in ns an event, net of the empty program."""
    loader = (
        *(str(BUILD / "kpod-loader"), "run", "--segment", f"{directory}/segment"),
        *("--interval", "3600", "--max-overhead", "0", "--collectors", case.collector),
    )
    tool = with_tracefs(case)
    empty = str(BUILD / "bench/empty"), str(BUILD / "bench/empty.bpf.o"), case.hook
    commands = [loader, empty, tool] if ours_first else [tool, loader, empty]
    if not case.tool:
        commands.remove(tool)
    windows = []
    with ExitStack() as stack:
        pids = {command: stack.enter_context(running(*command)) for command in commands}
        worker = stack.enter_context(workload(case.workload))
        time.sleep(0.3)
        for _ in range(WINDOWS):
            events = case.events(worker)
            before = {command: programs(pid) for command, pid in pids.items()}
            time.sleep(SECONDS)
            after = {command: programs(pid) for command, pid in pids.items()}
            events = case.events(worker) - events
            spent = {command: grown(before[command], after[command]) for command in commands}
            floor = spent[empty][0] / spent[empty][1]
            ours, theirs = (
                (spent[c][0] - spent[c][1] * floor) / events if c in spent else 0.0
                for c in (loader, tool)
            )
            windows.append((ours, theirs))
    return windows


def measure(case: Case) -> bool:
    """Prints a row; true if it is as wanted."""
    tool = " ".join(case.tool)
    if case.tool and not attaches(case):
        tool += " (does not attach to this kernel)"
        case = replace(case, tool=())
    with tempfile.TemporaryDirectory(dir="/dev/shm") as where:
        windows = [w for i in range(SESSIONS) for w in session(case, where, bool(i % 2))]
    ours, theirs = (median(w[i] for w in windows) for i in (0, 1))
    ratio = median(w[0] / w[1] for w in windows) if case.tool else 0.0
    row = [case.collector, case.event, f"{ours:.0f}", tool]
    row += [f"{theirs:.0f}", f"{ratio:.2f}"] if case.tool else ["", ""]
    if case.cost is not None:
        good = round(ours) <= case.cost
        row.append(f"at most {case.cost:.0f} ns")
    else:
        good = ratio <= case.ratio
        row.append(f"at most {case.ratio:.2f}" if case.tool else "")
    print(f"| {' | '.join(row)} |{'' if good else ' **missed**'}")
    return good


def main() -> bool:
    """Prints the figures; true if they are as wanted."""
    was = STATS.read_text()
    STATS.write_text("1")
    print(
        f"BPF, ns per event net of an empty program; median of {SESSIONS * WINDOWS} windows of "
        f"{SECONDS} s:\n\n"
        "| collector | event | ns | libbpf-tools | its ns | ratio | wanted |\n"
        "|---|---|---|---|---|---|---|"
    )
    try:
        good = [measure(case) for case in CASES]
    finally:
        STATS.write_text(was)
    return all(good)


if __name__ == "__main__":
    sys.exit(not main())
