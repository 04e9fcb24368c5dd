"""What all pods have and what the host has is what the kernel has counted: nothing twice, nothing
left out, however deep in its container a process is. The oracles are cpu.stat of the pods' cgroups
and /proc/stat."""

from pathlib import Path

import pytest

from tests.kernel.test_cpu import assert_counted_once, busy
from tests.kernel.test_exec import started
from tests.live import GUEST, HOST, ONCPU, PRELUDE, SLOWNESS, Cgroup, Dump, Worker, loader

DEPTHS = (16,) if GUEST else (1, 15, 16, 40)
FORKS = 100 // SLOWNESS
FORKED = "kpod_process_forks_total{process}"
USAGE = "kpod_cgroup_cpu_usage_seconds_total"  # dumps show the word itself: microseconds
POD_USAGE = "kpod_pod_cpu_usage_seconds_total"

# Makes processes, which end at once, and then works for a while.
WORK = (
    PRELUDE
    + f"""
for _ in range({FORKS}):
    pid = os.fork()
    if not pid: os._exit(0)
    os.waitpid(pid, 0)
end = time.process_time() + 0.15
while time.process_time() < end: pass
gate()
"""
)


def usage(cgroup: Cgroup) -> int:
    """Time on all CPUs of all tasks in and below it, by the scheduler, in ns."""
    return 1000 * int((cgroup.path / "cpu.stat").read_text().split()[1])


def forks(dump: Dump) -> int:
    """Of all rows, the host's included."""
    return sum(
        value
        for (table, _, _), row in dump.rows.items()
        if table == "exec"
        for name, value in row.items()
        if "forks" in name
    )


def same(ns: int, expected: int) -> bool:
    """But for what the kernel counts of a task that has not left the CPU yet."""
    return expected > 0 and abs(ns - expected) <= 0.01 * expected + 5e6 * SLOWNESS


@pytest.mark.guest("cpu", "exec", "cgroup_cpu")
def test_pods_and_host_are_the_nodes_counters(tmpfs: Path, cgroups: Cgroup) -> None:
    """Two pods, with containers that were there before the loader and others, one of each depth;
    a process in a pod's own cgroup, and a service.
    """
    kubepods = cgroups.below("kubepods")
    pods = [kubepods.below(f"burstable/pod{i:08x}-1234-1234-1234-1234567890ab") for i in range(2)]
    containers: list[Cgroup] = []
    deepest: list[Cgroup] = []

    def make(pod: Cgroup) -> None:
        for depth in DEPTHS:
            containers.append(pod.child(f"{len(containers) + 1:064x}"))
            deepest.append(containers[-1].below("/".join(f"d{i}" for i in range(depth))))

    make(pods[0])
    with loader(tmpfs, "--collectors", "cgroup,cpu,exec,cgroup_cpu") as running:
        make(pods[1])
        service = cgroups.child("a.service")
        workers = [Worker(cgroup, WORK) for cgroup in (*deepest, pods[0], service)]
        spent = [usage(cgroup) for cgroup in (*containers, *pods, kubepods)]
        worked, made = [busy()], [started()]
        before = running.fresh()
        worked.append(busy())
        made.append(started())
        for worker in workers:
            worker.go()
        for worker in workers:
            worker.stopped()
        worked.append(busy())
        made.append(started())
        after = running.fresh()
        worked.append(busy())
        made.append(started())
        spent = [
            usage(cgroup) - was
            for cgroup, was in zip((*containers, *pods, kubepods), spent, strict=True)
        ]

    def moved(cgroup: Cgroup, table: str, column: str) -> int:
        first, last = before.row(cgroup.id, table), after.row(cgroup.id, table)
        return int(last.get(column, 0)) - int(first.get(column, 0))

    # Each has its own, and no cgroup below one has a row that could be added to it.
    for cgroup, expected in zip(containers, spent, strict=False):
        assert same(moved(cgroup, "cpu", ONCPU), expected)
        assert same(1000 * moved(cgroup, "cgroup_cpu", USAGE), expected)
        assert moved(cgroup, "exec", FORKED) == FORKS
    rows = {slot["cgroup_id"] for slot in after.slots.values()}
    assert not rows & {cgroup.id for cgroup in deepest}
    # What counts by event has the pod's own row beside its containers', and all are summed.
    per_pod = [[pod, *(c for c in containers if c.path.parent == pod.path)] for pod in pods]
    *_, first_pod, second_pod, everything = spent
    for group, expected in zip(per_pod, (first_pod, second_pod), strict=True):
        assert same(sum(moved(c, "cpu", ONCPU) for c in group), expected)
        assert sum(moved(c, "exec", FORKED) for c in group) == FORKS * (
            len(DEPTHS) + (group[0] is pods[0])
        )
    assert same(sum(moved(c, "cpu", ONCPU) for group in per_pod for c in group), everything)
    # What counts what is below too has a family of its own for pods.
    assert same(sum(1000 * moved(p, "pod_cpu", POD_USAGE) for p in pods), everything)
    assert all(not after.row(p.id, "cgroup_cpu") for p in pods)
    assert not after.row(HOST, "cgroup_cpu"), "the node's own would be all others' once more"
    # With the host's rows it is all that the node has counted.
    assert_counted_once(before, after, worked, 0.02 * everything)
    assert made[2] - made[1] >= FORKS * len(workers)
    assert 0.99 * (made[2] - made[1]) <= forks(after) - forks(before)
    assert forks(after) - forks(before) <= 1.01 * (made[3] - made[0])
    assert after.missed == before.missed
    assert after.loader["kpod_cgroups_too_deep_total"] == 0
