"""A walk over cgroups by BPF finds what the kernel's files say: no word differs.

The oracle is the same loader with the walk made to fail, so that it reads the files; where time
goes on, the files themselves, read before and after.
"""

import itertools
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.test_cgroup_files import FILES, STALL, USAGE, flat, stalls
from tests.live import (
    GUEST,
    HOG,
    ONCPU,
    PRELUDE,
    SLOWNESS,
    TEST_LOADER,
    Cgroup,
    Dump,
    Worker,
    loader,
    wait_for,
)

COLLECTORS = ("cgroup_cpu", "cgroup_memory", "cgroup_io", "cgroup_pids", "cgroup_pressure")
MOMENT = 1000 * SLOWNESS  # us
SAMPLE = 2_100_000  # us: the kernel ends a sample of PSI every two seconds and a tick

BURST = (
    PRELUDE
    + """
import random
end = time.monotonic() + {seconds}
while time.monotonic() < end:
    until = time.monotonic() + random.random() / 20
    while time.monotonic() < until: os.getppid()
    time.sleep(random.random() / 20)
gate()
"""
)


def statistics(dump: Dump, cgroup: Cgroup) -> dict[tuple[str, ...], int]:
    """By table, key and column."""
    found = {}
    for table in COLLECTORS:
        rows: dict[tuple[str, ...], dict[str, Any]] = {(): dump.row(cgroup.id, table)}
        rows |= dump.by_key(cgroup.id, table)
        for key, row in rows.items():
            for column, value in row.items():
                if column.startswith("kpod_"):
                    found[table, *key, column] = value
    return found


def attached(log: list[str]) -> dict[str, str]:
    """How each collector is attached, as the loader says at its start."""
    ups = (line.split("collector ")[1] for line in log if ": up (" in line)
    parts = (up.partition(": up (") for up in ups)
    return {name: how.partition(")")[0] for name, _, how in parts}


def compare(tmpfs: Path, quiet: list[Cgroup]) -> dict[tuple[str, ...], int]:
    """Both loaders begin when the work is done: what they see first has no past of theirs.

    The words of the first cgroup, and which there are of the others.
    """
    options = ("--collectors", ",".join(COLLECTORS))
    (tmpfs / "files").mkdir()
    with loader(tmpfs / "files", *options, *FILES, program=TEST_LOADER) as by_files:
        assert set(attached(by_files.log).values()) <= {"files", "tp_btf"}
        with loader(tmpfs, *options, program=TEST_LOADER) as by_walk:
            said: list[dict[tuple[str, ...], int]] = []
            found: list[dict[tuple[str, ...], int]] = []

            def agree() -> bool:
                files, walk = by_files.fresh(), by_walk.fresh()
                said[:] = [statistics(files, cgroup) for cgroup in quiet]
                found[:] = [statistics(walk, cgroup) for cgroup in quiet]
                return said == found

            try:
                wait_for("the same words", agree, 5)
            except TimeoutError:
                pytest.fail(
                    "\n".join(
                        f"{cgroup.path.name} {name}: files {a.get(name)}, walk {b.get(name)}"
                        for cgroup, a, b in zip(quiet, said, found, strict=True)
                        for name in sorted(a.keys() | b.keys())
                        if a.get(name) != b.get(name)
                    )
                )
            how = attached(by_walk.log)
    print({name: how[name] for name in COLLECTORS})
    assert any(how[name] == "walk" for name in COLLECTORS), "else files were compared with files"
    return {
        (cgroup.path.name, *name): v
        for cgroup, row in zip(quiet, found, strict=True)
        for name, v in row.items()
    }


def needs_walk(kernel: str | None = GUEST) -> None:
    if kernel == "5.10":
        pytest.skip("no iterator over cgroups (6.1): files are read")


def test_walk_and_files_say_the_same(tmpfs: Path, cgroups: Cgroup) -> None:
    a, b, c = (cgroups.child(f"{name}.service") for name in "abc")
    inner = a.child("inner")
    pod = cgroups.child("kubepods-pod12345678_1234_1234_1234_1234567890ab.slice")
    container = pod.child(f"cri-containerd-{'ab' * 32}.scope")
    workers = [Worker(g, BURST.format(seconds=1), cpu=0) for g in (a, inner, b, container)]
    for worker in workers:
        worker.go()
    for worker in workers:
        worker.stopped()
    words = compare(tmpfs, [a, b, c, container])
    assert words["a.service", "cgroup_cpu", USAGE] > words["b.service", "cgroup_cpu", USAGE] > 0
    assert words["c.service", "cgroup_cpu", USAGE] == 0


