"""A walk over cgroups finds, word by word, what the kernel's files say, with all controllers."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.kernel.test_cgroup_files import BURN
from tests.kernel.test_cgroup_walk import COLLECTORS, attached, compare, needs_walk
from tests.live import GUEST, IDLER, LOADER, Cgroup, Worker, collectors, loader
from tests.vm.guest.test_controllers import (
    EATER,
    FORKER,
    MEMORY_STAT,
    MIB,
    TOUCHER,
    WRITER,
    top,
)

__all__ = ["top"]

pytestmark = pytest.mark.guest(*COLLECTORS)


def test_without_a_walk_files_are_read(tmpfs: Path) -> None:
    """And the loader says so: at its start, and when it is asked what works here."""
    if GUEST != "5.10":
        pytest.skip("this kernel has an iterator over cgroups: see the other test")
    with loader(tmpfs, "--collectors", ",".join(COLLECTORS)) as running:
        how = attached(running.log)
    assert {how[name] for name in COLLECTORS} == {"files"}
    doctor = subprocess.run(
        [LOADER, "doctor", "--json"], capture_output=True, text=True, check=False
    )
    said = collectors(doctor.stdout)
    for name in COLLECTORS:
        assert said[name][0]
        assert ", files: " in said[name][1]


def test_walk_and_files_with_all_controllers(tmpfs: Path, top: Cgroup) -> None:
    """Limits, throttling, memory.events, working set, io.stat by device, pids and pressure."""
    needs_walk()
    names = ("cpu", "memory", "oom", "io", "pids", "idle", "empty")
    cpu, memory, oom, io, pids, idle, empty = (top.child(f"{name}.service") for name in names)
    (cpu.path / "cpu.max").write_text("20000 100000")
    (cpu.path / "cpu.weight").write_text("42")
    (memory.path / "memory.max").write_text(str(256 * MIB))
    (oom.path / "memory.max").write_text(str(32 * MIB))
    if (oom.path / "memory.swap.max").exists():
        (oom.path / "memory.swap.max").write_text("0")
    (pids.path / "pids.max").write_text("3")
    (idle.path / "cpu.idle").write_text("1")
    work = (
        *((cpu, BURN.format(seconds=0.5)), (memory, TOUCHER), (oom, EATER), (io, WRITER)),
        *((pids, FORKER), (idle, IDLER)),
    )
    workers = [Worker(cgroup, code) for cgroup, code in work]
    for worker in workers:
        worker.go()
    for worker in workers[:-1]:
        worker.stopped()
    time.sleep(MEMORY_STAT)
    words = compare(tmpfs, [cpu, memory, oom, io, pids, idle, empty])

    def of(name: str) -> int:
        return next(
            v
            for key, v in words.items()
            if key[0] == name.split()[0] and key[-1] == name.split()[1]
        )

    assert of("cpu.service kpod_cgroup_cpu_throttled_periods_total") > 0
    assert of("cpu.service kpod_cgroup_cpu_weight") == 42
    assert of("memory.service kpod_cgroup_memory_rss_bytes") > 32 * MIB
    assert of("oom.service kpod_cgroup_memory_events_total{oom_kill}") == 1
    assert of("io.service kpod_disk_bytes_total{write}") >= 64 * MIB
    assert of("pids.service kpod_cgroup_pids_limit_hits_total") == 2
