"""What the kernel charges to a pod's own cgroup is in the pod's row, as its own files say."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.test_cgroup_files import BURN, errors, flat
from tests.live import IDLER, PRELUDE, Cgroup, Dump, Worker, loader, wait_for
from tests.vm.guest.test_controllers import (
    BATCHES,
    EATER,
    FORKER,
    MIB,
    metrics,
    top,
)

__all__ = ["top"]

pytestmark = pytest.mark.guest("cgroup_cpu", "cgroup_memory", "cgroup_io", "cgroup_pids")

CONTROLLERS = "+cpu +memory +io +pids"
POD, POD_CONTAINER = 3, 4  # KPOD_CGROUP_…
VOLUME = 16 * MIB
DISK = 4 * MIB

# Fills a volume in memory, and writes to a disk.
FILLER = (
    "import mmap"
    + PRELUDE
    + f"""
block = mmap.mmap(-1, 1 << 20)
with open(VOLUME, "wb") as file:
    for i in range({VOLUME // MIB}): file.write(block)
disk = os.open("/dev/vdb", os.O_WRONLY | os.O_DIRECT)
for i in range({DISK // MIB}): assert os.write(disk, block) == 1 << 20
os.close(disk)
gate()
"""
)


class Pod(Cgroup):
    """As the kubelet makes it, on cgroupfs, with one container."""

    def __init__(self, top: Cgroup, number: int) -> None:
        self.uid = f"{number:08x}-2222-3333-4444-555555555555"
        super().__init__(top.below(f"kubepods/pod{self.uid}").path, there=True)
        for path in (self.path.parent, self.path):
            (path / "cgroup.subtree_control").write_text(CONTROLLERS)
        self.container = self.child(f"{number:064x}")

    def limit(self, name: str, value: str) -> None:
        (self.path / name).write_text(value)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A memory emptyDir."""
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    yield tmp_path / "file"
    subprocess.run(["umount", tmp_path], check=True)


def words(dump: Dump, cgroup: Cgroup) -> dict[str, int]:
    """A cgroup's, without what families begin with. Those of pods are families of their own
    (kpod_pod_… for kpod_cgroup_…), so that sums over containers do not take them in.
    """
    table, family = (
        ("pod_", "kpod_pod_") if isinstance(cgroup, Pod) else ("cgroup_", "kpod_cgroup_")
    )
    found: dict[str, int] = {}
    for kind in ("memory", "cpu", "pids"):
        found |= metrics(dump.row(cgroup.id, table + kind), family)
    return found


def written(dump: Dump, cgroup: Cgroup) -> int:
    """To the disk."""
    table, family = ("pod_", "kpod_pod_") if isinstance(cgroup, Pod) else ("cgroup_", "kpod_")
    row = dump.by_key(cgroup.id, f"{table}io").get(("vdb",), {})
    return int(row.get(f"{family}disk_bytes_total{{write}}", 0))


def limit_of(path: Path) -> int | None:
    text = path.read_text().strip()
    return None if text == "max" else int(text)


def differences(dump: Dump, cgroup: Cgroup) -> list[str]:
    """Between a cgroup's row and its files: of words that do not move while all stand
    still."""
    at = cgroup.path
    stat, events = flat(at / "memory.stat"), flat(at / "memory.events")
    cpu, quota = flat(at / "cpu.stat"), (at / "cpu.max").read_text().split()
    said = {
        "memory_usage_bytes": int((at / "memory.current").read_text()),
        "memory_cache_bytes": stat["file"],
        "memory_rss_bytes": stat["anon"],
        "memory_limit_bytes": limit_of(at / "memory.max"),
        **{
            f"memory_events_total{{{name}}}": events[name]
            for name in ("low", "high", "max", "oom", "oom_kill")
        },
        "cpu_usage_seconds_total": cpu["usage_usec"],
        "cpu_periods_total": cpu["nr_periods"],
        "cpu_throttled_periods_total": cpu["nr_throttled"],
        "cpu_throttled_seconds_total": cpu["throttled_usec"],
        "cpu_quota_seconds": None if quota[0] == "max" else int(quota[0]),
        "cpu_period_seconds": int(quota[1]),
        "cpu_weight": int((at / "cpu.weight").read_text()),
        "pids": int((at / "pids.current").read_text()),
        "pids_limit": limit_of(at / "pids.max"),
        "pids_limit_hits_total": flat(at / "pids.events")["max"],
    }
    found = words(dump, cgroup)
    return [f"{at.name} {k}: {found.get(k)}, not {v}" for k, v in said.items() if found.get(k) != v]


def written_by_kernel(cgroup: Cgroup) -> int:
    """By its io.stat, to /dev/vdb."""
    number = os.stat("/dev/vdb").st_rdev
    for line in (cgroup.path / "io.stat").read_text().splitlines():
        device, *items = line.split()
        if device == f"{os.major(number)}:{os.minor(number)}":
            return int(dict(item.split("=") for item in items)["wbytes"])
    return 0


def test_a_pods_row_is_its_own_cgroup(tmpfs: Path, top: Cgroup, volume: Path) -> None:
    """A volume in memory that outlives its container, throttling by the pod's quota, forks that
    fail for the pod's limit, and a kill for the pod's memory. Its containers' rows, beside it, have
    what is theirs.
    """
    volumes, slow, narrow, small = pods = [Pod(top, i) for i in range(1, 5)]
    filler = Worker(volumes.container, f"VOLUME = {str(volume)!r}\n" + FILLER)
    burner = Worker(slow.container, BURN.format(seconds=0.3))
    forker = Worker(narrow.container, FORKER)
    eater = Worker(small.container, EATER)
    # Not before: in a guest it takes long until Python has started.
    slow.limit("cpu.max", "20000 100000")
    narrow.limit("pids.max", "3")
    if (small.path / "memory.swap.max").exists():
        small.limit("memory.swap.max", "0")
    small.limit("memory.max", str(32 * MIB))
    with loader(tmpfs) as running:
        filler.go()
        filler.stopped()
        first = running.fresh()
        filler.end()
        old = volumes.container
        old.remove()
        volumes.container = volumes.child(f"{0xB:064x}")
        _successor = Worker(volumes.container, IDLER)
        for worker in (burner, forker, eater):
            worker.go()
        for worker in (burner, forker, eater):
            worker.stopped()

        left: list[str] = []

        def agrees() -> Dump | None:
            dump = running.fresh()
            left[:] = [
                line for pod in pods for c in (pod, pod.container) for line in differences(dump, c)
            ]
            return None if left else dump

        try:
            dump = wait_for("rows that are as the kernel's files", agrees, 5)
        except TimeoutError:
            pytest.fail("\n".join(left))

    for each in pods:
        assert (dump.slot(each.id) or {})["kind"] == POD
        assert (dump.slot(each.container.id) or {})["kind"] == POD_CONTAINER
    assert set(errors(dump).values()) <= {0}

    # The container's memory went with it, but not what it wrote to the volume, nor to the disk.
    assert words(first, old)["memory_cache_bytes"] > VOLUME - BATCHES
    assert words(dump, volumes)["memory_usage_bytes"] >= VOLUME
    assert words(dump, volumes)["memory_cache_bytes"] > VOLUME - BATCHES
    assert words(dump, volumes.container)["memory_cache_bytes"] < BATCHES
    assert written(dump, volumes) == written_by_kernel(volumes) == DISK
    assert written(dump, volumes.container) == 0

    pod, container = words(dump, slow), words(dump, slow.container)
    assert pod["cpu_quota_seconds"] == 20_000
    assert pod["cpu_throttled_periods_total"] > 5
    assert pod["cpu_throttled_seconds_total"] > 0.3e6
    assert "cpu_quota_seconds" not in container
    assert container["cpu_throttled_periods_total"] == 0

    pod, container = words(dump, narrow), words(dump, narrow.container)
    assert pod["pids"] == pod["pids_limit"] == 3
    assert "pids_limit" not in container
    # Since 6.11 (pids_event()) the cgroup counts whose limit it is; before, the one that forks.
    assert sorted(w["pids_limit_hits_total"] for w in (pod, container)) == [0, 2]

    pod, container = words(dump, small), words(dump, small.container)
    assert pod["memory_limit_bytes"] == 32 * MIB
    assert "memory_limit_bytes" not in container
    assert pod["memory_events_total{oom_kill}"] == 1
    assert pod["memory_events_total{oom}"] >= 1
    assert container["memory_events_total{oom}"] == 0, "it was the pod's limit"
