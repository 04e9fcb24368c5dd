"""Nanoseconds per sample of the text renderer, of prometheus-client and of memcpy; RSS.

prometheus-client renders the same samples from a collector that has them ready. memcpy copies the
bytes that the renderer made, in pieces of the same size into a buffer as it does. One round takes
each in turn.
"""

import gc
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from aggregator._native import ffi, lib
from aggregator.resolver import standalone
from aggregator.store import Snapshot, Store
from tests.segment import HOST_SLOT, Row, Segment, Slot, column, schema, table

ROUNDS = 60  # short ones: a shared machine changes its speed from second to second
CLIENT_ROUNDS = 5
BUCKETS = 98
WORDS = 1 + 2 + 4 + BUCKETS + 4
POD = (
    "kubepods.slice/kubepods-burstable.slice/"
    "kubepods-burstable-pod{0:08x}_1111_2222_3333_444444444444.slice/"
    "cri-containerd-{0:064x}.scope"
)


def make_segment(path: Path, samples: int, paths: Sequence[str] = (), generation: int = 1) -> None:
    """A segment of the shape that the cpu collector has: 22 samples a container."""
    columns = [
        column("bench_oncpu_seconds_total", decimals=9),
        *(
            column("bench_switches_total", word=1 + i, labels={"kind": kind})
            for i, kind in enumerate(("voluntary", "involuntary"))
        ),
        *(
            column("bench_wait_seconds_total", word=3 + i, labels={"held_by": who}, decimals=9)
            for i, who in enumerate(("self", "other", "host", "idle"))
        ),
        column(
            "bench_latency_seconds",
            "histogram",
            word=7,
            decimals=9,
            schema=2,
            first_exponent=-20,
            buckets=BUCKETS,
            sum=7 + BUCKETS,
            sum_words=4,
        ),
    ]
    for c in columns:
        c["help"] = "Help."
    containers = samples // 22
    Segment(
        schema(table("bench", WORDS, columns)),
        slots=[
            HOST_SLOT,
            *(
                Slot(i, paths[i - 1] if paths else POD.format(i), kind=4)
                for i in range(1, containers + 1)
            ),
        ],
        rows=[
            Row(0, i, [(i * 7919 + w * 104729) * 31 % 10**7 for w in range(WORDS)])
            for i in range(1, containers + 1)
        ],
        ring_capacity=1 << max(16, (containers * 1200).bit_length()),
        stale_after_ns=10**15,
        generation=generation,
    ).write(path)


class Ready(Collector):
    """Families for prometheus-client that need no work to collect."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def timed(work: Callable[[], object]) -> float:
    gc.collect()
    start = time.perf_counter_ns()
    work()
    return float(time.perf_counter_ns() - start)


def render(snapshot: Snapshot) -> int:
    """The C renderer alone, into one reused chunk; returns the samples."""
    cursor, chunk = ffi.new("struct kpod_cursor *"), ffi.new("char[]", lib.KPOD_CHUNK_SIZE)
    plan, native = snapshot.plan.native, snapshot.native
    while lib.kpod_render_text(cursor, plan, native, chunk):
        pass
    return int(cursor.samples)


def copy(text: bytes) -> int:
    chunk = ffi.new("char[]", lib.KPOD_CHUNK_SIZE)
    source = ffi.from_buffer(text)
    for at in range(0, len(text), lib.KPOD_CHUNK_SIZE):
        ffi.memmove(chunk, source + at, min(lib.KPOD_CHUNK_SIZE, len(text) - at))
    return len(text)


def measure(path: Path, wanted: int) -> bool:
    make_segment(path, wanted)
    store = Store(str(path), clock=time.monotonic_ns, resolver=standalone)
    assert store.refresh() == "live", store.cause
    assert store.snapshot
    snapshot = store.snapshot
    text = b"".join(snapshot.text())
    registry = CollectorRegistry()
    registry.register(Ready(list(text_string_to_metric_families(text.decode()))))
    samples = render(snapshot)
    ours, copied, theirs, ratios = [], [], [], []
    inner = max(1, 200_000 // samples)
    for number in range(ROUNDS):
        ours.append(timed(lambda: [render(snapshot) for _ in range(inner)]) / samples / inner)
        copied.append(timed(lambda: [copy(text) for _ in range(inner)]) / samples / inner)
        if number % (ROUNDS // CLIENT_ROUNDS) == 0:
            theirs.append(timed(lambda: generate_latest(registry)) / samples)
            ratios.append(theirs[-1] / ours[-1])
    to_copy = median(a / b for a, b in zip(ours, copied, strict=True))
    to_client = median(ratios)
    print(f"text, {samples} samples of {len(text) / samples:.0f} bytes, ns per sample:")
    print(f"  kpod-metrics       {median(ours):9.1f}")
    print(f"  memcpy             {median(copied):9.1f}   ratio {to_copy:6.2f} (wanted: at most 2)")
    print(
        f"  prometheus-client  {median(theirs):9.1f}   ratio {to_client:6.0f} "
        "(wanted: at least 250)"
    )
    return to_copy <= 2 and to_client >= 250


def resident(pid: int) -> dict[str, int]:
    """VmRSS and VmHWM in kB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return {
        line.split(":")[0]: int(line.split()[1])
        for line in status.splitlines()
        if line.startswith(("VmRSS", "VmHWM"))
    }


def measure_rss(path: Path) -> bool:
    """The aggregator as it is run, scraped ten times."""
    make_segment(path, 100_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "aggregator", "--segment", str(path), "--listen", "127.0.0.1:0"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        while "http://" not in (line := process.stderr.readline()):
            if not line:
                raise RuntimeError("the aggregator did not start")
        url = line.split()[-1]
        for _ in range(10):
            with urllib.request.urlopen(url) as answer:
                body = answer.read()
        lines = sum(not line.startswith(b"#") for line in body.splitlines())
        rss = resident(process.pid)
    finally:
        process.terminate()
        process.communicate()
    print(f"aggregator, {lines} samples, after 10 scrapes: {json.dumps(rss)} kB (wanted: 45 MB)")
    return rss["VmHWM"] <= 45 * 1024


def main() -> bool:
    """Prints the figures; true if they are as wanted."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory) / "segment"
        good = [measure(path, 10_000), measure(path, 100_000), measure_rss(path)]
    return all(good)


if __name__ == "__main__":
    sys.exit(not main())
