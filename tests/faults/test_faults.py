"""What a node can do to the loader: each time nothing is lost, nothing is wrong, and it says so."""

import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.stack import aggregator
from tests.live import (
    HOG,
    HOST,
    LOADER,
    ONCPU,
    PRELUDE,
    TEST_LOADER,
    WITHOUT_TRACEFS,
    Cgroup,
    Dump,
    Loader,
    Worker,
    cgroup2,
    exact,
    loader,
    message,
    mounted,
    wait_for,
)

FEW = ("--collectors", "cpu,exec", "--others-share", "100")


def run(*command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


# ---- where the segment is ------------------------------------------------------------------------


@pytest.fixture
def small(tmpfs: Path) -> Iterator[Path]:
    """A tmpfs of its own, of one megabyte."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", tmpfs], check=True)
    try:
        yield tmpfs
    finally:
        subprocess.run(["umount", "-l", tmpfs], check=True)


def test_full_tmpfs_at_the_start(small: Path) -> None:
    done = run(str(LOADER), "run", *FEW, "--segment", f"{small}/segment")
    assert done.returncode == 1
    assert message(done.stderr) == (
        f"kpod-loader: cannot make {small}/segment: No space left on device\n"
    )
    assert list(small.iterdir()) == []


def test_full_tmpfs_when_more_room_is_needed(small: Path, cgroups: Cgroup) -> None:
    """It goes on with the last snapshot, counts, says so, and heals."""
    with loader(small, *FEW, "--ring-size", "65536", "--tombstone", "0") as running:
        a = cgroups.child("a.service")
        before = running.fresh()
        (small / "ballast").write_bytes(bytes(900_000))
        made = [cgroups.child(f"{'x' * 100}{i}.service") for i in range(300)]
        hog = Worker(a, HOG.format(seconds=0.2))
        spent = hog.schedstat()[0]
        hog.go()
        hog.stopped()
        assert running.process.stderr
        line = running.process.stderr.readline()
        assert "cannot write a snapshot" in line
        assert "No space left on device" in line
        assert running.dump().sequence >= before.sequence, "the last whole one stays"
        (small / "ballast").unlink()
        after = running.fresh()
        assert all(after.slot(c.id) for c in made)
        assert after.loader["kpod_snapshot_failures_total"] > 0
        assert after.total(a.id, ONCPU) + 3e6 >= hog.schedstat()[0] - spent
        exact(running, a)
    assert not (small / "segment").exists()


def test_directory_of_the_segment_deleted(tmpfs: Path, cgroups: Cgroup) -> None:
    directory = tmpfs / "kpod"
    directory.mkdir()
    with loader(directory, *FEW) as running:
        first = running.fresh()
        shutil.rmtree(directory)
        assert running.process.stderr
        line = running.process.stderr.readline()
        assert f"cannot write a snapshot to {directory}/segment: No such file" in line
        directory.mkdir()
        wait_for("another segment", running.segment.exists)
        after = running.fresh()
        assert after.sequence > first.sequence
        assert after.loader["kpod_snapshot_failures_total"] > 0
        exact(running, cgroups.child("a.service"))
    assert list(directory.iterdir()) == []


# ---- clocks --------------------------------------------------------------------------------------


def clock_library(directory: Path) -> Path:
    library = directory / "clock.so"
    source = Path(__file__).parent / "clock.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library


def test_the_clock_is_set(tmpfs: Path, tmp_path: Path, cgroups: Cgroup) -> None:
    """An hour back, then a day forward: a start is the wall-clock time of the birth, by the clock
    as it stands, never in the future, and does not move while nobody sets the clock."""
    hour, clock = 3600, tmp_path / "clock"

    def set_clock(ahead: int) -> None:
        with clock.open("ab") as file:
            file.truncate(1_000_000 + ahead)

    def check(ahead: int) -> None:
        running.fresh()  # may be the one that finds that the clock was set
        dump, again = running.fresh(), running.fresh()
        for cgroup, born in births.items():
            slot = dump.slot(cgroup)
            assert slot
            assert slot == again.slot(cgroup)
            for since in ("counted_ns", "cgroup_ns", "network_ns"):
                age = time.time() + ahead - slot[since] / 1e9
                assert -0.1 < age - (time.monotonic() - born) < 2, (since, ahead)
        started = served.series("kpod_loader_start_time_seconds").values()
        assert all(abs(start - ahead - began) < 60 for start in started)

    births: dict[int, float] = {}
    set_clock(0)
    prefix = ("env", f"LD_PRELOAD={clock_library(tmp_path)}", f"KPOD_CLOCK={clock}")
    began = time.time()
    with loader(tmpfs, *FEW, prefix=prefix) as running, aggregator(tmpfs) as served:
        for number, ahead in enumerate((0, -hour, 24 * hour)):
            set_clock(ahead)
            a = cgroups.child(f"{number}.service")
            births[a.id] = time.monotonic()
            check(ahead)


def test_wall_clock_jumps_by_hours(tmpfs: Path, tmp_path: Path, cgroups: Cgroup) -> None:
    """There and back, at random. Nothing but time stamps comes from it."""
    prefix = ("env", f"LD_PRELOAD={clock_library(tmp_path)}")
    with loader(tmpfs, *FEW, prefix=prefix) as running, aggregator(tmpfs) as served:
        a = cgroups.child("a.service")
        stamps = set()
        exact(running, a)
        for _ in range(16):
            running.fresh()
            stamps |= set(served.series("kpod_snapshot_timestamp_seconds").values())
            assert list(served.series("kpod_loader_up").values()) == [1]
            assert served.series("kpod_cpu_oncpu_seconds_total", unit="a.service")
        exact(running, a)
        assert max(stamps) - min(stamps) > 3600, "the clock did jump"


# ---- many cgroups --------------------------------------------------------------------------------


def test_two_thousand_cgroups_at_once(tmpfs: Path, cgroups: Cgroup) -> None:
    made: list[Cgroup] = []

    def make(part: int) -> None:
        made.extend([cgroups.child(f"{part}-{i}.service") for i in range(500)])

    threads = [threading.Thread(target=make, args=(part,)) for part in range(4)]
    with loader(tmpfs, *FEW, "--max-containers", "4096") as running:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        dump = running.fresh()
        owners = [s["cgroup_id"] for s in dump.slots.values()]
        assert len(owners) == len(set(owners))
        assert {c.id for c in made} <= set(owners)
        for name in ("slots_exhausted", "cgroups_map_full", "slots_evicted"):
            assert dump.loader[f"kpod_{name}_total"] == 0
        exact(running, made[-1])
        assert running.dump().total(made[0].id, ONCPU) == 0


def test_map_of_cgroups_full(tmpfs: Path, cgroups: Cgroup) -> None:
    """What does not fit counts as what is above it, and is counted."""
    with loader(tmpfs, *FEW, "--max-containers", "64", "--tombstone", "0") as running:
        capacity = running.fresh().loader["kpod_slots_capacity"]
        pods = [
            cgroups.below(f"kubepods.slice/kubepods-pod{str(uuid.uuid4()).replace('-', '_')}.slice")
            for _ in range(4 * capacity + 50)
        ]
        full = running.fresh()
        assert full.loader["kpod_cgroups_map_full_total"] >= 50
        late = cgroups.child("late.service")
        hog = Worker(late, HOG.format(seconds=0.3))
        before, spent = running.fresh(), hog.schedstat()[0]
        assert before.slot(late.id) is None
        hog.go()
        hog.stopped()
        after = running.fresh()
        moved = after.total(HOST, ONCPU) - before.total(HOST, ONCPU)
        assert moved + 3e6 >= hog.schedstat()[0] - spent
        assert after.loader["kpod_cgroups_map_full_total"] > 50
        for pod in pods:
            pod.remove()
        room = cgroups.child("room-again.service")
        wait_for("room", lambda: running.dump().slot(room.id), 20)
        exact(running, room)


def test_map_of_cgroups_full_at_the_start(tmpfs: Path, cgroups: Cgroup) -> None:
    """A slot whose cgroup has no room in the map is not lost."""
    made = [
        cgroups.below(f"kubepods.slice/kubepods-pod{str(uuid.uuid4()).replace('-', '_')}.slice")
        for _ in range(4 * 128 + 50)
    ]
    made += [cgroups.child(f"{i}.service") for i in range(50)]
    with loader(tmpfs, *FEW, "--max-containers", "64", "--tombstone", "0") as running:
        row = running.fresh().loader
        assert row["kpod_slots_capacity"] == 128
        assert row["kpod_cgroups_map_full_total"] >= 100
        assert row["kpod_slots_exhausted_total"] > 0
        for cgroup in made:
            cgroup.remove()
        wait_for("their end", lambda: not any(running.dump().slot(c.id) for c in made))
        again_all(running, cgroups)


def again_all(running: Loader, cgroups: Cgroup) -> None:
    """Every slot that is free can be had, and is exact; there is not one fewer."""
    row = running.fresh().loader
    free = row["kpod_slots_capacity"] - row["kpod_slots_used"]
    many = [cgroups.child(f"again-{i}.service") for i in range(free)]
    dump = running.fresh()
    assert all(dump.slot(cgroup.id) for cgroup in many)
    assert dump.loader["kpod_slots_exhausted_total"] == row["kpod_slots_exhausted_total"]
    exact(running, many[-1])


# Makes one of each of these calls in each of many cgroups.
CALLS = (
    "getppid,getuid,geteuid,getgid,getegid,getpgid,getsid,getpriority,getresuid,getresgid,times,"
    "uname,getcwd,sched_yield,sched_getscheduler,getrandom"
)
CALLER = (
    PRELUDE
    + """
calls = (
    os.getppid, os.getuid, os.geteuid, os.getgid, os.getegid, lambda: os.getpgid(0),
    lambda: os.getsid(0), lambda: os.getpriority(0, 0), os.getresuid, os.getresgid, os.times,
    os.uname, os.getcwd, os.sched_yield, lambda: os.sched_getscheduler(0), lambda: os.getrandom(1),
)
for i in range({first}, {last}):
    with open(f"{top}/{{i}}.service/cgroup.procs", "w") as f: f.write("0")
    for call in calls: call()
gate()
"""
)


def test_map_of_units_full(tmpfs: Path, cgroups: Cgroup) -> None:
    """Calls by name need a unit a container and name: without one they are the host's, by name.

    Ended containers give way to living ones, long before their time.
    """
    here, names = cgroups.child("worker.service"), CALLS.split(",")
    options = ("--collectors", "syscall", "--syscalls", CALLS, "--tombstone", "600")

    def units(dump: Dump) -> dict[str, int]:
        (row,) = (r for r in dump.keyed if r["table"] == "units" and r["keys"] == ["syscall"])
        return {
            name: row[f"kpod_table_{name}"]
            for name in (
                *("units_capacity", "units_exhausted_total", "units_evicted_total"),
                "events_lost_total",
            )
        }

    def calls(dump: Dump, cgroup: int) -> dict[str, int]:
        rows = dump.by_key(cgroup, "syscall")
        return {name: row["kpod_syscall_calls_total"] for (name,), row in rows.items()}

    def call_in(many: range) -> list[Cgroup]:
        made = [cgroups.child(f"{i}.service") for i in many]
        code = CALLER.format(first=many.start, last=many.stop, top=cgroups.path)
        worker = Worker(here, code)
        worker.go()
        worker.stopped()
        worker.end()
        return made

    with loader(tmpfs, *options) as running:
        before = running.fresh()
        made = call_in(range(units(before)["units_capacity"] // len(names) + 20))
        dump = running.fresh()
        lacked = {name: len(made) for name in names}
        for cgroup in made:
            assert dump.row(cgroup.id, "syscalls")["kpod_syscalls_total"] >= len(names)
            for name, count in calls(dump, cgroup.id).items():
                lacked[name] -= count
        assert sum(lacked.values()) > 0
        for name, count in lacked.items():
            # Others may make these calls too while the table is full, and the host makes some.
            assert count >= 0
            assert calls(dump, HOST)[name] - calls(before, HOST).get(name, 0) >= count
        found = units(dump)
        assert found["units_exhausted_total"] >= sum(lacked.values())
        assert found["events_lost_total"] == 0
        assert found["units_evicted_total"] == 0
        for cgroup in made:
            cgroup.remove()

        def ended() -> bool:
            slots = running.dump().slots.values()
            dead = {slot["cgroup_id"] for slot in slots if slot["died_ns"]}
            return {cgroup.id for cgroup in made} <= dead

        wait_for("their end", ended)

        def late(number: int) -> dict[str, int]:
            (cgroup,) = call_in(range(number, number + 1))
            return calls(running.fresh(), cgroup.id)

        # The first that finds no room is the host's, and makes the next snapshot look for room.
        numbers = itertools.count(9000)
        wait_for("room", lambda: late(next(numbers)) == dict.fromkeys(names, 1))
        dump = running.fresh()
        assert units(dump)["units_evicted_total"] >= len(names)
        assert all(dump.slot(c.id) for c in made), "what else is known of them stays"


# One makes cgroups; the other removes each as soon as it is there, mostly inside its mkdir().
MAKER = """
import os
for i in range({count}): os.mkdir(f"{top}/{{i}}.service")
"""
REMOVER = """
import os
for i in range({count}):
    while True:
        try:
            os.rmdir(f"{top}/{{i}}.service")
            break
        except FileNotFoundError: pass
"""


def cgroups_known(running: Loader) -> set[int]:
    """The keys of the kernel's map of cgroups."""
    infos = [f.read_text() for f in Path(f"/proc/{running.process.pid}/fdinfo").iterdir()]
    ids = {m[1] for text in infos if (m := re.search(r"(?m)^map_id:\t(\d+)$", text))}
    for number in ids:
        command = ("bpftool", "--json", "map", "show", "id", number)
        if json.loads(subprocess.check_output(command)).get("name") == "cgroups":
            dump = subprocess.check_output(("bpftool", "--json", "map", "dump", "id", number))
            return {
                int.from_bytes(bytes(int(b, 16) for b in entry["key"]), sys.byteorder)
                for entry in json.loads(dump)
            }
    raise AssertionError("no map of cgroups")


def test_cgroups_removed_during_their_birth(tmpfs: Path, cgroups: Cgroup) -> None:
    """Under a loader at work, and under others that start meanwhile: none stays."""
    options = (*FEW, "--tombstone", "0", "--max-containers", "8192")
    with ExitStack() as stack:

        def start() -> Loader:
            directory = Path(tempfile.mkdtemp(dir=tmpfs))
            return stack.enter_context(loader(directory, *options, interval=0.1))

        loaders = [start()]
        scripts = (code.format(count=4000, top=cgroups.path) for code in (REMOVER, MAKER))
        both = [subprocess.Popen([sys.executable, "-S", "-c", code]) for code in scripts]
        while both[0].poll() is None and len(loaders) < 5:
            loaders.append(start())
        assert [process.wait(60) for process in both] == [0, 0]
        assert len(loaders) > 1
        a = cgroups.child("a.service")
        for running in loaders:
            wait_for("all that is gone to be forgotten", partial(all_there, running))
            exact(running, a)


def all_there(running: Loader) -> bool:
    """Others on this machine come and go too, so this may be true in a later snapshot only."""
    dump, known = running.fresh(), cgroups_known(running)
    owners = {s["cgroup_id"] for s in dump.slots.values()}
    there = set()
    for directory, _, _ in os.walk(cgroup2()):
        with suppress(FileNotFoundError):
            there.add(os.stat(directory).st_ino)
    for name in ("slots_exhausted", "cgroups_map_full", "slots_evicted"):
        assert dump.loader[f"kpod_{name}_total"] == 0
    assert len(owners) == len(dump.slots), "one owner, one slot"
    return owners | known <= there and len(owners) == dump.loader["kpod_slots_used"]


# ---- a kernel that refuses -----------------------------------------------------------------------


def all_down(done: subprocess.CompletedProcess[str], cause: str) -> None:
    """It was stopped after it had said that nothing works, and why."""
    assert done.returncode in (0, 124), done.stderr
    down = [line for line in done.stderr.splitlines() if ": down: " in line]
    assert len(down) == 3
    assert cause in down[0]
    assert all("needs collector cgroup" in line for line in down[1:])
    assert "snapshots every" in done.stderr


def briefly(tmpfs: Path, *options: str) -> list[str]:
    return [
        *("timeout", "-s", "TERM", "3", str(LOADER), "run", *options),
        *("--segment", f"{tmpfs}/segment", "--interval", "0.2"),
    ]


def test_kernel_without_btf(tmpfs: Path) -> None:
    hide = mounted("mount -t tmpfs none /sys/kernel/btf")
    done = run(*hide, *briefly(tmpfs, *FEW))
    all_down(done, "BTF")
    assert list(tmpfs.iterdir()) == []
    doctor = run(*hide, str(LOADER), "doctor", *FEW)
    assert doctor.returncode == 1
    assert "CONFIG_DEBUG_INFO_BTF" in doctor.stdout


@contextmanager
def refused(running: Loader, calls: str) -> Iterator[None]:
    """Calls of a loader at work, as strace injects it."""
    command = ["strace", "-f", "-o", "/dev/null", "-p", str(running.process.pid)]
    status = Path(f"/proc/{running.process.pid}/status")
    tracer = subprocess.Popen([*command, "-e", f"inject={calls}"], stderr=subprocess.DEVNULL)
    try:
        wait_for("strace", lambda: "TracerPid:\t0\n" not in status.read_text())
        yield
    finally:
        tracer.terminate()
        tracer.wait(20)


def test_bpf_refused(tmpfs: Path) -> None:
    """As by a seccomp profile of the container runtime."""
    refuse = ["strace", "-qq", "-f", "-o", "/dev/null", "-e", "inject=bpf:error=EPERM"]
    done = run(*refuse, *briefly(tmpfs, *FEW))
    all_down(done, "Operation not permitted")
    assert list(tmpfs.iterdir()) == []


def test_long_snapshot_does_not_look_like_a_dead_loader(tmpfs: Path, cgroups: Cgroup) -> None:
    """Each call of the kernel takes seconds, as on a node that is far too busy: the heartbeat goes
    on, and the last snapshot is served with its age. What hangs for good is named so."""
    cgroups.child("a.service")
    with loader(tmpfs, *FEW, interval=0.5) as running, aggregator(tmpfs) as served:
        running.fresh()
        with refused(running, "bpf:delay_enter=40s:when=20"):
            seen = 0.0
            begun = time.monotonic()
            while seen < 7 and time.monotonic() - begun < 60:
                samples = served.samples()
                values = {name: value for (name, labels), value in samples.items() if not labels}
                seen = max(seen, values["kpod_snapshot_age_seconds"])
                assert values["kpod_loader_up"] == 1
                assert any(name == "kpod_cpu_oncpu_seconds_total" for name, _ in samples)
                time.sleep(0.2)
            assert seen > 7, "it was busy for longer than the heartbeat's old limit"
            assert sum(served.series("kpod_scrapes_served_old_total", reason="timeout").values())
            wait_for(
                "it to be named as gone",
                lambda: not sum(served.series("kpod_loader_up").values()),
                60,
            )


def test_bpf_refused_at_work(tmpfs: Path, cgroups: Cgroup) -> None:
    """Slots are given back when it works again; till then the last totals are there, and only once.

    The kernel's own locks may be refused too, to break a deadlock (rqspinlock, since 6.15).
    """
    options = (*FEW, "--tombstone", "0", "--max-containers", "1")
    with loader(tmpfs, *options) as running:
        gone = [cgroups.child(f"{i}.service") for i in range(8)]
        exact(running, gone[0])
        last = running.fresh().total(gone[0].id, ONCPU)
        with refused(running, "bpf:error=EBUSY"):
            before = running.fresh()
            for cgroup in gone:
                cgroup.remove()
            for _ in range(5):
                dump = running.fresh()
            assert all(dump.slot(cgroup.id) for cgroup in gone)
            assert dump.total(gone[0].id, ONCPU) >= last
            assert dump.loader["kpod_flush_failures_total"] > 0
            assert dump.loader["kpod_slots_used"] >= before.loader["kpod_slots_used"]
        wait_for("their end", lambda: not any(running.dump().slot(c.id) for c in gone))
        again_all(running, cgroups)


def test_tracefs_absent(tmpfs: Path, cgroups: Cgroup) -> None:
    """Nothing that has BTF needs it."""
    with loader(tmpfs, "--profile", "comprehensive") as running:
        usual = [line for line in running.log if "collector" in line]
    with loader(tmpfs, "--profile", "comprehensive", prefix=WITHOUT_TRACEFS) as running:
        assert [line for line in running.log if "collector" in line] == usual
        exact(running, cgroups.child("a.service"))


# ---- descriptors ---------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [4, 6, 10, 16, 24, 32, 48, 64])
def test_descriptors_exhausted(tmpfs: Path, limit: int) -> None:
    """Too few to begin with is one clear line; too few for all is a collector that says so."""
    done = run("prlimit", f"--nofile={limit}:{limit}", *briefly(tmpfs, *FEW))
    assert done.returncode in (0, 1, 124), (done.returncode, done.stderr)
    assert "Too many open files" in done.stderr or limit >= 48, done.stderr
    assert list(tmpfs.iterdir()) == []


def test_descriptors_exhausted_at_work(tmpfs: Path, cgroups: Cgroup) -> None:
    """What is open stays open; a segment that cannot be made anew is said, and made later."""
    with loader(tmpfs, *FEW) as running:
        first = running.fresh()
        pid = running.process.pid
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, usual[1]))
        running.segment.unlink()
        assert running.process.stderr
        line = running.process.stderr.readline()
        assert "cannot write a snapshot" in line
        assert "Too many open files" in line
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        wait_for("another segment", running.segment.exists)
        assert running.fresh().sequence > first.sequence
        exact(running, cgroups.child("a.service"))
        assert running.stop(signal.SIGTERM) == 0


def test_descriptors_exhausted_while_overhead_is_measured(tmpfs: Path) -> None:
    """What cannot be measured is not taken for calm."""
    options = ("--max-overhead", "100", "--governor-tick", "0.02")
    with loader(tmpfs, *FEW, *options, program=TEST_LOADER, interval=3600) as running:
        pid = running.process.pid
        time.sleep(0.5)  # some windows
        usual = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, usual[1]))
        assert running.process.stderr
        line = running.process.stderr.readline()
        assert "overhead is not measured now: BPF statistics: Too many open files" in line
        resource.prlimit(pid, resource.RLIMIT_NOFILE, usual)
        assert running.stop() == 0
    assert len([line for line in running.log if "overhead" in line]) <= 1