@pytest.mark.guest("cgroup_cpu", "cgroup_pressure")
def test_while_time_goes_on(tmpfs: Path, cgroups: Cgroup) -> None:
    """No more and no less than the files say just before and just after; and never less again."""
    needs_walk()
    a = cgroups.child("a.service")
    ahead = []
    with loader(tmpfs, "--collectors", "cgroup_cpu,cgroup_pressure", interval=0.1) as running:
        workers = [Worker(a, BURST.format(seconds=4 * SLOWNESS**0.5), cpu=i % 2) for i in range(5)]
        for worker in workers:
            worker.go()
        last: dict[tuple[str, ...], int] = {}
        end = time.monotonic() + 4 * SLOWNESS**0.5
        while time.monotonic() < end:
            before = flat(a.path / "cpu.stat"), stalls(a)
            row = statistics(running.fresh(), a)
            after = flat(a.path / "cpu.stat"), stalls(a)
            usage = row["cgroup_cpu", USAGE]
            assert before[0]["usage_usec"] <= usage <= after[0]["usage_usec"]
            for column, least in before[1].items():
                value = row["cgroup_pressure", column]
                assert least <= value, column
                ahead.append(value - after[1][column])
            for name, value in row.items():
                if name[-1].endswith("_total") or "_total{" in name[-1]:
                    assert value >= last.get(name, 0), name
            last = row
        for worker in workers:
            worker.stopped()
        assert attached(running.log)["cgroup_pressure"] == "walk"
    assert max(ahead) <= SAMPLE
    # The scheduler's clock is known to some microseconds, and a CPU's weight is its busy time since
    # the last sample ended, which shifts meanwhile.
    assert sorted(ahead)[len(ahead) * 3 // 4] <= MOMENT, "but mostly by a moment at most"


@pytest.mark.guest("cgroup_pressure")
def test_pressure_does_not_lag(tmpfs: Path, cgroups: Cgroup) -> None:
    """What the kernel itself adds up every two seconds only, and nobody reads a file here."""
    a = cgroups.child("a.service")
    if not stalls(a):
        pytest.skip("PSI is off: there are no *.pressure files")
    some = f"{STALL}{{cpu,some}}"
    with loader(tmpfs, "--collectors", "cgroup_pressure") as running:
        hogs = [Worker(a, HOG.format(seconds=3 * SLOWNESS**0.5), cpu=0) for _ in range(2)]
        for hog in hogs:
            hog.go()
        dumps = [running.fresh()]
        for _ in range(4):
            time.sleep(0.4 * SLOWNESS**0.5)
            dumps.append(running.fresh())
        totals = [dump.row(a.id, "cgroup_pressure")[some] for dump in dumps]
        # One of the two waits all the time; if a third process runs, both do.
        passed = (dumps[-1].monotonic_ns - dumps[0].monotonic_ns) / 1000
        assert totals[-1] - totals[0] == pytest.approx(passed, rel=0.25)
        # Meanwhile the kernel's own totals move once.
        assert all(last > first for first, last in itertools.pairwise(totals))
        for hog in hogs:
            hog.stopped()


def test_gone_and_new_cgroups(tmpfs: Path, cgroups: Cgroup) -> None:
    """A row is of the cgroup that has the slot, and of no other that was where this one is."""
    with loader(tmpfs, "--tombstone", "0") as running:
        for turn in range(20):
            new = [cgroups.child(f"{turn}-{i}.service") for i in range(20)]
            hog = Worker(new[0], PRELUDE + "gate()\n")
            dump = running.fresh()
            said = flat(new[0].path / "cpu.stat")["usage_usec"]
            assert dump.row(new[0].id, "cgroup_cpu")[USAGE] == said > 0
            for other in new[1:]:
                if dump.slot(other.id):
                    assert dump.row(other.id, "cgroup_cpu")[USAGE] == 0
            hog.end()
            for cgroup in new:
                cgroup.remove()
            running.fresh()


@pytest.mark.guest("cgroup_cpu", "cpu")
def test_the_end_of_a_life_is_counted(tmpfs: Path, cgroups: Cgroup) -> None:
    """Jobs much shorter than the time between two snapshots: each has the time that it had a CPU.

    The oracle is what programs of the scheduler count, which lose nothing of a short life. Nobody
    reads cpu.stat, which would have the kernel add up what its CPUs have counted.
    """
    needs_walk()
    jobs = []
    options = ("--collectors", "cgroup,cpu,cgroup_cpu", "--tombstone", "600")
    with loader(tmpfs, *options, interval=2) as running:
        for turn in range(10):
            job = cgroups.child(f"{turn}.service")
            hog = Worker(job, HOG.format(seconds=0.05))
            hog.go()
            hog.stopped()
            hog.end()
            job.remove()
            jobs.append(job.id)
        after = running.fresh()
        rows = {job: after.row(job, "cgroup_cpu").get(USAGE, 0) for job in jobs}
        ran = {job: after.row(job)[ONCPU] for job in jobs}
        # A second look finds the same: a removed cgroup changes no more.
        again = running.fresh()
        assert {job: again.row(job, "cgroup_cpu").get(USAGE, 0) for job in jobs} == rows
        weights = [again.row(job, "cgroup_cpu").get("kpod_cgroup_cpu_weight") for job in jobs]
        assert not any(weights), "a gauge of what is no more"
    print(rows, ran)
    for used, ns in zip(rows.values(), ran.values(), strict=True):
        assert ns > 50_000_000
        # The last switch of a task may be after its cgroup's end.
        assert abs(used - ns // 1000) <= 0.01 * used + 2000 * SLOWNESS


def test_the_tree_is_searched_for_new_cgroups_only(tmpfs: Path, cgroups: Cgroup) -> None:
    """Also beside a group of units: it has a slot, but no member has a row of its own."""
    units = cgroups.child("system.slice")
    for i in range(2):
        units.child(f"sshd@{i}.service")
    for i in range(200):
        cgroups.child(f"{i}.service")
    options = ("--collectors", "cgroup_pids", "--max-overhead", "100", "--governor-tick", "0.1")
    with loader(tmpfs, *options, interval=0.1, program=TEST_LOADER) as running:

        def runs() -> tuple[int, int]:
            dump = running.fresh()
            found = [row for row in dump.keyed if "kpod_cgroup_pids_find" in row["keys"]]
            return dump.sequence, sum(row["kpod_bpf_program_runs_total"] for row in found)

        assert any(s["path"].endswith("/sshd@") for s in running.fresh().slots.values())

        def only_the_root() -> bool:
            """On it the program runs twice, with the root and at the end."""
            before, ran = runs()
            wait_for("five snapshots", lambda: running.dump().sequence >= before + 5)
            after, now = runs()
            return 1.5 <= (now - ran) / (after - before) <= 4

        # There may be other trees beside this one, and new cgroups in them.
        wait_for("snapshots without a search", only_the_root, 20)


OOM = (
    PRELUDE
    + """
import subprocess
children = [subprocess.Popen(["sleep", "100"]) for _ in range({others})]
memory = bytearray(256 << 20)
gate()
"""
)


@pytest.mark.guest("cgroup_memory", "memory")
@pytest.mark.parametrize("others", [0, 4])
def test_the_kill_that_ends_a_life_is_counted(tmpfs: Path, cgroups: Cgroup, others: int) -> None:
    """As the kubelet sets it: all processes of the container are killed, and its cgroup goes."""
    needs_walk()
    if "memory" not in (cgroups.path / "cgroup.controllers").read_text().split():
        pytest.skip("cgroup2 has no memory controller here: see tests/vm")
    (cgroups.path / "cgroup.subtree_control").write_text("+memory")
    options = ("--collectors", "cgroup,cgroup_memory,memory", "--tombstone", "600")
    with loader(tmpfs, *options, interval=2) as running:
        job = cgroups.child("a.service")
        (job.path / "memory.max").write_text(str(64 << 20))
        (job.path / "memory.swap.max").write_text("0")
        (job.path / "memory.oom.group").write_text("1")
        worker = Worker(job, OOM.format(others=others))
        worker.go()
        worker.process.wait()
        job.remove()
        after = running.fresh()
        row = after.row(job.id, "cgroup_memory")
        events = {
            name: row[f"kpod_cgroup_memory_events_total{{{name}}}"]
            for name in ("oom_kill", "oom_group_kill")
        }
        killed = after.row(job.id, "memory")["kpod_memory_oom_kills_total"]
    assert killed == 1 + others
    assert events == {"oom_kill": 2 + others, "oom_group_kill": 1}
