"""What the BPF programs cost, and what is shed when it is too much."""

import re
import time
from functools import partial
from pathlib import Path
from typing import Any

from aggregator.pods.resolver import standalone
from aggregator.segment.schema import Collector
from aggregator.segment.store import Store
from tests.live import HOST, ONCPU, PRELUDE, TEST_LOADER, Cgroup, Dump, Loader, Worker, loader
from tests.live import wait_for as wait

# Calls until it is told to stop, and says how many it made.
STORM = (
    PRELUDE
    + """
import select
n = 0
while not select.select([0], [], [], 0)[0]:
    for _ in range(1000): os.getppid()
    n += 1001
os.write(2, str(n).encode())
"""
)
TICK = ("--governor-tick", "0.05", "--governor-floor", "0")


def keyed(dump: Dump, table: str, *key: str) -> dict[str, Any]:
    found = [r for r in dump.keyed if r["table"] == table and r["keys"] == list(key)]
    assert len(found) == 1, (key, found)
    return found[0]


def collector(running: Loader, name: str) -> Collector:
    store = Store(str(running.segment), clock=time.monotonic_ns, resolver=standalone)
    assert store.refresh() == "live"
    assert store.schema
    return next(c for c in store.schema.collectors if c.name == name)


def programs(running: Loader) -> int:
    infos = Path(f"/proc/{running.process.pid}/fdinfo")
    return sum("prog_type" in (infos / fd.name).read_text() for fd in infos.iterdir())


def test_cost_of_each_program_is_shown(tmpfs: Path, cgroups: Cgroup) -> None:
    options = ("--collectors", "cpu,syscall", "--max-overhead", "100", *TICK)
    with loader(tmpfs, *options, program=TEST_LOADER) as running:

        def program() -> tuple[int, int, int]:
            """Runs, nanoseconds and misses of the one at the entry of system calls."""
            return next(
                (
                    r["kpod_bpf_program_runs_total"],
                    r["kpod_bpf_program_run_seconds_total"],
                    r["kpod_bpf_program_misses_total"],
                )
                for r in running.fresh().keyed
                if r["table"] == "programs" and r["keys"][0].startswith("kpod_syscall_enter")
            )

        cgroup = cgroups.child("storm.service")
        storm = Worker(cgroup, STORM, nice=-15)
        wait("a window", lambda: program()[0])
        before = program()
        storm.go()
        time.sleep(5)  # ten windows
        storm.go()
        storm.process.wait(60)
        time.sleep(0.6)  # one more, or the last part is missing
        runs, spent, misses = (now - was for now, was in zip(program(), before, strict=True))
        dump = running.fresh()
    calls = dump.row(cgroup.id, "syscalls")["kpod_syscalls_total"]
    assert calls / 3 < runs < 3 * calls
    assert 10 * runs < spent < 10_000 * runs
    assert misses == 0
    owners = {r["keys"][1] for r in dump.keyed if r["table"] == "programs"}
    assert owners == {"cgroup", "cpu", "syscall"}
    for name in owners:
        assert keyed(dump, "collectors", name)["kpod_collector_map_bytes"] > 100_000
    overhead = next(row for (table, _, _), row in dump.rows.items() if table == "overhead")
    assert 0 < overhead["kpod_bpf_overhead_ratio"] < overhead["kpod_bpf_overhead_max_ratio"] == 1e9


CALLER = PRELUDE + "for _ in range(500): os.getppid()\ngate()\n"
# 50 processes and 500 datagrams, while the others storm.
INNOCENT = (
    PRELUDE
    + """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 0))
s.connect(s.getsockname())
for _ in range(50):
    for _ in range(10): s.send(b"x"), s.recv(1)
    pid = os.fork()
    if not pid: os._exit(0)
    os.waitpid(pid, 0)
gate()
"""
)


def run(cgroup: Cgroup, code: str) -> None:
    worker = Worker(cgroup, code)
    worker.go()
    worker.stopped()
    worker.end()


