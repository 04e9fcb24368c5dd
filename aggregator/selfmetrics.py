"""What the aggregator says of itself and of the loader, by prometheus-client."""

import os
import resource
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from aggregator import __version__
from aggregator.segment.exposition import unit_of
from aggregator.segment.history import History
from aggregator.segment.labels import cleaned
from aggregator.segment.store import STATES, Store


class StoreCollector(Collector):
    """The segment's state, as the last refresh found it."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def describe(self) -> list[Metric]:
        return []  # so that registering does not call collect()

    def collect(self) -> Iterator[Metric]:
        store = self._store
        yield InfoMetricFamily(
            "kpod_aggregator", "The aggregator's version.", value={"version": __version__}
        )
        yield GaugeMetricFamily(
            "kpod_loader_up",
            "1 while a loader runs and its snapshots can be read.",
            value=store.state == "live",
        )
        states = GaugeMetricFamily(
            "kpod_segment_state", "1 for the state the segment is in.", labels=["state"]
        )
        for state in STATES:
            states.add_metric([state], state == store.state)
        yield states
        yield CounterMetricFamily(
            "kpod_reader_laps",
            "Copies thrown away because the loader was faster than the reader.",
            value=store.laps,
        )
        old = CounterMetricFamily(
            "kpod_scrapes_served_old",
            "Scrapes and pushes served with an older snapshot than they asked for, because the "
            "loader took none within 250 ms (timeout), or its doorbell could not be opened "
            "(no_doorbell). kpod_snapshot_age_seconds says how old.",
            labels=["reason"],
        )
        for reason, count in store.served_old.items():
            old.add_metric([reason], count)
        yield old
        yield from self._of_schema()
        yield from self._of_snapshot()

    def _of_schema(self) -> Iterator[Metric]:
        schema = self._store.schema
        if not schema:
            return
        header = self._store.header
        yield InfoMetricFamily(
            "kpod_loader",
            "The loader and the kernel it runs on.",
            value={"version": schema.loader_version, "kernel": schema.kernel},
        )
        yield GaugeMetricFamily(
            "kpod_loader_start_time_seconds",
            "Unix time of the loader's start, since when its counters count.",
            value=header.start_realtime_ns / 1e9,
        )
        yield GaugeMetricFamily(
            "kpod_snapshot_interval_seconds",
            "Time between the loader's snapshots while no scrape asks for one.",
            value=header.interval_ns / 1e9,
        )
        yield GaugeMetricFamily(
            "kpod_snapshot_min_interval_seconds",
            "Least time between the loader's snapshots, however many scrapes ask for one.",
            value=schema.min_interval_ns / 1e9,
        )
        up = GaugeMetricFamily(
            "kpod_collector_up", "1 if the collector runs.", labels=["collector"]
        )
        has_nothing = GaugeMetricFamily(
            "kpod_collector_has_nothing",
            "1 if the collector runs but the node has nothing for it to read, as a cgroup "
            "controller is missing: it makes no series. kpod_collector_info has the reason.",
            labels=["collector"],
        )
        info = InfoMetricFamily(
            "kpod_collector",
            "What a collector is attached to; why it does not run or has nothing to read.",
            labels=["collector"],
        )
        for collector in schema.collectors:
            up.add_metric([collector.name], collector.up)
            has_nothing.add_metric([collector.name], collector.has_nothing)
            info.add_metric(
                [collector.name], {"attach": collector.attach, "reason": collector.reason}
            )
        yield up
        yield has_nothing
        yield info

    def _of_snapshot(self) -> Iterator[Metric]:
        snapshot = self._store.snapshot
        if not snapshot:
            return
        yield GaugeMetricFamily(
            "kpod_snapshot_timestamp_seconds",
            "Unix time at which the snapshot shown was taken.",
            value=snapshot.native.realtime_ns / 1e9,
        )
        yield GaugeMetricFamily(
            "kpod_snapshot_age_seconds",
            "Time since the snapshot shown was begun, when this page was made.",
            value=(self._store.age_ns or 0) / 1e9,
        )
        yield GaugeMetricFamily(
            "kpod_snapshot_orphan_rows",
            "Rows of the snapshot that are not shown because no container owns them.",
            value=snapshot.native.orphans,
        )
        yield GaugeMetricFamily(
            "kpod_snapshot_hidden_rows",
            "Rows of the snapshot not shown: their pod has no name yet, or is filtered out.",
            value=snapshot.native.hidden,
        )
        yield GaugeMetricFamily(
            "kpod_snapshot_ended_rows",
            "Rows of containers that have ended, not shown because every scraper has had their "
            "last values twice (--ended).",
            value=snapshot.native.ended,
        )
        yield GaugeMetricFamily(
            "kpod_snapshot_ended_waiting",
            "Containers that have ended and are not shown yet, because more of their pod have than "
            "--max-ended-per-pod.",
            value=snapshot.native.waiting,
        )
        cut = GaugeMetricFamily(
            "kpod_series_cut",
            "Series that are not shown, because there would be too many (--max-series, "
            "--max-series-per-family, --max-page).",
            labels=["family"],
        )
        for family, series in snapshot.cut.items():
            cut.add_metric([family], series)
        yield cut


class HistoryCollector(Collector):
    """Of the graphs at /."""

    def __init__(self, history: History) -> None:
        self._history = history

    def describe(self) -> list[Metric]:
        return []  # so that registering does not call collect()

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "kpod_history_untracked_containers",
            "Containers, units and machines that the page at / shows without graphs and rates, "
            "because it keeps the last minutes of 2048 at most.",
            value=self._history.untracked,
        )


def resident_bytes() -> int:
    """Memory of this process now; its peak where /proc cannot be read.

    Not from /proc/self/stat: since Linux 6.2 that is off by some pages for each CPU
    (get_mm_rss() takes the shared part of a percpu_counter), and statm is exact since 6.17.
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class SelfMetrics(Collector):
    """All of it, with the counters that the server moves."""

    def __init__(self, store: Store) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._registry.register(StoreCollector(store))
        ProcessCollector(registry=self._registry)
        self.scrapes = self.counter("kpod_scrapes", "Scrapes begun.")
        self.refused = self.counter(
            "kpod_scrapes_refused", "Scrapes refused because too many were under way."
        )
        self.views_refused = self.counter(
            "kpod_http_views_refused",
            "Requests for a page or the API refused because too many were being answered.",
        )
        self.logins_refused = self.counter(
            "kpod_http_logins_refused",
            "Requests refused without a look at their password because too many were waiting.",
        )
        self.connections_closed = self.counter(
            "kpod_http_idle_connections_closed",
            "Idle connections closed, the oldest first, because too many were open.",
        )
        self.timed_out = self.counter(
            "kpod_http_timeouts",
            "Connections cut because the client was too slow to send a request or read an answer.",
        )

    def watch_history(self, history: History) -> None:
        """What it leaves out is a metric."""
        self.register(HistoryCollector(history))

    def register(self, collector: Collector) -> None:
        """What another part says of itself."""
        self._registry.register(collector)

    def counter(self, name: str, help_text: str) -> Counter:
        """One more."""
        return Counter(name, help_text, registry=self._registry)

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            if not metric.samples:
                continue
            if metric.name == "process_resident_memory_bytes":
                metric.samples = [s._replace(value=resident_bytes()) for s in metric.samples]
            # As the C renderer does; ProcessCollector does not say it.
            metric.unit = unit_of(metric.name)
            metric.samples = [
                s._replace(labels=dict(cleaned(s.labels.items()))) for s in metric.samples
            ]
            yield metric
