"""How large a page is: 250 containers of Kubernetes, of which one in ten seconds is replaced.

"Then" is the page as it was before the issue of readers: ended containers for five minutes, with
_created series, pod_uid and container_id on each. Both are made of the same snapshots in one run.
The schema is the loader's own; which of its columns are zero is drawn once for each container: two
of five of those that live long, four of five of those that lived for a minute. A fifth of the
containers are in pods whose names are not random, a half of those that come are restarts.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from aggregator._native import lib
from aggregator.compat.cadvisor import PREFIXES, namer, translate
from aggregator.http.scrapers import WINDOW_NS, Scrapers
from aggregator.segment.labels import Labels
from aggregator.segment.owner import Owner
from aggregator.segment.store import Compat, Limits, Store
from tests.bench.render import POD, named, report
from tests.live import LOADER
from tests.segment import HOST_SLOT, Row, Segment, Slot, schema

CONTAINERS = 250
REPLACED = 10  # s
TOMBSTONE = 300  # s
INTERVAL = 15  # s between scrapes
SCRAPES = 40
ROUNDS = 20
NO_VALUE = 2**64 - 1


def loader_schema() -> dict[str, Any]:
    command = [str(LOADER), "schema", "--profile", "standard"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    return schema(
        *(
            table | {"keys": [{"values": []} | key for key in table["keys"]]}
            for table in found["tables"]
            if table["scope"] == "slot"
        )
    )


def words(table: dict[str, Any], which: random.Random, idle: float, age: int) -> list[int]:
    """A row's: keys, then values that grow with its age."""
    found = []
    for key in table["keys"]:
        # "nade", or number of that name; all owners but those that are named
        found += [NO_VALUE if key["owner"] else 0x6564616E] * (key["words"] or 1)
    values = [0] * table["words"]
    for column in table["columns"]:
        at, rate = column["word"], which.randrange(1, 10_000)
        quiet = which.random() < idle
        if column["kind"] == "histogram":
            first = at + which.randrange(10, 40)
            for bucket in range(first, min(first + 20, at + column["buckets"])):
                values[bucket] = 0 if quiet else rate * age
            values[column["sum"]] = 0 if quiet else rate * age * 1000
        else:
            values[at] = 0 if quiet else rate * age
    return found + values


def segment(document: dict[str, Any], now: int, sequence: int) -> Segment:
    """A snapshot `now` seconds after the start, of an hour's churn before it."""
    slots, rows = [HOST_SLOT], []
    ended = [(CONTAINERS + n, n * REPLACED) for n in range(-360, now // REPLACED)]
    shown = [(i, died) for i, died in ended if now - TOMBSTONE < died <= now]
    who = [(i, 0) for i in range(1, CONTAINERS + 1)] + shown
    for slot, (number, died) in enumerate(who, 1):
        which, idle = random.Random(number), 0.8 if died else 0.4
        path = POD.format(number % 2**32, number % 2**64)
        slots.append(
            Slot(slot, path, 4, generation=number % 2**32, cgroup_id=10_000 + number,
                 died_ns=1 + (died + 3600) * 10**9 if died else 0)
        )  # fmt: skip
        age = 60 if died else 3600 + now
        for index, table in enumerate(document["tables"]):
            row = words(table, which, idle, age)
            rows.append(Row(index, slot, row, generation=number % 2**32))
    rows.sort(key=lambda r: r.table)
    return Segment(
        document, slots, rows, sequence=sequence, ring_capacity=1 << 23, stale_after_ns=10**15
    )


def where_needed(owner: Owner) -> Labels:
    """As aggregator.pods.names does by default, of pods as the module says."""
    number = owner.cgroup_id - 10_000
    left_out = {"pod_uid"} if number % 5 else set()
    if number <= CONTAINERS or number % 2:
        left_out.add("container_id")
    return tuple(label for label in named(owner) if label[0] not in left_out)


# Of each format what it is asked for by, and how large the page may be. Only OpenMetrics, which is
# what Prometheus asks for by default, had _created series.
FORMATS = {
    "text": (lib.KPOD_TEXT, 0.65),
    "OpenMetrics": (lib.KPOD_OPENMETRICS, 0.5),
    "protobuf": (lib.KPOD_PROTOBUF, 0.65),
}


def measure(path: Path) -> tuple[dict[str, list[int]], list[int]]:
    """Bytes by format and series, of a page then and now, at the last of the scrapes."""
    now = [0]

    def clock() -> int:
        return now[0] * 10**9

    scrapers = Scrapers(clock)
    document = loader_schema()
    options: dict[str, Any] = {"clock": time.monotonic_ns, "node": "node-1"}
    options["limits"] = Limits(page=1 << 30)
    then = Store(str(path), **options, resolver=named, created="all")
    new = Store(str(path), **options, resolver=where_needed, seen=scrapers.seen)
    base = WINDOW_NS // 10**9
    for scrape in range(1, SCRAPES + 1):
        now[0] = base + scrape * INTERVAL
        if scrape > 4 and scrape < SCRAPES - 4:
            continue  # only the last ones matter, and the generator is slow
        segment(document, now[0], scrape).write(path)
        for store in (then, new):
            store.refresh()
            assert store.state == "live", store.cause
        scrapers.served("prometheus", "/metrics", 1, scrape)
    sizes: dict[str, list[int]] = {name: [] for name in FORMATS}
    series = []
    for store in (then, new):
        assert store.snapshot
        for name, (format_, _) in FORMATS.items():
            body = b"".join(store.snapshot.render(format_))
            sizes[name].append(len(body))
            if name == "OpenMetrics":
                series.append(sum(1 for x in body.splitlines() if x[:1] != b"#"))
    return sizes, series


# On a real node with 81 pods the kubelet's /metrics/cadvisor took 193 ms of CPU for 9,785 series.
KUBELET = 193e6 / 9785


def measure_cadvisor(path: Path) -> tuple[int, float]:
    """Series of /metrics/cadvisor, and the CPU time of rendering one in ns."""
    image = "registry.example.net/shop/checkout:1.2.3"
    store = Store(
        str(path),
        clock=time.monotonic_ns,
        resolver=named,
        compat=Compat(translate, namer(lambda *_: image), PREFIXES),
        limits=Limits(page=1 << 30),
    )
    segment(loader_schema(), TOMBSTONE, 1).write(path)
    store.refresh()
    assert store.snapshot
    took, body = [], b""
    for _ in range(ROUNDS):
        start = time.process_time_ns()
        body = b"".join(store.snapshot.render(lib.KPOD_TEXT, lib.KPOD_CADVISOR))
        took.append(time.process_time_ns() - start)
    series = sum(1 for line in body.splitlines() if line[:1] != b"#")
    return series, median(took) / series


def main() -> bool:
    """Prints the figures; true if they are as wanted."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        sizes, series = measure(Path(directory) / "segment")
        count, took = measure_cadvisor(Path(directory) / "cadvisor")
    print(f"a page of {CONTAINERS} containers, one replaced each {REPLACED} s:")
    for name, (before, after) in sizes.items():
        report(f"{name}, bytes then", before)
        report(f"{name}, bytes now", after, after / before, f"at most {FORMATS[name][1]}")
    report("series then", series[0])
    report("series now", series[1], series[1] / series[0], "at most 0.7")
    report("series for cAdvisor's", count)
    report("CPU ns of one", took, KUBELET / took, "the kubelet's at least 50 times")
    small = all(after <= before * FORMATS[n][1] for n, (before, after) in sizes.items())
    return KUBELET / took >= 50 and small and series[1] <= series[0] * 0.7


if __name__ == "__main__":
    sys.exit(not main())
