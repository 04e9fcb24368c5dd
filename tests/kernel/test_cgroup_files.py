"""What the kernel's own files say of a cgroup is what is exported: no more, no less, no later."""

import json
import os
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.live import (
    HOG,
    HOST,
    IDLER,
    LOADER,
    ONCPU,
    PRELUDE,
    SLOWNESS,
    TEST_LOADER,
    Cgroup,
    Dump,
    Worker,
    exact,
    loader,
    wait_for,
)

# So much CPU time, however long it takes.
BURN = (
    PRELUDE
    + "end = time.process_time() + {seconds}\nwhile time.process_time() < end: pass\ngate()\n"
)

FILES = ("--inject-load-failure", ":walk")  # else BPF reads what it can of cgroups
WAYS = pytest.mark.parametrize("way", [(), FILES], ids=["walk", "files"])

USAGE = "kpod_cgroup_cpu_usage_seconds_total"
STALL = "kpod_pressure_stall_seconds_total"


def flat(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in map(str.split, path.read_text().splitlines())}


def divides(row: dict[str, int], said: dict[str, int], *, alike: bool) -> None:
    """User and system time, of a row and of cpu.stat.

    cputime_adjust() measures the sum and divides it as the ticks were, where neither part may ever
    be less than was shown before. So what is shown depends on when one has read before: the walk
    and the file, each with its own last reading, may divide a little differently (2.2 of 1,253 ms
    were seen), though never what is divided.
    """
    user, system = (row[f"kpod_cgroup_cpu_{kind}_seconds_total"] for kind in ("user", "system"))
    tick = 1_000_000 // os.sysconf("SC_CLK_TCK")
    apart = 0 if alike else tick + said["usage_usec"] // 100
    assert abs(user - said["user_usec"]) <= apart
    assert abs(system - said["system_usec"]) <= apart
    assert row[USAGE] - 1 <= user + system <= row[USAGE]  # each is cut to a microsecond


def errors(dump: Dump) -> dict[str, int]:
    return {
        row["keys"][0]: row["kpod_cgroup_read_errors_total"]
        for row in dump.keyed
        if row["table"] == "files"
    }


def stalls(cgroup: Cgroup) -> dict[str, int]:
    """Columns and totals (us) of the files that there are."""
    found = {}
    for resource in ("cpu", "memory", "io"):
        file = cgroup.path / f"{resource}.pressure"
        for line in file.read_text().splitlines() if file.exists() else ():
            kind, *_, total = line.split()
            found[f"{STALL}{{{resource},{kind}}}"] = int(total.removeprefix("total="))
    return found


@WAYS
def test_cpu_time_is_the_kernels(tmpfs: Path, cgroups: Cgroup, way: tuple[str, ...]) -> None:
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    inner = a.child("inner")  # its time is its parent's too
    with loader(tmpfs, *way, program=TEST_LOADER) as running:
        hog, _idle = Worker(inner, BURN.format(seconds=2)), Worker(b, IDLER)
        before, start = running.fresh(), hog.schedstat()[0]
        hog.go()
        hog.stopped()
        end, after = hog.schedstat()[0], running.fresh()
        again = running.fresh()
        said = flat(a.path / "cpu.stat")
    row = after.row(a.id, "cgroup_cpu")
    assert row[USAGE] == said["usage_usec"]
    divides(row, said, alike=bool(way))
    moved = row[USAGE] - before.row(a.id, "cgroup_cpu")[USAGE]
    assert moved == pytest.approx((end - start) / 1000, rel=0.02)
    assert moved >= 2_000_000
    for cgroup in (a, b):
        first, last = (d.row(cgroup.id, "cgroup_cpu") for d in (after, again))
        assert first == last, "two snapshots without activity are equal"
    assert before.row(b.id, "cgroup_cpu") == after.row(b.id, "cgroup_cpu")
    assert after.row(HOST, "cgroup_cpu") == {}, "the root's files are the whole node's"
    no_errors(after, way)


PSI_SAMPLE = 2_000_000  # microseconds: PSI_FREQ of kernel/sched/psi.c


def agrees(row: dict[str, int], said: dict[str, int], way: tuple[str, ...]) -> None:
    """What a file shows is as old as the kernel's last sample; the walk adds what has come since.

    How often it is ahead, and that it is never behind, is what test_cgroup_walk.py looks at.
    """
    ahead = 0 if way else PSI_SAMPLE
    for name, total in said.items():
        assert total <= row[name] <= total + ahead, name


def no_errors(dump: Dump, way: tuple[str, ...]) -> None:
    """Of files that were read; where all is walked, there are none."""
    found = set(errors(dump).values())
    assert found == {0} if way else found <= {0}


@WAYS
@pytest.mark.guest("cgroup_pressure")
def test_pressure_is_the_kernels(
    tmpfs: Path,
    cgroups: Cgroup,
    way: tuple[str, ...],
    record_property: Callable[[str, object], None],
) -> None:
    a, b = cgroups.child("a.service"), cgroups.child("b.service")
    if not stalls(a):
        record_property("lacks", "cgroup_pressure: no `*.pressure`: PSI is off")
        pytest.skip("PSI is off: there are no *.pressure files")
    if f"{STALL}{{cpu,full}}" not in stalls(a):
        record_property("lacks", "cgroup_pressure: no `full` in `cpu.pressure` (5.13)")
    with loader(tmpfs, *way, program=TEST_LOADER) as running:
        hogs = [Worker(a, HOG.format(seconds=1), cpu=0) for _ in range(2)]
        _idle = Worker(b, IDLER)
        before = running.fresh()
        for hog in hogs:
            hog.go()
        for hog in hogs:
            hog.stopped()
        after, said = running.fresh(), stalls(a)
        quiet = stalls(b)
    agrees(after.row(a.id, "cgroup_pressure"), said, way)
    some = f"{STALL}{{cpu,some}}"
    first = before.row(a.id, "cgroup_pressure")[some]
    # Two that want one CPU for a second: one of them waits all the time.
    assert after.row(a.id, "cgroup_pressure")[some] - first > 500_000
    agrees(after.row(b.id, "cgroup_pressure"), quiet, way)
    no_errors(after, way)


