"""What is known of pods, as metrics: kpod_pod_info and others; and how well it is known."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from aggregator._native import lib
from aggregator.pods.names import Names
from aggregator.pods.policy import Policy, cut
from aggregator.pods.table import Pod, PodTable
from aggregator.segment import protobuf
from aggregator.segment.exposition import (
    PROTOBUF_KINDS,
    Labels,
    header,
    protobuf_header,
    protobuf_labels,
    render_labels,
)
from aggregator.segment.store import Limits

if TYPE_CHECKING:
    from aggregator.pods.source import Source

PIECE = 65536  # bytes
RESERVE = 896 << 10  # bytes of text

FAMILIES = (
    ("kpod_pod_info", "A pod of this node that has series; its value is 1."),
    ("kpod_container_info", "A container of a pod's status; 1."),
    ("kpod_container_restarts", "How often a container of a pod was started again."),
)


Encode = Callable[[str, Labels, int], bytes]


def as_line(name: str, labels: Labels, value: int) -> bytes:
    return f"{name}{{{render_labels(labels)}}} {value}\n".encode()


def as_metric(_name: str, labels: Labels, value: int) -> bytes:
    """A Metric of a MetricFamily."""
    gauge = protobuf.message(PROTOBUF_KINDS["gauge"][1], protobuf.double(1, value))
    return protobuf.message(4, protobuf_labels(labels) + gauge)


class PodInfo:
    """The families, all gauges: their lines are the same in format 0.0.4 and in OpenMetrics.

    A pod's lines are made once for each change of it; 500 pods would else take 50 ms a scrape.
    """

    def __init__(self, table: PodTable, policy: Policy, node: str) -> None:
        self._table = table
        self._policy = policy
        self._node: Labels = (("node", node),)
        # The least there is for these: the snapshot's families have what --max-page says, and there
        # is 1 MiB beside it, in which the aggregator's own take less than the rest.
        self.reserve = RESERVE
        self._left = Limits()
        self._made: dict[Encode, dict[str, tuple[Pod, tuple[bytes, ...]]]] = {}

    def limit(self, left: Limits) -> Mapping[str, int]:
        """What the rest of the page leaves for these; how many series are left out, by family."""
        self._left = left
        return self._fit(self._shown())[1]

    def render(self, format_: int) -> Iterator[bytes]:
        """In one of enum kpod_format, in pieces of about PIECE bytes."""
        encode = as_metric if format_ == lib.KPOD_PROTOBUF else as_line
        pods = self._shown()
        fits, _ = self._fit(pods)
        made = self._of(pods, encode)
        for index, (name, text) in enumerate(FAMILIES):
            if not fits[index]:
                continue
            series: Iterable[bytes] = (of_pod[index] for of_pod in made[: fits[index]])
            piece = bytearray()
            if format_ == lib.KPOD_PROTOBUF:
                series = list(series)
                head = protobuf_header("gauge", name, text)
                piece += protobuf.varint(len(head) + sum(map(len, series))) + head
            else:
                openmetrics = format_ == lib.KPOD_OPENMETRICS
                piece += header("gauge", name, text, openmetrics=openmetrics).encode()
            for one in series:
                piece += one
                if len(piece) >= PIECE:
                    yield bytes(piece)
                    piece.clear()
            yield bytes(piece)

    def present(self) -> list[Pod]:
        """That are there, and are to be shown."""
        return [pod for pod in self._table.present() if self._policy.shows(pod)]

    def _shown(self) -> list[Pod]:
        return [pod for pod in self._table.shown() if self._policy.shows(pod)]

    def _fit(self, pods: Sequence[Pod]) -> tuple[list[int], dict[str, int]]:
        """Of how many pods, the first, the series of each family are shown; and how many series
        are not, by family. By their text: all formats show the same.
        """
        series, size = self._left.total, self._left.page + self.reserve
        fits: list[int] = []
        cut: dict[str, int] = {}
        made = self._of(pods, as_line)
        for index, (name, _) in enumerate(FAMILIES):
            room, shown, lines = self._left.per_family, 0, [of_pod[index] for of_pod in made]
            counts = [text.count(b"\n") for text in lines]
            for text, count in zip(lines, counts, strict=True):
                if count > room or count > series or len(text) > size:
                    break
                room, series, size = room - count, series - count, size - len(text)
                shown += 1
            fits.append(shown)
            if left_out := sum(counts[shown:]):
                cut[name] = left_out
        return fits, cut

    def facts(self, cgroup_uid: str) -> Labels:
        """What people are told of one pod; empty if nothing is known, or it is not to be shown."""
        found = self._table.find(cgroup_uid, "")
        if not found or not self._policy.shows(found[0]):
            return ()
        series = [labels for family, labels, _ in self._samples(found[0]) if family == 0]
        return tuple((name, value) for name, value in series[0] if value)

    def images(self, cgroup_uid: str) -> dict[str, str]:
        """The images of its containers, by id, as kpod_container_info has them."""
        found = self._table.find(cgroup_uid, "")
        if not found or not self._policy.shows(found[0]):
            return {}
        return {c.id: cut(self._policy.blot(c.image)) for c in found[0].containers if c.id}

    def _of(self, pods: Iterable[Pod], encode: Encode) -> list[tuple[bytes, ...]]:
        """The pods' series of each family. What other pods had is forgotten."""
        before = self._made.get(encode, {})
        made: dict[str, tuple[Pod, tuple[bytes, ...]]] = {}
        for pod in pods:
            known = before.get(pod.uid)
            made[pod.uid] = known if known and known[0] is pod else (pod, self._encode(pod, encode))
        self._made[encode] = made
        return [series for _, series in made.values()]

    def _encode(self, pod: Pod, encode: Encode) -> tuple[bytes, ...]:
        series = [b""] * len(FAMILIES)
        for family, labels, value in self._samples(pod):
            series[family] += encode(FAMILIES[family][0], labels, value)
        return tuple(series)

    def _samples(self, pod: Pod) -> Iterator[tuple[int, Labels, int]]:
        """(family, labels, value) of each series."""

        def show(value: str) -> str:
            return cut(self._policy.blot(value))

        who: Labels = (
            ("namespace", cut(pod.namespace)),
            ("pod", cut(pod.name)),
            ("pod_uid", cut(pod.cgroup_uid)),
        )
        nobody: Labels = (("container", ""),)
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
        yield 0, (*who, *nobody, *info, *more), 1
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

    source: "Source"
    names: Names
    info: PodInfo

    def talkers(self) -> list[Pod]:
        """Pods that are there, whose addresses may be told."""
        return self.info.present()


class SourceCollector(Collector):
    """How the pods come to be known."""

    def __init__(self, source: "Source", names: Names) -> None:
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
