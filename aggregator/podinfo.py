"""What is known of pods, as metrics: kpod_pod_info and others; and how well it is known."""

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aggregator.exposition import Labels, escape_help, render_labels
from aggregator.names import Names
from aggregator.pods import Pod, PodTable
from aggregator.policy import Policy, cut
from aggregator.source import Source

PIECE = 65536  # bytes

FAMILIES = (
    ("kpod_pod_info", "A pod of this node; 1."),
    ("kpod_container_info", "A container of a pod's status; 1."),
    ("kpod_container_restarts", "How often a container of a pod was started again."),
)


class PodInfo:
    """Text of the families, valid in format 0.0.4 and in OpenMetrics: gauges, one line a series.

    A pod's lines are made once for each change of it; 500 pods would else take 50 ms a scrape.
    """

    def __init__(self, table: PodTable, policy: Policy, node: str) -> None:
        self._table = table
        self._policy = policy
        self._node: Labels = (("node", node),)
        self._lines: dict[str, tuple[Pod, tuple[bytes, ...]]] = {}

    def text(self) -> Iterator[bytes]:
        """In pieces of about PIECE bytes."""
        pods = [pod for pod in self._table.shown() if self._policy.shows(pod)]
        for index, (name, text) in enumerate(FAMILIES):
            piece = bytearray(f"# HELP {name} {escape_help(text)}\n# TYPE {name} gauge\n".encode())
            for pod in pods:
                piece += self._render(pod)[index]
                if len(piece) >= PIECE:
                    yield bytes(piece)
                    piece.clear()
            yield bytes(piece)
        self._lines = {pod.uid: (pod, self._render(pod)) for pod in pods}

    def _render(self, pod: Pod) -> tuple[bytes, ...]:
        """The pod's lines of each family."""
        known = self._lines.get(pod.uid)
        if known and known[0] is pod:
            return known[1]
        texts = ["", "", ""]
        for family, labels, value in self._samples(pod):
            texts[family] += f"{FAMILIES[family][0]}{{{render_labels(labels)}}} {value}\n"
        lines = tuple(text.encode() for text in texts)
        self._lines[pod.uid] = pod, lines
        return lines

    def _samples(self, pod: Pod) -> Iterator[tuple[int, Labels, int]]:
        """(family, labels, value) of each series."""

        def show(value: str) -> str:
            return cut(self._policy.blot(value))

        who: Labels = (
            ("namespace", cut(pod.namespace)),
            ("pod", cut(pod.name)),
            ("pod_uid", cut(pod.cgroup_uid)),
        )
        more: Labels = (*self._policy.pod_labels(pod), *self._node)
        info: Labels = (
            ("uid", cut(pod.uid)),
            ("ip", cut(pod.ip)),
            ("host_ip", cut(pod.host_ip)),
            ("qos", cut(pod.qos)),
            ("priority_class", show(pod.priority_class)),
            ("owner_kind", cut(pod.owner_kind)),
            ("owner_name", show(pod.owner_name)),
        )
        yield 0, (*who, *info, *more), 1
        for c in {c.name: c for c in pod.containers}.values():
            named: Labels = (*who, ("container", cut(c.name)))
            info = (
                ("container_id", cut(c.id)),
                ("image", show(c.image)),
                ("image_id", show(c.image_id)),
            )
            yield 1, (*named, *info, *more), 1
            yield 2, (*named, *more), c.restarts


@dataclass(frozen=True, slots=True)
class Pods:
    """What the server needs of them."""

    source: Source
    names: Names
    info: PodInfo


class SourceCollector(Collector):
    """How the pods come to be known."""

    def __init__(self, source: Source, names: Names) -> None:
        self._source = source
        self._names = names

    def describe(self) -> list[Metric]:
        return []  # so that registering does not call collect()

    def collect(self) -> Iterator[Metric]:
        source = self._source
        yield GaugeMetricFamily(
            "kpod_pods_known", "Pods of this node in the table.", value=len(source.table)
        )
        yield GaugeMetricFamily(
            "kpod_pods_synced",
            "1 if the table was equal to what the server says at least once.",
            value=source.synced,
        )
        yield GaugeMetricFamily(
            "kpod_pods_last_sync_timestamp_seconds",
            "Unix time when the table was last known to be equal to what the server says.",
            value=source.last_sync,
        )
        for name, text, label, counts in (
            ("requests", "Requests for pods: list again, watch again.", "verb", source.requests),
            ("events", "Changes that the watch told of, and its bookmarks.", "type", source.events),
            ("errors", "Requests and pods that failed.", "reason", source.errors),
        ):
            counter = CounterMetricFamily(f"kpod_pods_{name}", text, labels=[label])
            for value, count in sorted(counts.items()):
                counter.add_metric([value], count)
            yield counter
        cgroups = GaugeMetricFamily(
            "kpod_pods_cgroups",
            "Cgroups of pods in the last snapshot: with the pod's name, without, waiting for it "
            "(not shown), not wanted (not shown).",
            labels=["state"],
        )
        for state, count in self._names.states().items():
            cgroups.add_metric([state], count)
        yield cgroups
