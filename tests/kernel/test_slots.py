"""Slots: reuse, leaks, shortage, order. Each cgroup's numbers stay its own."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from tests.aggregator.paths import FORGED, NODES, PATHS, SERVICES
from tests.live import (
    HOST,
    IDLE,
    IDLER,
    LOADER,
    ONCPU,
    SLOWNESS,
    VOLUNTARY,
    Cgroup,
    Dump,
    Loader,
    Worker,
    cgroup2,
    exact,
    loader,
    node_root,
    nodes,
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
    options = ("--tombstone", "0", "--max-containers", "64", "--others-share", "100")
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


EXITS = "kpod_process_exits_total{success}"
UID = "12345678-1234-1234-1234-1234567890ab"
POD = f"kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice"
IDS = [f"{i:064x}" for i in range(0xABC000, 0xABC400)]


@pytest.mark.guest("cgroup_cpu")
def test_pods_only(tmpfs: Path, cgroups: Cgroup) -> None:
    before = cgroups.below(f"{POD}/cri-containerd-{IDS[0]}.scope")
    pod = cgroups.below(POD)
    cgroups.child("old.service")
    with loader(tmpfs, "--pods-only") as running:
        unit = cgroups.child("new.service")
        after = pod.child(f"cri-containerd-{IDS[1]}.scope")
        dump = running.fresh()
        assert dump.slot(unit.id) is None
        assert {s["cgroup_id"] for s in dump.slots.values()} == {1, pod.id, before.id, after.id}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("node", [True, False])
def test_pod_in_a_container(tmpfs: Path, cgroups: Cgroup, first: bool, node: bool) -> None:
    """As in kind: what runs in the pod's own cgroup is the pod's. Where no node is, it is none."""
    outer = cgroups.child(f"docker-{IDS[0]}.scope")
    pod = outer.below(POD) if first else None
    root = f"/{outer.path.relative_to(cgroup2())}" if node else "/"
    with node_root(root), loader(tmpfs) as running:
        pod = pod or outer.below(POD)
        dump = exact(running, pod if node else outer, inside=pod)
        exact(running, outer)
        found = dump.slot(pod.id)
        assert (found["kind"] if found else None) == (3 if node else None)


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(("path", "kind"), [row[1:] for row in FORGED], ids=[r[0] for r in FORGED])
def test_nobody_else_is_a_pod(
    tmpfs: Path, cgroups: Cgroup, path: str, kind: int, first: bool
) -> None:
    """Before the loader's start and after it; and with others' names the kernel agrees."""
    made = cgroups.below(path) if first else None
    with loader(tmpfs, "--collectors", "cgroup") as running:
        made = made or cgroups.below(path)
        dump = running.fresh()
    ours = [s for s in dump.slots.values() if f"/{cgroups.path.name}/" in s["path"]]
    assert [s["kind"] for s in ours][-1:] == ([kind] if kind else [])
    assert not {3, 4} & {s["kind"] for s in ours}
    assert made.path.exists()


# Where others than the kubelet may make cgroups: a login user's slice, its rootless container, a
# privileged container, a container with a delegated cgroup, a service, a machine, and beside them.
OTHERS = (
    b"user.slice/user-1000.slice/user@1000.service",
    b"user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + b"a" * 64 + b".scope",
    b"docker/" + b"b" * 64,
    b"system.slice/docker-" + b"c" * 64 + b".scope",
    b"system.slice/web.service",
    b"lxc.payload.web",
    b"anything",
)
KUBELETS = (b"kubepods", b"kubepods.slice", b"kubelet", b"kubelet.slice", b"pod" + UID.encode())


def odd_names(random: Random) -> Iterator[bytes]:
    """What the kernel allows (cgroup_mkdir(), kernfs): any bytes but NUL, newline and a slash."""
    u = UID.replace("-", "_").encode()
    pieces = (
        *KUBELETS,
        b"kubepods-pod" + u + b".slice",
        b"kubepods-pod" + u + b".slice:cri-containerd:" + b"d" * 64,
        b"e" * 64,
        b"crio-" + b"f" * 64 + b".scope",
    )
    for piece in pieces:
        yield piece
        odd = bytes(random.choice(range(1, 256)) for _ in range(random.choice((1, 2, 60, 200))))
        odd = odd.translate(None, b"/\n")[: 255 - len(piece)]
        yield from (piece + odd, odd + piece)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("first", [True, False])
def test_no_name_makes_a_pod(tmpfs: Path, cgroups: Cgroup, first: bool, seed: int) -> None:
    """With any bytes, as a child of any place and as the parent of what looks like a container:
    kernel program and walk agree that it is none. The kubelet's pod beside them is one.
    """
    random = Random(seed)
    top = os.fsencode(cgroups.path)
    paths = []
    for place in OTHERS:
        for name in odd_names(random):
            kubelet = random.choice(KUBELETS)
            paths.append(random.choice((name, kubelet + b"/" + name, name + b"/" + kubelet)))
            paths[-1] = place + b"/" + paths[-1] + b"/" + b"9" * 64

    def make() -> None:
        for path in paths:
            os.makedirs(top + b"/" + path, exist_ok=True)

    cgroups.below(POD)
    if first:
        make()
    with loader(tmpfs, "--collectors", "cgroup") as running:
        if not first:
            make()
        dump = running.fresh()
    kinds = {s["path"].split("/", 2)[2]: s["kind"] for s in dump.slots.values() if s["path"] != "/"}
    assert [path for path, kind in kinds.items() if kind in (3, 4)] == [POD]
    assert len(kinds) > 5


@pytest.mark.parametrize("first", [True, False])
def test_a_path_that_is_too_long_is_never_cut(tmpfs: Path, cgroups: Cgroup, first: bool) -> None:
    """What would be left of it is the path of another. A user's container, and a service with such
    a path, are what is above them; a pod's has a row of its own that says no path.
    """
    user = cgroups.below("user.slice/user-1000.slice")
    long = "x" * 200

    def make() -> list[Cgroup]:
        return [
            user.below(f"{long}/{long}/{long}/libpod-{IDS[1]}.scope"),
            cgroups.below(f"{long}/{long}/{long}/web.service"),
            cgroups.below(f"kubepods/{long}/{long}/pod{UID}/{IDS[2]}"),
        ]

    made = make() if first else []
    with loader(tmpfs, "--collectors", "cgroup,cpu") as running:
        container, service, of_pod = made or make()
        dump = exact(running, user, inside=container)
        assert dump.slot(container.id) is dump.slot(service.id) is None
        dump = exact(running, of_pod)
        slot = dump.slot(of_pod.id)
        assert slot
        assert (slot["kind"], slot["path"]) == (4, "")
        assert dump.loader["kpod_cgroup_paths_truncated_total"] == 3


@pytest.mark.parametrize("first", [True, False])
def test_real_paths(tmpfs: Path, cgroups: Cgroup, first: bool) -> None:
    """Of each kind of the table, as kernel program and walk have it."""
    there = f"/{cgroups.path.relative_to(cgroup2())}"
    with ExitStack() as stack:
        for node in NODES:
            stack.enter_context(node_root(there + node))
        if first:
            for row in PATHS:
                cgroups.below(row[1]) if row[1] != "/" else None
        options = ("--collectors", "cgroup", "--cgroup-root", ",".join(nodes))
        services = [f"{there}{path}" for path in SERVICES]
        options = (*options[:-1], ",".join([*nodes, *services]))
        running = stack.enter_context(loader(tmpfs, *options))
        if not first:
            for row in PATHS:
                cgroups.below(row[1]) if row[1] != "/" else None
        dump = running.fresh()
    found = {s["path"].removeprefix(there): s["kind"] for s in dump.slots.values()}
    for what, path, kind, *_ in PATHS:
        at = path
        while at and at not in found:
            # Units that are summed have the path up to what their names have in common.
            name = at.rpartition("/")[2]
            summed = [p for p in found if p[-1] in "@-" and name.startswith(p.rpartition("/")[2])]
            if summed:
                at = summed[0]
                break
            at = at.rpartition("/")[0]
        assert (found[at] if at and path != "/" else 0) == kind, (what, at)


def on_cpu(cgroup: Cgroup) -> int:
    """Time on all CPUs of all tasks in and below it, by the scheduler, in ns."""
    text = (cgroup.path / "cpu.stat").read_text()
    return 1000 * int(text.split()[1])


@pytest.mark.parametrize("depth", [1, 15, pytest.param(16, marks=pytest.mark.guest("cpu")), 40])
@pytest.mark.parametrize("where", [f"{POD}/cri-containerd-{IDS[0]}.scope", "docker/" + IDS[1]])
def test_depth_hides_nothing(tmpfs: Path, cgroups: Cgroup, depth: int, where: str) -> None:
    """However deep in its container a process is, its time is the container's: the kernel counts
    no more in the whole tree.
    """
    container = cgroups.below(where)
    deepest = container.below("/".join(f"d{i}" for i in range(depth)))
    with loader(tmpfs, "--collectors", "cgroup,cpu") as running:
        before, was = running.fresh(), on_cpu(cgroups)
        dump = exact(running, container, inside=deepest)
        made = container.below("/".join(f"n{i}" for i in range(depth)))
        after = exact(running, container, inside=made)
        spent = on_cpu(cgroups) - was
        assert dump.slot(deepest.id) is None
        assert dump.slot(made.id) is None
        assert after.loader["kpod_cgroups_too_deep_total"] == 0
        assert spent > 0.02e9
        ours = after.total(container.id, ONCPU) - before.total(container.id, ONCPU)
        assert abs(ours - spent) <= 0.01 * spent + 5e6 * SLOWNESS


class Group(Cgroup):
    """What has a slot together with others: known by the first of them."""

    def __init__(self, first: int) -> None:
        self.id = first


def test_what_comes_and_goes_under_made_up_names_is_one_row(tmpfs: Path, cgroups: Cgroup) -> None:
    """Hundreds of short sessions, mounts and instances: a slot for each kind of them, exact."""
    with loader(tmpfs, "--collectors", "cgroup,cpu") as running:
        slice_ = cgroups.child("system.slice")
        made = [
            slice_.child(name.format(i))
            for i in range(100)
            for name in ("run-r{:032x}.scope", "sshd@{}-10.0.0.5:22.service", "session-{}.scope")
        ]
        for name in ("run-", "sshd@", "session-"):
            ours = [c for c in made if c.path.name.startswith(name)]
            slots = running.fresh().slots.values()
            (group,) = {s["cgroup_id"] for s in slots if s["path"].endswith(f"system.slice/{name}")}
            for cgroup in (ours[0], ours[-1]):
                exact(running, Group(group), inside=cgroup)
        slots = running.fresh().slots.values()
        assert sum(f"/{cgroups.path.name}/" in s["path"] for s in slots) == 3
        for cgroup in made:
            cgroup.remove()
        again = slice_.child("session-78.scope")
        exact(running, Group(group), inside=again)


def test_instances_that_are_asked_for_have_rows(tmpfs: Path, cgroups: Cgroup) -> None:
    with loader(tmpfs, "--collectors", "cgroup", "--instances", "pg@,run-") as running:
        shown = [cgroups.child("pg@15-main.service"), cgroups.child("run-u1.scope")]
        summed = cgroups.child("sshd@1.service"), cgroups.child("sshd@2.service")
        dump = running.fresh()
        assert all(dump.slot(c.id) for c in shown)
        assert [dump.slot(c.id) is None for c in summed] == [False, True]


# As uid 1000: makes cgroups named like containers, pods and units, and removes them. For as long as
# it is told, and until its input ends.
FLOOD = """
import os, select, sys, time
top, end, made = sys.argv[1], time.monotonic() + float(sys.argv[2]), 0
os.setgid(1000); os.setuid(1000)
names = ("libpod-{:064x}.scope", "pod{:08x}-2222-2222-2222-222222222222", "run-r{:032x}.scope",
         "kubepods-pod{:08x}_2222_2222_2222_222222222222.slice", "n{}.service")