@WAYS
@pytest.mark.guest("cgroup_cpu")
def test_last_values_stay_when_the_cgroup_goes(
    tmpfs: Path, cgroups: Cgroup, way: tuple[str, ...]
) -> None:
    a = cgroups.child("a.service")
    with loader(tmpfs, *way, program=TEST_LOADER) as running:
        hog = Worker(a, BURN.format(seconds=0.3))
        hog.go()
        hog.stopped()
        last = running.fresh().row(a.id, "cgroup_cpu")[USAGE]
        a.remove()
        for _ in range(3):
            dump = running.fresh()
            slot = dump.slot(a.id)
            assert slot
            assert slot["died_ns"]
            assert dump.row(a.id, "cgroup_cpu")[USAGE] >= last > 300_000
        no_errors(dump, way)


def descriptors(pid: int) -> list[str]:
    """What they are of; some close while one looks."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.append(os.readlink(fd))
    return found


def test_few_descriptors_are_enough(tmpfs: Path, cgroups: Cgroup) -> None:
    many = [cgroups.child(f"{i}.service") for i in range(200)]
    with loader(tmpfs, *FILES, program=TEST_LOADER) as running:
        wanted = [f for f in descriptors(running.process.pid) if str(cgroups.path) in f]
        assert len(wanted) >= len(many)
    # The same with room for 44 of them.
    few = ["prlimit", "--nofile=300:300", str(TEST_LOADER), "run", *FILES]
    process = subprocess.Popen(
        [*few, "--segment", str(tmpfs / "few"), "--interval", "0.1"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        while "snapshots every" not in process.stderr.readline():
            assert process.poll() is None
        dump = wait_for("some passes", lambda: (d := Dump.of(tmpfs / "few")).sequence > 5 and d)
        kept = [f for f in descriptors(process.pid) if str(cgroups.path) in f]
        assert 0 < len(kept) <= 300 - 256 + 2, "a directory and a file may be open just now"
        for cgroup in many:
            assert USAGE in dump.row(cgroup.id, "cgroup_cpu")
        no_errors(dump, FILES)
    finally:
        process.terminate()
        process.communicate()


@WAYS
def test_nothing_grows(tmpfs: Path, cgroups: Cgroup, way: tuple[str, ...]) -> None:
    """Over 1,000 passes, neither memory nor descriptors. Cgroups of other tests get no slots."""
    pod = cgroups.below("kubepods.slice/kubepods-pod12345678_1234_1234_1234_1234567890ab.slice")

    def used(pid: int) -> tuple[int, int]:
        def files() -> int:
            found = descriptors(pid)
            return sum("/sys/fs/cgroup" not in f or str(pod.path) in f for f in found)

        memory = Path(f"/proc/{pid}/statm").read_text().split()[1]
        # The least of some looks: a pass opens and closes others.
        return min(files() for _ in range(20)), int(memory) * os.sysconf("SC_PAGESIZE")

    for i in range(50):
        pod.child(f"{i}.scope")
    options = ("--pods-only", "--tombstone", "1", *way)
    with loader(tmpfs, *options, interval=0.01, program=TEST_LOADER) as running:

        def passes(count: int) -> None:
            wanted = running.dump().sequence + count
            wait_for("passes", lambda: running.dump().sequence >= wanted, 300)

        passes(50)
        files, memory = used(running.process.pid)
        passes(1000)
        files_after, memory_after = used(running.process.pid)
    assert files_after == files
    assert files >= 50 or not way
    assert memory_after <= memory + (256 << 10)


def test_a_pods_own_cgroup_has_families_of_its_own(tmpfs: Path, cgroups: Cgroup) -> None:
    """It counts its containers in, so they are not the same families, and sums are right. What the
    pod has beside its containers is its own in those that count without what is below.
    """
    pod = cgroups.below("kubepods/burstable/pod12345678-1234-1234-1234-1234567890ab")
    made = [pod.child(f"{i:064x}") for i in range(2)]
    with loader(tmpfs, "--collectors", "cgroup,cpu,cgroup_cpu,cgroup_pressure") as running:
        for cgroup in (*made, pod):
            exact(running, cgroup)
        dump = running.fresh()
        rows = [dump.row(c.id, "cgroup_cpu")["kpod_cgroup_cpu_usage_seconds_total"] for c in made]
        own = dump.row(pod.id, "pod_cpu")["kpod_pod_cpu_usage_seconds_total"]
        assert all(rows)
        assert own > sum(rows), "and what runs beside them"
        exclusive = sum(dump.total(c.id, ONCPU) for c in (*made, pod))
        assert abs(exclusive - own * 1000) <= 0.05 * exclusive + 20e6 * SLOWNESS
        assert dump.row(pod.id, "cgroup_cpu") == {}
        assert all(dump.row(c.id, "pod_cpu") == {} for c in made)
        pressure = dump.by_key(pod.id, "pod_pressure") or dump.row(pod.id, "pod_pressure")
        assert pressure or not (pod.path / "cpu.pressure").exists()
        schema = json.loads(subprocess.check_output([LOADER, "schema"]))
        names = [c["name"] for t in schema["tables"] for c in t["columns"]]
        assert "kpod_pod_pressure_stall_seconds_total" in names
        assert not [n for n in names if n.startswith("kpod_pod_cgroup")]
