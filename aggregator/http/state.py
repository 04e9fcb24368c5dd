"""What the node's agent is doing, in a few facts: for the page at / and for /api/v1/status."""

import time
from dataclasses import dataclass

from aggregator import __version__
from aggregator.pods.podinfo import Pods
from aggregator.segment.schema import Collector
from aggregator.segment.store import Store
from aggregator.selfmetrics import resident_bytes

# What to do about a segment that is not live.
ADVICE = {
    "absent": (
        "No loader has run here, or it ended on purpose.",
        "Start kpod-loader run with the same --segment, or read why it ended: "
        "kubectl logs POD -c loader, or journalctl -u kpod-loader.",
    ),
    "incompatible": (
        "The loader's file cannot be read by this aggregator.",
        "Install loader and aggregator of the same version; then restart the loader.",
    ),
    "stale": (
        "The loader shows no sign of life: it hangs, or was killed.",
        "Restart it, and keep its last log: kubectl logs POD -c loader --previous, or "
        "journalctl -u kpod-loader.",
    ),
    "closed": (
        "The loader has ended on purpose, or is about to.",
        "Start it again if that was not meant; this page comes back by itself.",
    ),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that does not work, and what somebody can do about it."""

    what: str
    cause: str
    do: str


@dataclass(frozen=True, slots=True)
class Cost:
    """Of the agent itself. CPU: of one CPU, averaged since the program's start."""

    loader_cpu: float | None
    bpf_share: float | None  # of all CPUs, as last measured
    aggregator_cpu: float
    aggregator_bytes: int


@dataclass(frozen=True, slots=True)
class State:
    segment: str
    problems: tuple[Problem, ...]
    collectors: tuple[Collector, ...]
    age: float | None  # of the snapshot, in seconds
    taken: float | None  # when it was begun, Unix time
    series: int
    cost: Cost
    loader_version: str
    kernel: str
    names: str  # where they come from, and what went wrong with that last
    version: str = __version__


def names(pods: Pods | None) -> str:
    if not pods:
        return "standalone: names come from cgroup paths"
    source = pods.source
    known = f"{len(source.table)} pods known" if source.synced else "no pods known yet"
    return f"pods from the {source.mode}: {known}{source.error and f' ({source.error})'}"


def problems(store: Store, pods: Pods | None) -> tuple[Problem, ...]:
    """The most important first."""
    found = []
    if store.state != "live":
        cause, do = ADVICE.get(store.state, ("", "Load this page again."))
        more = f" {store.cause[:1].upper()}{store.cause[1:]}." if store.cause else ""
        found.append(Problem(f"segment {store.path} is {store.state}", cause + more, do))
    if pods and not pods.source.synced:
        source = pods.source
        found.append(
            Problem(
                f"no pods known yet from the {source.mode}",
                source.error or "Its first answer has not come.",
                "Until then containers are shown by their ids. See docs/runbooks, and what the "
                "aggregator's service account may do.",
            )
        )
    elif pods and pods.source.error:
        found.append(
            Problem(
                f"pods are not followed any more from the {pods.source.mode}",
                pods.source.error,
                "Names of new containers are missing until it answers; it is tried again.",
            )
        )
    for collector in store.schema.collectors if store.schema else ():
        if not collector.up:
            found.append(
                Problem(
                    f"collector {collector.name} does not run",
                    collector.reason,
                    "kpod-loader doctor, as root on the node, tells what it needs.",
                )
            )
    if store.snapshot and (cut := store.snapshot.cut):
        found.append(
            Problem(
                f"{sum(cut.values())} series are left out of /metrics",
                f"There are too many: of {', '.join(sorted(cut)[:5])}.",
                "Raise --max-series, --max-series-per-family or --max-page.",
            )
        )
    return tuple(found)


class Observer:
    """Looks at the agent. start: of this process, in seconds of time.monotonic()."""

    def __init__(self, store: Store, pods: Pods | None) -> None:
        self._store = store
        self._pods = pods
        self._start = time.monotonic()
        self._cpu = time.process_time()  # before that it only started

    def look(self) -> State:
        store = self._store
        snapshot, schema = store.snapshot, store.schema
        age = store.age_ns
        return State(
            segment=store.state,
            problems=problems(store, self._pods),
            collectors=schema.collectors if schema else (),
            age=None if age is None else age / 1e9,
            taken=snapshot.native.realtime_ns / 1e9 if snapshot else None,
            series=snapshot.series if snapshot else 0,
            cost=self._cost(),
            loader_version=schema.loader_version if schema else "",
            kernel=schema.kernel if schema else "",
            names=names(self._pods),
        )

    def _cost(self) -> Cost:
        snapshot, header = self._store.snapshot, self._store.header
        loader = bpf = None
        if snapshot:
            used = snapshot.node_value("kpod_loader_cpu_seconds_total")
            ran = (snapshot.native.realtime_ns - header.start_realtime_ns) / 1e9
            loader = used / ran if used is not None and ran > 0 else None
            bpf = snapshot.node_value("kpod_bpf_overhead_ratio")
        ran = max(time.monotonic() - self._start, 1)
        return Cost(loader, bpf, (time.process_time() - self._cpu) / ran, resident_bytes())
