"""Real loaders, real cgroups and known workloads, for the tests that need root and a kernel."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOADER = ROOT / "build/kpod-loader"
TEST_LOADER = ROOT / "build/kpod-loader-test"  # has --inject-load-failure

GUEST = os.environ.get("KPOD_GUEST")  # the kernel that tests/vm runs us on
SLOWNESS = 10 if GUEST else 1  # as the guest's CPUs are emulated
# Cgroups below which there may be a kubelet's: each test's tree is a node of its own.
nodes: list[str] = []
# The collectors that the test at hand needs; in a guest its loaders load no others, to save time.
needed: tuple[str, ...] = ()

VOLUNTARY = "kpod_cpu_context_switches_total{voluntary}"
INVOLUNTARY = "kpod_cpu_context_switches_total{involuntary}"
IDLE = "kpod_cpu_context_switches_total{idle}"
SWITCHES = (VOLUNTARY, INVOLUNTARY, IDLE)
ONCPU = "kpod_cpu_oncpu_seconds_total"  # dumps show the word itself: nanoseconds
WAITS = tuple(
    f"kpod_cpu_runqueue_wait_seconds_total{{{who}}}" for who in ("self", "other", "host", "idle")
)
LATENCY = "kpod_cpu_runqueue_latency_seconds"


def missing() -> str:
    """Why no loader can run here, or an empty string."""
    if os.getuid():
        return "needs root"
    if not Path("/sys/kernel/btf/vmlinux").exists():
        return "needs a kernel with BTF (/sys/kernel/btf/vmlinux)"
    return ""


def collectors(doctor: str) -> dict[str, tuple[bool, str]]:
    """From what `kpod-loader doctor --json` says: which collectors are up, with how or why not."""
    checks = json.loads(doctor)["checks"]
    first = next(i for i, check in enumerate(checks) if check["name"] == "maps") + 1
    return {check["name"]: (check["state"] != "no", check["text"]) for check in checks[first:]}


def message(line: str) -> str:
    """A line of the log of `run` without its time and level."""
    return re.sub(r"^[\d-]+T[\d:.]+Z (?:info|warning|error) (?=kpod-loader: )", "", line)


def kernel_has(name: str) -> bool:
    """Whether the running kernel's BTF has a type, a member or an argument of this name."""
    return f"\0{name}\0".encode() in Path("/sys/kernel/btf/vmlinux").read_bytes()


def hides_process_1() -> bool:
    """Whether the kernel runs no tracing program while a thread of process 1 has the CPU.

    So do kernels of some sandboxes, this project's own among them: programs have an `init_owned`.
    Interrupts that come then are not seen, nor counted as missed, by anybody's programs or perf.
    """
    return kernel_has("init_owned")


def softirqs() -> dict[str, int]:
    """By vector, as the kernel counts them."""
    lines = Path("/proc/softirqs").read_text().splitlines()[1:]
    return {
        name.strip().lower(): sum(map(int, counts.split()))
        for name, counts in (line.split(":") for line in lines)
    }


def cgroup2() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            return Path(mount.split()[4])
    raise RuntimeError("no cgroup2 is mounted")


def wait_for(what: str, look: Callable[[], Any], timeout: float = 60) -> Any:
    """The first true answer of look(). On a busy machine it may take long."""
    end = time.monotonic() + timeout * SLOWNESS
    while not (answer := look()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.01)
    return answer


