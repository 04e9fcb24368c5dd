"""Nanoseconds per sample of the renderer, of prometheus-client and of memcpy, plain and gzipped.

prometheus-client renders the same samples from a collector that has them ready. memcpy copies the
bytes that the renderer made, in pieces of the same size into a buffer as it does. One round takes
each in turn.
"""

import gc
import gzip
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from aggregator._native import ffi, lib
from aggregator.http.server import gzipped
from aggregator.pods.resolver import container_ids, parse_path, standalone
from aggregator.segment.exposition import Labels
from aggregator.segment.owner import Owner, Resolver
from aggregator.segment.store import Limits, Snapshot, Store
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


def render(snapshot: Snapshot, format_: int = lib.KPOD_TEXT) -> int:
    """The C renderer alone, into one reused chunk; returns the lines or metrics."""
    cursor, chunk = ffi.new("struct kpod_cursor *"), ffi.new("char[]", lib.KPOD_CHUNK_SIZE)
    plan, native, shown = snapshot.plan.native, snapshot.native, snapshot._shown[0]
    while lib.kpod_render(cursor, plan, native, shown, format_, chunk):
        pass
    return int(cursor.samples)


def copy(text: bytes) -> int:
    chunk = ffi.new("char[]", lib.KPOD_CHUNK_SIZE)
    source = ffi.from_buffer(text)
    for at in range(0, len(text), lib.KPOD_CHUNK_SIZE):
        ffi.memmove(chunk, source + at, min(lib.KPOD_CHUNK_SIZE, len(text) - at))
    return len(text)


def registry_of(text: str) -> CollectorRegistry:
    """prometheus-client's, with the same samples ready."""
    registry = CollectorRegistry()
    registry.register(Ready(list(text_string_to_metric_families(text))))
    return registry


def report(name: str, value: float, ratio: float | None = None, wanted: str = "") -> None:
    line = f"  {name:<26}{value:11.1f}"
    if ratio is not None:
        line += f"   ratio {ratio:7.2f}" + (f" (wanted: {wanted})" if wanted else "")
    print(line)


def named(owner: Owner) -> Labels:
    """As aggregator.pods.names does, without a pod table."""
    if not owner.path:
        return standalone(owner)
    return (
        ("scope", "container"),
        ("namespace", "production"),
        ("pod", f"checkout-7d9c6b5f4d-{owner.cgroup_id:05d}"),
        ("container", "server"),
        *container_ids(owner, parse_path(owner.kind, owner.path)),
    )


def measure(path: Path, wanted: int, resolver: Resolver, node: str = "") -> bool:
    make_segment(path, wanted)
    store = Store(
        str(path),
        clock=time.monotonic_ns,
        resolver=resolver,
        node=node,
        limits=Limits(page=1 << 30),  # the page of 100,000 samples has 30 MB
    )
    assert store.refresh() == "live", store.cause
    assert store.snapshot
    snapshot = store.snapshot
    text = b"".join(snapshot.render(lib.KPOD_TEXT))
    registry = registry_of(text.decode())
    samples, lines = render(snapshot), render(snapshot, lib.KPOD_OPENMETRICS)
    inner = max(1, 200_000 // samples)

    chunks = list(snapshot.render(lib.KPOD_TEXT))

    def pack() -> None:
        for _ in gzipped(snapshot.render(lib.KPOD_TEXT)):
            pass

    def compress() -> None:
        for _ in gzipped(chunks):
            pass

    # Nanoseconds, of the text format's samples.
    took: dict[str, list[float]] = defaultdict(list)
    for number in range(ROUNDS):
        for name, work in {
            "text": lambda: render(snapshot),
            "memcpy": lambda: copy(text),
            "openmetrics": lambda: render(snapshot, lib.KPOD_OPENMETRICS),
            "protobuf": lambda: render(snapshot, lib.KPOD_PROTOBUF),
        }.items():
            spent = timed(lambda work=work: [work() for _ in range(inner)])  # type: ignore[misc]
            took[name].append(spent / samples / inner)
        if number % (ROUNDS // CLIENT_ROUNDS) == 0:
            took["text then"].append(took["text"][-1])
            took["client"].append(timed(lambda: generate_latest(registry)) / samples)
            took["gzip"].append(timed(pack) / samples)
            took["compressor"].append(timed(compress) / samples)
            # As its server does.
            both = timed(lambda: gzip.compress(generate_latest(registry)))
            took["client gzip"].append(both / samples)

    def ratio(a: str, b: str) -> float:
        return median(x / y for x, y in zip(took[a], took[b], strict=True))

    to_copy, to_client = ratio("text", "memcpy"), ratio("client", "text then")
    whole = ratio("openmetrics", "text")
    to_gzip = ratio("client gzip", "gzip")
    where = f"of pods on {node}" if node else "without Kubernetes"
    print(f"{samples} samples {where}, {len(text) / samples:.0f} bytes each, ns per sample:")
    report("text", median(took["text"]))
    # The bounds are for lines as they are in Kubernetes: in shorter ones the numbers weigh more.
    most = 1.1 if wanted <= 10_000 else 0.9  # copied from beyond the caches, and rendered from them
    to_pack = ratio("gzip", "compressor")
    report("memcpy", median(took["memcpy"]), to_copy, f"text at most {most}" if node else "")
    report("prometheus-client", median(took["client"]), to_client, "at least 250" if node else "")
    report(
        f"OpenMetrics, {lines / samples:.2f} lines",
        median(took["openmetrics"]),
        whole,
        "at most 1.05" if node else "",
    )
    report("protobuf, both buckets", median(took["protobuf"]), ratio("protobuf", "text"))
    report("text, gzip", median(took["gzip"]), to_pack, "of the compressor at most 1.15")
    report(
        "prometheus-client, gzip",
        median(took["client gzip"]),
        to_gzip,
        "at least 60" if node else "",
    )
    return to_pack <= 1.15 and (
        not node or (to_copy <= most and to_client >= 250 and whole <= 1.05 and to_gzip >= 60)
    )


def main() -> bool:
    """Prints the figures; true if they are as wanted."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        path = Path(directory) / "segment"
        good = [
            measure(path, 10_000, named, "node-1.example.net"),
            measure(path, 100_000, named, "node-1.example.net"),
            measure(path, 10_000, standalone),
        ]
    return all(good)


if __name__ == "__main__":
    sys.exit(not main())
