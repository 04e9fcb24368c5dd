"""Workloads of a known size in pure cgroup v2, with all controllers."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.kernel.test_cgroup_files import BURN, USAGE, divides, errors, flat
from tests.live import IDLER, PRELUDE, Cgroup, Dump, Worker, loader

pytestmark = pytest.mark.guest("cgroup_cpu", "cgroup_memory", "cgroup_io", "cgroup_pids")

MIB = 1 << 20
MEMORY_STAT = 4  # seconds; the kernel adds it up every two, and else if there is much of it
BATCHES = 2 * MIB  # in which each CPU charges and counts

WRITER = (
    PRELUDE
    + """
import mmap
block = mmap.mmap(-1, 1 << 20)
disk = os.open("/dev/vdb", os.O_WRONLY | os.O_DIRECT)
for i in range(64): assert os.write(disk, block) == 1 << 20
os.close(disk)
gate()
"""
)
TOUCHER = (
    "import mmap"
    + PRELUDE
    + """
memory = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, 32 << 20, 4096): memory[at] = 1
gate()
"""
)
# A process that asks for more than its cgroup may have, and the one that waits for its end.
EATER = (
    PRELUDE
    + """
pid = os.fork()
if not pid:
    x = bytearray(64 << 20)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 9
gate()
"""
)
FORKER = (
    PRELUDE
    + """
failed = 0
for _ in range(4):
    try:
        if not os.fork(): time.sleep(1000)
    except BlockingIOError: failed += 1
