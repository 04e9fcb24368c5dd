"""What the BPF programs cost, and what is shed when it is too much."""

import re
import time
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
TICK = ("--governor-tick", "0.05")


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


def test_storm_sheds_the_largest_profile_first_and_calm_restores(
    tmpfs: Path, cgroups: Cgroup
) -> None:
    options = ("--collectors", "cpu,syscall", "--max-overhead", "1", *TICK)
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
        for storm in storms:
            storm.go()
            storm.process.wait(60)
        assert re.fullmatch(
            r"shed: BPF programs took [\d.]+ % of the node's CPU, --max-overhead is 1", shed.reason
        )
        assert unloaded < loaded
        assert collector(running, "cpu").up
        during = running.fresh()
        assert not [r for r in during.keyed if r["table"].startswith("syscall")]
        wait("the return", lambda: collector(running, "syscall").up, 60)
        after = running.fresh()
        assert programs(running) == loaded
        # Smaller totals have a later start: else OTLP's rule for a reset is broken.
        assert collector(running, "syscall").started_ns > started["syscall"]
        assert collector(running, "cpu").started_ns == started["cpu"]
    # The others went on, through two new segments.
    assert first.sequence < during.sequence < after.sequence
    assert first.total(HOST, ONCPU) < during.total(HOST, ONCPU) < after.total(HOST, ONCPU)
    assert keyed(after, "collectors", "syscall")["kpod_collector_sheds_total"] >= 1
    assert keyed(after, "collectors", "cpu")["kpod_collector_sheds_total"] == 0
    said = [line for line in running.log if "collector syscall" in line]
    assert "up (" in said[0]
    assert "shed: " in said[1]
    assert said[2].endswith("collector syscall: back, its totals begin at zero")


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
    """From the largest profile to the smallest; the last that went is the first that is back."""
    profiles = {"cpu": 0, "exec": 0, "udp": 1, "syscall": 2}
    options = ("--collectors", ",".join(profiles), "--max-overhead", "0.02", *TICK)
    with loader(tmpfs, *options, program=TEST_LOADER) as running:
        storms = [Worker(cgroups.child(f"{i}.service"), MIXED, nice=-15) for i in range(2)]
        for storm in storms:
            storm.go()
        wait("the shedding", lambda: not collector(running, "cpu").up, 60)
        for storm in storms:
            storm.go()
            storm.process.wait(60)
        down = [name for name in profiles if not collector(running, name).up]
        wait("a return", lambda: any(collector(running, name).up for name in down), 60)
        running.stop()
    said = [re.search(r"collector (\w+): (shed|back)", line) for line in running.log]
    told = [(match[1], match[2]) for match in said if match]
    shed = [name for name, what in told if what == "shed"]
    first = next(i for i, (_, what) in enumerate(told) if what == "back")
    assert len(shed[:first]) >= 3, "otherwise there is no order"
    order = [profiles[name] for name in shed[:first]]
    assert order == sorted(order, reverse=True)
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
