"""What the aggregator says of its own process."""

import mmap
import os
import re
import time
from pathlib import Path

import pytest

from aggregator.pods.resolver import standalone
from aggregator.segment.store import Store
from aggregator.selfmetrics import SelfMetrics

PAGE = os.sysconf("SC_PAGESIZE")
STEP = 23  # pages; less than a CPU keeps to itself


def rollup() -> int:
    found = re.search(r"(?m)^Rss:\s+(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    assert found
    return int(found[1]) * 1024


def statm() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def test_resident_memory_is_the_kernels(tmp_path: Path) -> None:
    """prometheus-client takes it from /proc/self/stat, where each CPU's last pages are missing."""
    if abs(statm() - rollup()) > 64 * PAGE:
        pytest.skip("statm is not exact before Linux 6.17")
    store = Store(str(tmp_path / "segment"), clock=time.monotonic_ns, resolver=standalone)
    metrics = SelfMetrics(store)
    cpus = sorted(os.sched_getaffinity(0))
    kept, off = [], []
    try:
        for step in range(20):
            os.sched_setaffinity(0, [cpus[step % len(cpus)]])
            memory = mmap.mmap(-1, STEP * PAGE)
            for at in range(0, STEP * PAGE, PAGE):
                memory[at] = 1
            kept.append(memory)
            shown = next(m for m in metrics.collect() if m.name == "process_resident_memory_bytes")
            off.append(abs(shown.samples[0].value - rollup()))
    finally:
        os.sched_setaffinity(0, cpus)
    assert max(off) <= 16 * PAGE, off  # of what reading itself takes