@dataclass
class Dump:
    """What `kpod-loader dump --json --raw` says."""

    sequence: int
    monotonic_ns: int
    slots: dict[tuple[int, int], dict[str, Any]] = field(default_factory=dict)
    rows: dict[tuple[str, int, int], dict[str, Any]] = field(default_factory=dict)
    keyed: list[dict[str, Any]] = field(default_factory=list)  # rows of tables with keys

    @classmethod
    def of(cls, segment: Path) -> "Dump":
        command = [str(LOADER), "dump", str(segment), "--json", "--raw"]
        first, *rest = subprocess.check_output(command, text=True).splitlines()
        head = json.loads(first)
        dump = cls(head["sequence"], head["monotonic_ns"])
        for item in map(json.loads, rest):
            owner = item["slot"], item["generation"]
            if item["type"] == "slot":
                dump.slots[owner] = item
            elif item["keys"]:
                dump.keyed.append(item)
            else:
                dump.rows[item["table"], *owner] = item
        return dump

    def slot(self, cgroup_id: int) -> dict[str, Any] | None:
        return next((s for s in self.slots.values() if s["cgroup_id"] == cgroup_id), None)

    def row(self, cgroup_id: int, table: str = "cpu") -> dict[str, Any]:
        """The totals of a cgroup; without a row all is zero."""
        slot = self.slot(cgroup_id)
        assert slot, f"cgroup {cgroup_id} has no slot"
        return self.rows.get((table, slot["slot"], slot["generation"]), {})

    def by_key(self, cgroup_id: int, table: str) -> dict[tuple[str, ...], dict[str, Any]]:
        """The totals of a cgroup in a table with keys."""
        slot = self.slot(cgroup_id)
        assert slot, f"cgroup {cgroup_id} has no slot"
        owner = slot["slot"], slot["generation"]
        return {
            tuple(row["keys"]): row
            for row in self.keyed
            if row["table"] == table and (row["slot"], row["generation"]) == owner
        }

    def node(self, table: str) -> dict[str, int]:
        """The only row of a table of the node."""
        row = self.rows[table, 0, 0]
        return {name: value for name, value in row.items() if name.startswith("kpod_")}

    def total(self, cgroup_id: int, *columns: str) -> int:
        row = self.row(cgroup_id)
        return sum(row.get(c, 0) for c in columns)

    @property
    def loader(self) -> dict[str, Any]:
        return next(row for (table, _, _), row in self.rows.items() if table == "loader")

    @property
    def missed(self) -> int:
        """Events that programs have not counted."""
        return sum(
            r["kpod_bpf_program_misses_total"] for r in self.keyed if r["table"] == "programs"
        )

    def durations(self, table: str, column: str) -> dict[str, int]:
        """How many there are in a histogram, by the table's only key."""
        return {r["keys"][0]: sum(r[column]) for r in self.keyed if r["table"] == table}

    def everywhere(self, *columns: str) -> int:
        return sum(
            row[c] for (table, _, _), row in self.rows.items() if table == "cpu" for c in columns
        )


HOST = 1  # cgroup id of the root, and so of slot 0


class Loader:
    """A running loader."""

    def __init__(self, segment: Path, process: "subprocess.Popen[str]", interval: float) -> None:
        self.segment = segment
        self.process = process
        self.interval = interval
        self.log: list[str] = []

    def dump(self) -> Dump:
        return Dump.of(self.segment)

    def fresh(self) -> Dump:
        """A snapshot that was begun after this call."""
        now = time.monotonic_ns() + 2_000_000  # births settle for a millisecond

        def look() -> Dump | None:
            dump = self.dump()
            return dump if dump.monotonic_ns > now else None

        dump = wait_for("a new snapshot", look, 60 + 3 * self.interval)
        assert isinstance(dump, Dump)
        return dump

    def shows(self, what: str, check: Callable[[Dump], object]) -> Dump:
        """A new snapshot that passes: what slow sources have read may come in a later one."""

        def look() -> Dump | None:
            dump = self.fresh()
            return dump if check(dump) else None

        dump = wait_for(what, look, 60)
        assert isinstance(dump, Dump)
        return dump

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        rest = self.process.communicate(timeout=60 * SLOWNESS)[1].splitlines()
        self.log += map(message, rest)
        return self.process.returncode