assert failed == 2
gate()
"""
)


@pytest.fixture
def top(cgroups: Cgroup) -> Cgroup:
    (cgroups.path / "cgroup.subtree_control").write_text("+cpu +memory +io +pids")
    # Huge pages would touch what no process has touched.
    if (huge := Path("/sys/kernel/mm/transparent_hugepage/enabled")).exists():
        huge.write_text("never")
    return cgroups


def metrics(row: dict[str, int], prefix: str) -> dict[str, int]:
    return {n.removeprefix(prefix): v for n, v in row.items() if n.startswith(prefix)}


def memory(dump: Dump, cgroup: Cgroup) -> dict[str, int]:
    return metrics(dump.row(cgroup.id, "cgroup_memory"), "kpod_cgroup_memory_")


def work(
    tmpfs: Path,
    cgroup: Cgroup,
    code: str,
    settle: float = 0,
    settled: Callable[[Dump], bool] = lambda _: True,
) -> tuple[Dump, Dump, Worker]:
    """Snapshots before and after, when it has stood still for so many seconds, and settled."""
    with loader(tmpfs) as running:
        worker = Worker(cgroup, code)
        time.sleep(settle)
        before = running.fresh()
        worker.go()
        worker.stopped()
        time.sleep(settle)
        for _ in range(20):
            after = running.fresh()
            if settled(after):
                break
        else:
            pytest.fail("the snapshots are not what the kernel says")
        again = running.fresh()
    for table in ("cgroup_cpu", "cgroup_pids"):
        assert after.row(cgroup.id, table) == again.row(cgroup.id, table)
    assert after.by_key(cgroup.id, "cgroup_io") == again.by_key(cgroup.id, "cgroup_io")
    assert set(errors(after).values()) == {0}
    return before, after, worker


def test_cpu_and_its_limit(tmpfs: Path, top: Cgroup) -> None:
    a, b = top.child("a.service"), top.child("b.service")
    (b.path / "cpu.max").write_text("20000 100000")
    (b.path / "cpu.weight").write_text("42")
    with loader(tmpfs) as running:
        free, held = (Worker(c, BURN.format(seconds=1)) for c in (a, b))
        before, start = running.fresh(), [w.schedstat()[0] for w in (free, held)]
        for worker in (free, held):
            worker.go()
        for worker in (free, held):
            worker.stopped()
        time.sleep(1)  # the last period of the quota ends
        end, after = [w.schedstat()[0] for w in (free, held)], running.fresh()
        said = flat(b.path / "cpu.stat")
    for cgroup, first, last in zip((a, b), start, end, strict=True):
        moved = [d.row(cgroup.id, "cgroup_cpu")[USAGE] for d in (before, after)]
        assert moved[1] - moved[0] == pytest.approx((last - first) / 1000, rel=0.02)
        assert moved[1] - moved[0] >= 1_000_000
    divides(after.row(b.id, "cgroup_cpu"), said, alike=False)
    found = metrics(after.row(b.id, "cgroup_cpu"), "kpod_cgroup_cpu_")
    del found["user_seconds_total"], found["system_seconds_total"]
    assert found == {
        "usage_seconds_total": said["usage_usec"],
        "periods_total": said["nr_periods"],
        "throttled_periods_total": said["nr_throttled"],
        "throttled_seconds_total": said["throttled_usec"],
        "quota_seconds": 20_000,
        "period_seconds": 100_000,
        "weight": 42,
    }
    assert found["throttled_periods_total"] > 5
    assert "kpod_cgroup_cpu_quota_seconds" not in after.row(a.id, "cgroup_cpu"), "max"


def test_memory_that_is_touched(
    tmpfs: Path, top: Cgroup, record_property: Callable[[str, object], None]
) -> None:
    a, b = top.child("a.service"), top.child("b.service")
    (a.path / "memory.max").write_text(str(256 * MIB))
    _idle = Worker(b, IDLER)

    def is_the_kernels(dump: Dump) -> bool:
        row, said = memory(dump, a), flat(a.path / "memory.stat")
        return (
            row["usage_bytes"] == int((a.path / "memory.current").read_text())
            and row["working_set_bytes"] == row["usage_bytes"] - said["inactive_file"]
            and row["rss_bytes"] == said["anon"]
            and row["cache_bytes"] == said["file"]
            and row["slab_bytes"] == said["slab"]
        )

    before, after, _toucher = work(tmpfs, a, TOUCHER, MEMORY_STAT, is_the_kernels)
    first, last = memory(before, a), memory(after, a)
    for name in ("usage_bytes", "working_set_bytes", "rss_bytes"):
        assert last[name] - first[name] == pytest.approx(32 * MIB, abs=BATCHES), name
    said = flat(a.path / "memory.stat")
    assert last["limit_bytes"] == 256 * MIB
    if not (a.path / "memory.peak").exists():
        record_property("lacks", "cgroup_memory: no `memory.peak` (5.19)")
    if "kernel" not in said:
        record_property("lacks", "cgroup_memory: no `kernel` in `memory.stat` (5.18)")
    assert ("peak_bytes" in last) == (a.path / "memory.peak").exists()
    assert last.get("peak_bytes", last["usage_bytes"]) >= last["usage_bytes"]
    assert ("kernel_bytes" in last) == ("kernel" in said)
    assert "limit_bytes" not in memory(after, b)
    idle = memory(before, b)["rss_bytes"]
    assert memory(after, b)["rss_bytes"] == pytest.approx(idle, abs=BATCHES)


def test_oom_kill_of_the_victim(tmpfs: Path, top: Cgroup) -> None:
    a, b = top.child("a.service"), top.child("b.service")
    (a.path / "memory.max").write_text(str(32 * MIB))
    if (a.path / "memory.swap.max").exists():
        (a.path / "memory.swap.max").write_text("0")
    _idle = Worker(b, IDLER)
    before, after, _ = work(tmpfs, a, EATER, MEMORY_STAT)
    first, last, other = memory(before, a), memory(after, a), memory(after, b)
    said = flat(a.path / "memory.events")
    for event in ("low", "high", "max", "oom", "oom_kill"):
        assert last[f"events_total{{{event}}}"] == said[event]
        assert other[f"events_total{{{event}}}"] == 0
    assert last["events_total{oom_kill}"] - first["events_total{oom_kill}"] == 1
    assert last["events_total{max}"] > first["events_total{max}"]


def test_direct_writes_by_device(tmpfs: Path, top: Cgroup) -> None:
    a, b = top.child("a.service"), top.child("b.service")
    _idle = Worker(b, IDLER)
    before, after, _ = work(tmpfs, a, WRITER)
    disk, none = "kpod_disk_bytes_total{{{}}}".format, "kpod_disk_operations_total{{{}}}".format
    first = before.by_key(a.id, "cgroup_io").get(("vdb",), {})
    last = after.by_key(a.id, "cgroup_io")["vdb",]
    written = last[disk("write")] - first.get(disk("write"), 0)
    assert written == pytest.approx(64 * MIB, rel=0.02)
    number = os.stat("/dev/vdb").st_rdev
    (line,) = (
        line.split()[1:]
        for line in (a.path / "io.stat").read_text().splitlines()
        if line.startswith(f"{os.major(number)}:{os.minor(number)} ")
    )
    said = dict(item.split("=") for item in line)
    assert last[none("write")] == int(said["wios"])
    assert last[disk("read")] == int(said["rbytes"])
    assert ("vdb",) not in after.by_key(b.id, "cgroup_io")


def test_pids_and_their_limit(tmpfs: Path, top: Cgroup) -> None:
    a, b = top.child("a.service"), top.child("b.service")
    (a.path / "pids.max").write_text("3")
    _idle = Worker(b, IDLER)
    _, after, _ = work(tmpfs, a, FORKER)
    assert metrics(after.row(a.id, "cgroup_pids"), "kpod_cgroup_") == {
        "pids": 3,
        "pids_limit": 3,
        "pids_limit_hits_total": 2,
    }
    assert metrics(after.row(b.id, "cgroup_pids"), "kpod_cgroup_") == {
        "pids": 1,
        "pids_limit_hits_total": 0,
    }


def test_as_runc_says(tmpfs: Path, tmp_path: Path) -> None:
    """Side by side with `runc events --stats`, on a container that stands still."""
    name = f"kpod-test-{os.getpid()}"
    bundle = tmp_path / "bundle"
    (bundle / "rootfs").mkdir(parents=True)
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    spec = json.loads((bundle / "config.json").read_text())
    burn = "x = bytearray(8 << 20)\nfor i in range(10**6): pass\nprint(1, flush=True)\n"
    spec["process"] |= {"terminal": False, "args": ["python3", "-c", f"{burn}input()"]}
    spec["mounts"] = [m for m in spec["mounts"] if m["destination"] in ("/proc", "/dev")]
    for path in filter(os.path.exists, ("/usr", "/lib", "/lib64", "/bin")):
        (bundle / f"rootfs{path}").mkdir()
        options = ["bind", "ro"]
        spec["mounts"].append(
            {"destination": path, "type": "bind", "source": path, "options": options}
        )
    spec["linux"]["cgroupsPath"] = f"/{name}/docker-{'ab' * 32}.scope"
    spec["linux"]["resources"] |= {"memory": {"limit": 512 * MIB}, "pids": {"limit": 50}}
    (bundle / "config.json").write_text(json.dumps(spec))
    runc = subprocess.Popen(
        ["runc", "run", name], cwd=bundle, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert runc.stdout
        assert runc.stdout.readline() == "1\n"
        with loader(tmpfs) as running:
            dump = running.fresh()
            events = json.loads(
                subprocess.check_output(["runc", "events", "--stats", name], text=True)
            )["data"]
        (slot,) = (s for s in dump.slots.values() if f"/{name}/" in s["path"])
        cpu = metrics(dump.row(slot["cgroup_id"], "cgroup_cpu"), "kpod_cgroup_cpu_")
        used = metrics(dump.row(slot["cgroup_id"], "cgroup_memory"), "kpod_cgroup_memory_")
        pids = metrics(dump.row(slot["cgroup_id"], "cgroup_pids"), "kpod_cgroup_")
        assert cpu["usage_seconds_total"] * 1000 == events["cpu"]["usage"]["total"]
        assert cpu["user_seconds_total"] * 1000 == events["cpu"]["usage"]["user"]
        assert cpu["system_seconds_total"] * 1000 == events["cpu"]["usage"]["kernel"]
        usage = events["memory"]["usage"]["usage"]
        assert used["usage_bytes"] == pytest.approx(usage, abs=BATCHES)
        assert used["limit_bytes"] == events["memory"]["usage"]["limit"] == 512 * MIB
        assert used["rss_bytes"] == events["memory"]["raw"]["anon"] > 8 * MIB
        assert pids["pids"] == events["pids"]["current"]
        assert pids["pids_limit"] == events["pids"]["limit"] == 50
    finally:
        runc.communicate("\n", timeout=60)
        subprocess.run(["runc", "delete", "--force", name], check=False, capture_output=True)