while time.monotonic() < end or not select.select([0], [], [], 0)[0]:
    paths = [f"{top}/{names[i % len(names)].format(i)}" for i in range(made, made + 500)]
    for path in paths: os.mkdir(path)
    made += 500
    for path in paths: os.rmdir(path)
for i in range(2000): os.mkdir(f"{top}/pod-{i}"); os.mkdir(f"{top}/pod-{i}/{i:064x}")
print(made)
"""
# `KPOD_FLOOD=60 pytest -s ...` is a minute of it, and prints how many they were.
FLOOD_SECONDS = float(os.environ.get("KPOD_FLOOD", 4 * SLOWNESS))


def test_a_user_with_very_many_cgroups_blinds_nobody(tmpfs: Path, cgroups: Cgroup) -> None:
    """Of pods that were there, that come while it lasts, and that come after it, each container
    has its rows in all snapshots, and what it did, to the event.
    """
    user = cgroups.below("user.slice/user-1000.slice/user@1000.service")
    for path in (user.path, user.path / "cgroup.procs", user.path / "cgroup.subtree_control"):
        os.chown(path, 1000, 1000)
    pod = cgroups.below(POD)
    ids = iter(IDS)
    ours: list[Cgroup] = []

    def come() -> None:
        ours.append(pod.child(f"cri-containerd-{next(ids)}.scope"))

    def work(running: Loader) -> Dump:
        """The youngest container's CPU time and its oldest's processes are what they are."""
        dump = exact(running, ours[-1])
        first = dump.row(ours[0].id, "exec").get(EXITS, 0)
        for _ in range(10):
            subprocess.run(["/bin/true"], preexec_fn=ours[0].enter, check=True)
        dump = running.fresh()
        assert dump.row(ours[0].id, "exec")[EXITS] == first + 10
        return dump

    lost: list[str] = []
    seen = 0

    def watch(running: Loader, stop: threading.Event) -> None:
        nonlocal seen
        while not stop.is_set():
            there = {c.id for c in ours}
            dump = running.fresh()
            lost.extend(f"{i} in {dump.sequence}" for i in there if not dump.slot(i))
            seen += 1

    options = ("--collectors", "cgroup,cpu,exec", "--max-containers", "256")
    stop = threading.Event()
    with loader(tmpfs, *options) as running:
        come()
        work(running)
        watcher = threading.Thread(target=watch, args=(running, stop))
        watcher.start()
        try:
            flood = subprocess.Popen(
                [sys.executable, "-S", "-c", FLOOD, str(user.path), str(FLOOD_SECONDS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=user.enter,
            )
            end = time.monotonic() + FLOOD_SECONDS
            while len(ours) < 3 or (time.monotonic() < end and len(ours) < 100):
                come()
                work(running)
            made = int(flood.communicate(timeout=60 * SLOWNESS)[0])
            come()
            last = work(running)
        finally:
            stop.set()
            watcher.join()
        assert not lost
        there = f"{cgroups.path.name}/user.slice/"
        mine = [s for s in last.slots.values() if there in s["path"]]
        print(f"{made} cgroups, {len(ours)} containers, {seen} snapshots, user's: {len(mine)}")
        print({k: v for k, v in last.loader.items() if "slots" in k or "cgroups" in k})
        assert len(ours) >= 4
        assert seen >= 3
        assert len(mine) <= 1 + 32, "the user's slice and its share"
        assert not {3, 4} & {s["kind"] for s in mine}
        assert made >= 1000
        assert last.loader["kpod_slots_refused_total{user}"] >= made // 10
        assert last.loader["kpod_slots_exhausted_total"] == 0
        assert last.loader["kpod_cgroups_map_full_total"] == 0
        assert last.loader["kpod_snapshot_duration_seconds"] < 1e9 * SLOWNESS


def test_all_but_pods_have_a_share_of_the_slots(tmpfs: Path, cgroups: Cgroup) -> None:
    """What is beyond it is the host's until there is room; pods have the rest."""
    options = ("--tombstone", "0", "--max-containers", "127", "--others-share", "50")
    with loader(tmpfs, "--collectors", "cgroup,cpu", *options, interval=0.1) as running:
        share = running.fresh().loader["kpod_slots_others_max"]
        assert share == 64
        many = [cgroups.child(f"{i}.service") for i in range(share + 20)]
        pod = cgroups.below(POD)
        containers = [pod.child(f"cri-containerd-{cid}.scope") for cid in IDS[:50]]
        full = running.fresh()
        assert full.loader["kpod_slots_others_used"] == share
        assert full.loader["kpod_slots_refused_total{share}"] >= 20
        assert full.loader["kpod_slots_exhausted_total"] == 0
        assert all(full.slot(c.id) for c in containers)
        for cgroup in many[:-1]:
            cgroup.remove()
        wait_for("the last one's slot", lambda: running.dump().slot(many[-1].id))
        exact(running, many[-1])


def test_in_a_cluster_pods_and_services_are_shown(
    tmpfs: Path, cgroups: Cgroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    with loader(tmpfs, "--collectors", "cgroup") as running:
        wanted = [
            cgroups.below(POD),
            cgroups.below(f"{POD}/cri-containerd-{IDS[0]}.scope"),
            cgroups.below("system.slice/cron.service"),
        ]
        for path in (
            "user.slice/user-1000.slice/user@1000.service",
            f"user.slice/user-1000.slice/user@1000.service/libpod-{IDS[1]}.scope",
            f"docker/{IDS[2]}/inner.service",
            "lxc.payload.web/system.slice/cron.service",
        ):
            cgroups.below(path)
        dump = running.fresh()
        ours = [s for s in dump.slots.values() if f"/{cgroups.path.name}/" in s["path"]]
        assert {s["cgroup_id"] for s in ours} == {c.id for c in wanted}
        assert dump.loader["kpod_slots_others_max"] == dump.loader["kpod_slots_capacity"] // 4


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