def test_the_cause_is_shed_the_innocent_go_on_and_totals_continue(
    tmpfs: Path, cgroups: Cgroup
) -> None:
    """A storm of system calls sheds what measures these, and nothing else: another container's
    processes and datagrams are exact meanwhile. Of the calls, what was counted before is there
    afterwards, and what follows comes on top; who got a slot meanwhile has nothing of its last
    owner.
    """
    names = ("cpu", "exec", "memory", "udp", "syscall")
    options = ("--collectors", ",".join(names), "--max-overhead", "4", *TICK, "--tombstone", "0")
    guilty, innocent, gone = (cgroups.child(f"{n}.service") for n in ("guilty", "innocent", "gone"))
    with loader(tmpfs, *options, program=TEST_LOADER) as running:

        def calls(cgroup: Cgroup) -> int:
            row = running.fresh().row(cgroup.id, "syscalls")
            return int(row.get("kpod_syscalls_total", 0))

        def called(cgroup: Cgroup, before: int) -> int:
            """What else the machine does may have shed the collector, for a moment."""
            run(cgroup, CALLER)
            total = calls(cgroup)
            return total if total > before + 500 else 0

        counted = wait("calls to be counted", partial(called, guilty, 0), 60)
        wait("calls to be counted", partial(called, gone, 0), 60)
        storms = [Worker(guilty, STORM, nice=-15) for _ in range(2)]
        for storm in storms:
            storm.go()
        wait("the shedding", lambda: not collector(running, "syscall").up, 60)
        gone.remove()
        run(innocent, INNOCENT)
        dump = running.fresh()
        assert dump.row(innocent.id, "exec")["kpod_process_forks_total{process}"] == 50
        assert dump.row(innocent.id, "udp")["kpod_udp_datagrams_total{sent}"] == 500
        sheds = {n: keyed(dump, "collectors", n)["kpod_collector_sheds_total"] for n in names}
        assert [name for name, count in sheds.items() if count] == ["syscall"]
        for storm in storms:
            storm.go()
            storm.process.wait(60)
        wait("the slot to be free", lambda: not running.fresh().slot(gone.id))
        running.fresh()  # only then somebody else may have it
        heirs = [cgroups.child(f"heir-{i}.service") for i in range(32)]
        after = wait("the return", partial(called, guilty, counted), 60)
        assert after > counted + 500
        assert [calls(heir) for heir in heirs] == [0] * len(heirs)


def test_storm_sheds_the_largest_profile_first_and_calm_restores(
    tmpfs: Path, cgroups: Cgroup
) -> None:
    options = ("--collectors", "cpu,syscall", "--max-overhead", "4", *TICK)
    with loader(tmpfs, *options, program=TEST_LOADER) as running:
        assert collector(running, "syscall").up
        started = {name: collector(running, name).started_ns for name in ("cpu", "syscall")}
        loaded = programs(running)
        storms = [Worker(cgroups.child(f"{i}.service"), STORM, nice=-15) for i in range(2)]
        first = running.fresh()
        for storm in storms:
            storm.go()
        wait("the shedding", lambda: not collector(running, "syscall").up, 60)
        shed = collector(running, "syscall")
        unloaded = programs(running)
        during = running.fresh()  # a busy machine may have it back soon after the storm
        for storm in storms:
            storm.go()
            storm.process.wait(60)
        assert re.fullmatch(
            r"shed: its programs took [\d.]+ % of the node's CPU, those of all collectors [\d.]+ "
            r"%, and the bound is 4 % \(--max-overhead\)",
            shed.reason,
        )
        assert unloaded < loaded
        assert collector(running, "cpu").up
        assert not [r for r in during.keyed if r["table"].startswith("syscall")]
        wait("the return", lambda: collector(running, "syscall").up, 60)
        after = running.fresh()
        assert programs(running) == loaded
        for name, since in started.items():
            assert collector(running, name).started_ns == since
    # The others went on, through two new segments.
    assert first.sequence < during.sequence < after.sequence
    assert first.total(HOST, ONCPU) < during.total(HOST, ONCPU) < after.total(HOST, ONCPU)
    assert keyed(after, "collectors", "syscall")["kpod_collector_sheds_total"] >= 1
    assert keyed(after, "collectors", "cpu")["kpod_collector_sheds_total"] == 0
    said = [line for line in running.log if "collector syscall" in line]
    assert "up (" in said[0]
    assert "shed: " in said[1]
    assert said[2].endswith("collector syscall: back, its totals go on")


