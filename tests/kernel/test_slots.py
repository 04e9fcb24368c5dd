"""Slots: reuse, leaks, shortage, order. Each cgroup's numbers stay its own."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.live import (
    HOST,
    IDLE,
    IDLER,
    LOADER,
    ONCPU,
    SLOWNESS,
    VOLUNTARY,
    Cgroup,
    Worker,
    exact,
    loader,
    wait_for,
)


@pytest.mark.guest("cpu")
def test_reused_slot_starts_from_zero(tmpfs: Path, cgroups: Cgroup) -> None:
    # Long enough for a dump to see the tombstone.
    with loader(tmpfs, "--tombstone", "1", interval=0.1 * SLOWNESS) as running:
        a = cgroups.child("a.service")
        first = exact(running, a)
        was = first.slot(a.id)
        assert was
        a.remove()
        dead = running.fresh().slot(a.id)
        assert dead
        assert dead["died_ns"], "a tombstone"
        wait_for("the slot to be free", lambda: running.dump().slot(a.id) is None)
        running.fresh()  # its last users are gone, and its rows are zeroed

        b = cgroups.child("b.service")
        empty = running.fresh()
        now = empty.slot(b.id)
        assert now
        assert now["slot"] == was["slot"], "the same slot, or this shows nothing"
        assert now["generation"] != was["generation"]
        assert empty.row(b.id) == {}
        worker = Worker(b, IDLER)
        last = running.fresh()
        oncpu, _, turns = worker.schedstat()
        assert 0 < last.total(b.id, ONCPU) <= oncpu
        assert 0 < sum(last.row(b.id)["kpod_cpu_runqueue_latency_seconds"]) <= turns


# For each of many cgroups: a process in it that sleeps twice, then says what the kernel counted.
CHURN = """
import os, resource, sys, time
top, count = sys.argv[1], int(sys.argv[2])
for i in range(count):
    path = f"{top}/churn{i}.service"
    os.mkdir(path)
    ino = os.stat(path).st_ino
    if i % 5:
        print(ino, 0)
        os.rmdir(path)
        continue
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        with open(path + "/cgroup.procs", "w") as f: f.write("0")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        time.sleep(0.0005)
        time.sleep(0.0005)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        os.write(write, str(after - before).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    switches = int(os.read(read, 20))
    os.close(read), os.close(write)
    while True:
        try:
            os.rmdir(path)
            break
        except OSError:
            time.sleep(0.0002)
    print(ino, switches + 1) # the last one is its end
"""


def test_churn_leaks_nothing_and_sums_stay_right(tmpfs: Path, cgroups: Cgroup) -> None:
    count = 5000
    owners: dict[int, set[tuple[int, int]]] = {}
    seen: dict[tuple[int, int], int] = {}
    options = ("--tombstone", "2", "--max-containers", "8192")  # or a slow reader misses some
    with loader(tmpfs, *options, interval=0.1) as running:
        start = running.fresh().loader
        stop = threading.Event()

        def collect() -> None:
            """Every snapshot's totals: of what is gone, the last ones remain here."""
            while True:
                last = stop.is_set()
                dump = running.dump()
                for owner, slot in dump.slots.items():
                    owners.setdefault(slot["cgroup_id"], set()).add(owner)
                    seen[owner] = dump.rows.get(("cpu", *owner), {}).get(VOLUNTARY, 0)
                if last:
                    return
                stop.wait(0.03)

        collector = threading.Thread(target=collect)
        collector.start()
        said = subprocess.check_output(
            [sys.executable, "-S", "-c", CHURN, str(cgroups.path), str(count)], text=True
        )
        running.fresh()
        stop.set()
        collector.join()
        wait_for(
            "all slots to be free again",
            lambda: running.dump().loader["kpod_slots_used"] <= start["kpod_slots_used"],
        )
        end = running.fresh().loader

    expected = {int(ino): int(n) for ino, n in map(str.split, said.splitlines())}
    assert len(expected) == count
    assert set(expected) <= set(owners), "each of them had a slot"
    got = {ino: sum(seen[o] for o in owners[ino]) for ino in expected}
    assert all(len(owners[ino]) == 1 for ino in expected), "one owner, one slot"
    assert sum(expected.values()) >= 2 * count // 5
    assert abs(sum(got.values()) - sum(expected.values())) <= 0.01 * sum(expected.values())
    wrong = {ino: (got[ino], n) for ino, n in expected.items() if got[ino] != n}
    assert len(wrong) <= count // 5 // 100, wrong
    assert not any(got[ino] for ino, n in expected.items() if not n), "an empty one moved"
    for name in ("exhausted", "evicted"):
        assert end[f"kpod_slots_{name}_total"] == 0
    assert end["kpod_cgroups_map_full_total"] == 0
    assert end["kpod_slots_used"] == start["kpod_slots_used"]


def test_shortage_is_counted_and_heals(tmpfs: Path, cgroups: Cgroup) -> None:
    options = ("--tombstone", "0", "--max-containers", "64")
    with loader(tmpfs, *options, interval=0.1) as running:
        capacity = running.fresh().loader["kpod_slots_capacity"]
        many = [cgroups.child(f"{i}.service") for i in range(capacity + 20)]
        full = running.fresh()
        assert full.loader["kpod_slots_used"] == capacity
        assert full.loader["kpod_slots_exhausted_total"] >= 20
        left_out = many[-1]
        assert full.slot(left_out.id) is None
        for cgroup in many[:-1]:
            cgroup.remove()
        found = wait_for("the last one's slot", lambda: running.dump().slot(left_out.id))
        assert found["path"].endswith(f"/{left_out.path.name}")
        exact(running, left_out)


@pytest.mark.guest("cgroup_cpu")
def test_pods_only(tmpfs: Path, cgroups: Cgroup) -> None:
    pod = "kubepods-pod12345678_1234_1234_1234_1234567890ab.slice"
    before = cgroups.child(pod).child("cri-containerd-" + "ab" * 32 + ".scope")
    cgroups.child("old.service")
    with loader(tmpfs, "--pods-only") as running:
        unit = cgroups.child("new.service")
        after = Cgroup(before.path.parent / ("cri-containerd-" + "cd" * 32 + ".scope"))
        dump = running.fresh()
        assert dump.slot(unit.id) is None
        assert {s["cgroup_id"] for s in dump.slots.values()} == {1, before.id, after.id}


@pytest.mark.parametrize("first", [True, False])
def test_pod_in_a_container(tmpfs: Path, cgroups: Cgroup, first: bool) -> None:
    """As in kind: what runs in the pod's own cgroup is the container's, whoever was there first."""
    name = "kubepods-pod12345678_1234_1234_1234_1234567890ab.slice"
    outer = cgroups.child("kind.service")
    pod = outer.child(name) if first else None
    with loader(tmpfs) as running:
        exact(running, outer, inside=pod or outer.child(name))


def test_only_the_host_idles(tmpfs: Path, cgroups: Cgroup) -> None:
    def idle_ticks() -> int:
        return int(Path("/proc/stat").read_text().split()[4])

    cgroups.child("a.service")
    with loader(tmpfs) as running:
        first = idle_ticks()
        running.fresh()
        idled = idle_ticks() - first
        dump = running.fresh()
    idle = {k: row[IDLE] for k, row in dump.rows.items() if k[0] == "cpu"}
    of_host = idle.pop(("cpu", 0, dump.slots[0, 0]["generation"]))
    assert of_host > 0 or not idled
    assert not any(idle.values())


def test_many_containers_grow_the_ring(tmpfs: Path, cgroups: Cgroup) -> None:
    """A snapshot that does not fit makes a new, larger segment; readers find it complete."""
    with loader(tmpfs, "--ring-size", "65536") as running:
        assert running.fresh().loader["kpod_ring_size_bytes"] == 65536
        inode = running.segment.stat().st_ino
        made = [cgroups.child(f"{'x' * 100}{i}.service") for i in range(300)]
        dump = running.fresh()
        assert dump.loader["kpod_ring_size_bytes"] > 65536
        assert all(dump.slot(c.id) for c in made)
        assert running.segment.stat().st_ino != inode
        assert dump.loader["kpod_snapshot_failures_total"] == 0


def test_dump_and_schema_are_json(tmpfs: Path) -> None:
    with loader(tmpfs) as running:
        dump = running.fresh()
        said = json.loads(subprocess.check_output([LOADER, "schema"]))
    row = dump.row(HOST)
    assert row[VOLUNTARY] > 0
    cpu = next(t for t in said["tables"] if t["name"] == "cpu")
    assert {c.partition("{")[0] for c in row} - {c["name"] for c in cpu["columns"]} == {
        *("type", "table", "slot", "generation", "keys")
    }