@contextmanager
def loader(
    directory: Path,
    *options: str,
    interval: float = 0.2,
    program: Path = LOADER,
    prefix: Sequence[str] = (),
) -> Iterator[Loader]:
    """A loader that has taken its first snapshot."""
    segment = directory / "segment"
    if GUEST and needed:
        options = ("--collectors", ",".join(needed), *options)
    process = subprocess.Popen(
        [
            *(*prefix, str(program), "run", "--segment", str(segment)),
            *("--interval", str(interval)),
            *("--cgroup-root", ",".join(nodes) or "/"),
            *("--max-overhead", "0", *options),  # storms are what some tests are for
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    running = Loader(segment, process, interval)
    assert process.stderr
    try:
        while not running.log or "snapshots every" not in running.log[-1]:
            line = process.stderr.readline()
            if not line:
                raise RuntimeError(f"the loader ended: {running.log}")
            running.log.append(message(line.strip()))
        yield running
    finally:
        running.stop()


class Cgroup:
    """A cgroup of our own."""

    def __init__(self, path: Path, there: bool = False) -> None:
        if not there:
            path.mkdir()
        self.path = path
        self.id = path.stat().st_ino

    def child(self, name: str) -> "Cgroup":
        return Cgroup(self.path / name)

    def below(self, path: str) -> "Cgroup":
        """The cgroup at this path; it and all above it are made if they are not there."""
        found = self
        for part in path.strip("/").split("/"):
            there = found.path / part
            found = Cgroup(there, there=there.exists())
        return found

    def enter(self) -> None:
        """For subprocess's preexec_fn."""
        (self.path / "cgroup.procs").write_text("0")

    def remove(self) -> None:
        """With everything below it and every process in it."""
        if not self.path.exists():
            return
        if (kill := self.path / "cgroup.kill").exists():  # since 5.14
            kill.write_text("1")
        else:
            for processes in self.path.rglob("cgroup.procs"):
                for pid in processes.read_text().split():
                    os.kill(int(pid), signal.SIGKILL)
        for directory, _, _ in os.walk(self.path, topdown=False):

            def removed(directory: str = directory) -> bool:
                with suppress(OSError):
                    os.rmdir(directory)
                return not os.path.exists(directory)

            wait_for(f"{directory} to be empty", removed)


@contextmanager
def cgroup_tree() -> Iterator[Cgroup]:
    """A directory for the cgroups of one test. It is no container itself, but a node's root."""
    name = f"kpod-test-{os.getpid()}-{time.monotonic_ns()}"
    top = Cgroup(cgroup2() / name)
    nodes.append(f"/{name}")
    try:
        yield top
    finally:
        nodes.remove(f"/{name}")
        top.remove()


@contextmanager
def node_root(path: str) -> Iterator[None]:
    """A node whose cgroups somebody else makes and removes."""
    nodes.append(path)
    try:
        yield
    finally:
        nodes.remove(path)


PRELUDE = """
import os, sys, time
def gate():
    os.write(1, b"x")
    if not os.read(0, 1): sys.exit()
gate()
"""
# Works until it has had a CPU for as long as told, and then waits to be read.
HOG = (
    PRELUDE
    + """
end = time.process_time() + {seconds}
while time.process_time() < end: pass
gate()
"""
)
SLEEPER = PRELUDE + "for _ in range({times}): time.sleep({seconds})\ngate()\n"
IDLER = PRELUDE + "gate()\n"


class Worker:
    """A process in a cgroup that stands still before and after its work."""

    def __init__(self, cgroup: Cgroup, code: str, *, cpu: int | None = None, nice: int = 0) -> None:
        def prepare() -> None:
            cgroup.enter()
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})
            os.nice(nice)

        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            preexec_fn=prepare,
            bufsize=0,
        )
        self.pid = self.process.pid
        self.stopped()

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write(b"x")

    def stopped(self) -> None:
        """Waits until it waits: its numbers do not move any more."""
        assert self.process.stdout
        assert self.process.stdout.read(1) == b"x", "the worker died"
        state = Path(f"/proc/{self.pid}/stat")
        wait_for("a blocked worker", lambda: state.read_text().rsplit(") ", 1)[1][0] == "S")

    def schedstat(self) -> tuple[int, int, int]:
        """(ns on CPU, ns waiting, stints): the scheduler's own totals."""
        ran, waited, stints = Path(f"/proc/{self.pid}/schedstat").read_text().split()
        return int(ran), int(waited), int(stints)

    def switches(self) -> tuple[int, int]:
        """(voluntary, involuntary): the scheduler's own totals."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.findall(r"voluntary_ctxt_switches:\t(\d+)", status)
        return int(found[0]), int(found[1])

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def unprivileged(*command: str) -> list[str]:
    """The command as uid 65534, without any capability or a way to get one."""
    setpriv = shutil.which("setpriv")
    assert setpriv
    return [
        *(setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"),
        *("--bounding-set=-all", "--no-new-privs", *command),
    ]


def same_time(ns: int, expected: int) -> bool:
    """But for single switches that a kernel may hide from BPF programs: rare, about a tick each."""
    return expected > 0 and abs(ns - expected) <= 0.02 * expected + 3e6


def exact(running: Loader, cgroup: Cgroup, inside: Cgroup | None = None) -> Dump:
    """A known time on CPU, inside the cgroup or one below it, is the cgroup's; and then a dump."""
    hog = Worker(inside or cgroup, HOG.format(seconds=0.3))
    before, spent = running.fresh(), hog.schedstat()[0]
    hog.go()
    hog.stopped()
    spent = hog.schedstat()[0] - spent
    after = running.fresh()
    assert same_time(after.total(cgroup.id, ONCPU) - before.total(cgroup.id, ONCPU), spent)
    return after


def mounted(script: str) -> list[str]:
    """A command in a mount namespace of its own, after this script."""
    return [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-c",
        f'{script} && exec "$@"',
        "-",
    ]


WITHOUT_TRACEFS = mounted(
    "for d in tracing debug; do mount -t tmpfs none /sys/kernel/$d || :; done"
)