def test_totals_continue_whichever_attachment_it_comes_back_with(
    tmpfs: Path, cgroups: Cgroup
) -> None:
    """The attachment that was shed does not work any more, and says so only when it has been
    counting again for a moment: the next one goes on with the same rows, since the same time.
    """
    broken = ("--inject-preemption", "--inject-load-failure", "::tp_btf twins")
    options = ("--collectors", "cpu,syscall", "--max-overhead", "4", *TICK, *broken)
    quiet, guilty = cgroups.child("quiet.service"), cgroups.child("guilty.service")
    with loader(tmpfs, *options, program=TEST_LOADER) as running:

        def calls() -> int:
            row = running.fresh().row(quiet.id, "syscalls")
            return int(row.get("kpod_syscalls_total", 0))

        before = collector(running, "syscall")
        run(quiet, CALLER)
        counted = calls()
        storms = [Worker(guilty, STORM, nice=-15) for _ in range(2)]
        for storm in storms:
            storm.go()
        wait("the shedding", lambda: not collector(running, "syscall").up, 60)
        for storm in storms:
            storm.go()
            storm.process.wait(60)
        wait("the return", lambda: collector(running, "syscall").up, 60)
        after = collector(running, "syscall")
        kept = calls()
        run(quiet, CALLER)
        total = calls()
    assert (before.attach, after.attach) == ("tp_btf twins", "tp_btf")
    assert after.started_ns == before.started_ns
    assert counted == kept > 500
    assert total > kept + 500
    said = [line for line in running.log if "collector syscall" in line]
    assert said[2].endswith("collector syscall: back, its totals go on")


# Makes calls, datagrams and processes until it is told to stop.
MIXED = (
    PRELUDE
    + """
import select, socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("127.0.0.1", 0))
s.connect(s.getsockname())
while not select.select([0], [], [], 0)[0]:
    for _ in range(100): os.getppid()
    for _ in range(20): s.send(b"x"), s.recv(1)
    pid = os.fork()
    if not pid: os._exit(0)
    os.waitpid(pid, 0)
"""
)


def test_order_of_several(tmpfs: Path, cgroups: Cgroup) -> None:
    """The last that went is the first that is back; the one that counts OOM kills never goes."""
    names = ("cpu", "exec", "memory", "udp", "syscall")
    options = ("--collectors", ",".join(names), "--max-overhead", "0.02", *TICK)
    with loader(tmpfs, *options, program=TEST_LOADER) as running:
        storms = [Worker(cgroups.child(f"{i}.service"), MIXED, nice=-15) for i in range(2)]
        for storm in storms:
            storm.go()
        wait("the shedding", lambda: not collector(running, "cpu").up, 60)
        for storm in storms:
            storm.go()
            storm.process.wait(60)
        down = [name for name in names if not collector(running, name).up]
        wait("a return", lambda: any(collector(running, name).up for name in down), 60)
        running.stop()
    said = [re.search(r"collector (\w+): (shed|back)", line) for line in running.log]
    told = [(match[1], match[2]) for match in said if match]
    shed = [name for name, what in told if what == "shed"]
    first = next(i for i, (_, what) in enumerate(told) if what == "back")
    assert len(shed[:first]) >= 3, "otherwise there is no order"
    assert "memory" not in shed
    assert told[first][0] == shed[first - 1]


def test_nothing_but_misses_is_measured_if_nothing_may_be_shed(tmpfs: Path) -> None:
    options = ("--collectors", "cpu", "--max-overhead", "0", *TICK)
    with loader(tmpfs, *options, program=TEST_LOADER) as running:
        dump = running.fresh()
    rows = [r for r in dump.keyed if r["table"] == "programs"]
    assert {r["keys"][1] for r in rows} == {"cgroup", "cpu"}
    for row in rows:
        assert {name for name in row if name.startswith("kpod_")} == {
            "kpod_bpf_program_misses_total"
        }
    assert not [k for k in dump.rows if k[0] == "overhead"]
