"""OTLP/HTTP push (opentelemetry.io/docs/specs/otlp, 1.x): off unless --otlp-endpoint is given.

Totals are cumulative, so a snapshot that could not be sent is made good by the next one. That is
why little is queued, and why what is given up is only counted.
"""

import asyncio
import logging
import random
import re
import ssl
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
from google.protobuf.message import DecodeError
from isal import igzip
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Metric,
    ResourceMetrics,
)

from aggregator import __version__
from aggregator._native import ffi, lib
from aggregator.pods.kinds import POD, POD_CONTAINER
from aggregator.pods.resolver import name_of
from aggregator.pods.source import retry_after
from aggregator.segment.exposition import WHOSE
from aggregator.segment.labels import Labels, cleaned
from aggregator.segment.schema import Column, Histogram, Table
from aggregator.segment.store import NO_VALUE, Snapshot, Store, owner_of
from aggregator.selfmetrics import SelfMetrics

log = logging.getLogger("kpod")

QUEUE = 2  # snapshots
OWNERS = 500  # in a request: receivers take a few MB
TIMEOUT = 10.0
ATTEMPTS = 5
BACKOFF = 1.0  # s, doubled each time
BACKOFF_MAX = 30.0
ANSWER_MAX = 1 << 16  # bytes of a receiver's answer that are looked at
RETRYABLE = (429, 502, 503, 504)  # as the specification has it

ATTRIBUTES = {
    "namespace": "k8s.namespace.name",
    "pod": "k8s.pod.name",
    "pod_uid": "k8s.pod.uid",
    "container": "k8s.container.name",
    "node": "k8s.node.name",
    "container_id": "container.id",
}
UNITS = {"_seconds": "s", "_bytes": "By"}
UINT64_MAX = 2**64 - 1  # sums wrap as in render.c
CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE


def key_values(pairs: Iterable[tuple[str, str]]) -> list[KeyValue]:
    found = []
    for name, value in pairs:
        pair = KeyValue(key=name)
        pair.value.string_value = value
        found.append(pair)
    return found


def _unit(name: str) -> str:
    base = name.removesuffix("_total")
    return next((unit for suffix, unit in UNITS.items() if base.endswith(suffix)), "")


def _key_labels(snapshot: Snapshot, table: Table, words: list[int]) -> list[tuple[str, str]]:
    found, at = [], 0
    for key in table.keys:
        size = key.text_words or 1
        if key.names_owner:
            if (several := key.several(words[at])) is not None:
                found.append((f"{key.label}_scope", several))
            else:
                found += [(name, value) for name, value in snapshot.named(words[at]) if value]
            at += size
            continue
        if key.text_words:
            raw = b"".join(w.to_bytes(8, "little") for w in words[at : at + size])
            # As render.c shows it.
            value = re.sub(rb"[^ !#-\[\]-~]", b"_", raw.split(b"\0")[0]).decode()
        else:
            number = words[at]
            value = key.values[number] if number < len(key.values) else str(number)
        at += size
        if value:
            found.append((key.label, value))
    return found


def _set_number(point: Any, word: int, decimals: int) -> None:
    if decimals or word >= 1 << 63:
        point.as_double = word / 10**decimals
    else:
        point.as_int = word


def _set_histogram(point: Any, histogram: Histogram, buckets: list[int]) -> None:
    point.count = sum(buckets) & UINT64_MAX
    point.scale = histogram.schema
    point.zero_threshold = 2.0**histogram.first_exponent
    point.zero_count = buckets[0]
    used = [i for i, count in enumerate(buckets) if count and i]
    if used:
        # OpenMetrics' bucket k ends at base^k, OpenTelemetry's bucket k begins there.
        first = int(histogram.first_exponent * 2.0**histogram.schema)
        point.positive.offset = first + used[0] - 1
        point.positive.bucket_counts.extend(buckets[used[0] : used[-1] + 1])


def _counted(column: Column, words: list[int]) -> bool:
    """False for a counter that is zero; as kpod_has_sample() in native/sample.h has it."""
    if column.kind == "gauge":
        return True
    size = column.histogram.buckets if column.histogram else 1
    return any(words[column.word : column.word + size])


def _add_point(metric: Metric, column: Column, words: list[int]) -> Any:
    point: Any
    if column.histogram:
        histogram = column.histogram
        metric.exponential_histogram.aggregation_temporality = CUMULATIVE
        point = metric.exponential_histogram.data_points.add()
        end = column.word + histogram.buckets
        _set_histogram(point, histogram, words[column.word : end])
        total = sum(words[histogram.sum : histogram.sum + histogram.sum_words])
        point.sum = (total & UINT64_MAX) / 10**column.decimals
        return point
    if column.kind == "counter":
        metric.sum.aggregation_temporality = CUMULATIVE
        metric.sum.is_monotonic = True
        point = metric.sum.data_points.add()
    else:
        point = metric.gauge.data_points.add()
    _set_number(point, words[column.word], column.decimals)
    return point


def _with_ids(snapshot: Snapshot, owner: Any) -> Labels:
    """An owner's labels. A resource has its ids also where names are enough for a series: it is
    sent once for all of them, and processors find pods by their uid."""
    labels = snapshot.labels_of(owner)
    if not owner or owner.kind not in (POD, POD_CONTAINER) or not owner.path_size:
        return labels
    name = name_of(owner_of(owner, snapshot.outdone))
    ids = (("pod_uid", name.pod_uid), ("container_id", name.container_id))
    there = dict(labels)
    return (*labels, *cleaned((n, v) for n, v in ids if v and n not in there))


def _resource(
    snapshot: Snapshot, owner: Any, rows: list[tuple[int, int]], shown: Mapping[str, int]
) -> ResourceMetrics:
    """All of one owner; rows: table and place in it."""
    native, schema = snapshot.native, snapshot.plan.schema
    labels = _with_ids(snapshot, owner)
    found = ResourceMetrics()
    found.resource.attributes.extend(
        key_values((ATTRIBUTES.get(n, n), v) for n, v in labels if v or n not in WHOSE)
    )
    scope = found.scope_metrics.add()
    scope.scope.name, scope.scope.version = "kpod-metrics", __version__
    metrics: dict[str, Metric] = {}
    ended = bool(owner and owner.died_ns)
    for index, place in rows:
        table = schema.tables[index]
        shape = snapshot.plan.native.shapes[index]
        row = native.rows[native.first_row[index] + place]
        created = lib.kpod_snapshot_created(native, ffi.addressof(shape), owner)
        words = ffi.unpack(row.words, shape.key_words + shape.word_count)
        keys = _key_labels(snapshot, table, words)
        del words[: shape.key_words]
        for column in table.columns:
            if place >= shown[column.name]:
                continue
            if column.optional and words[column.word] == NO_VALUE:
                continue
            if ended and not _counted(column, words):
                continue
            metric = metrics.get(column.name)
            if metric is None:
                metric = metrics[column.name] = scope.metrics.add()
                metric.name, metric.description = column.name, column.help
                metric.unit = _unit(column.name)
            point = _add_point(metric, column, words)
            point.attributes.extend(key_values([*column.labels, *keys]))
            point.time_unix_nano = native.realtime_ns
            if column.kind != "gauge":
                point.start_time_unix_nano = created
    return found


def requests(snapshot: Snapshot) -> Iterator[bytes]:
    """The snapshot as ExportMetricsServiceRequests."""
    native, plan = snapshot.native, snapshot.plan
    shown = snapshot.shown()
    by_owner: dict[int, tuple[Any, list[tuple[int, int]]]] = {}
    for index in range(len(plan.schema.tables)):
        first = native.first_row[index]
        for place in range(native.first_row[index + 1] - first):
            owner = native.rows[first + place].owner
            key = int(ffi.cast("uintptr_t", owner))
            by_owner.setdefault(key, (owner, []))[1].append((index, place))
    owners = list(by_owner.values())
    for at in range(0, len(owners), OWNERS):
        request = ExportMetricsServiceRequest()
        for owner, rows in owners[at : at + OWNERS]:
            request.resource_metrics.append(_resource(snapshot, owner, rows, shown))
            time.sleep(0)  # the interpreter is wanted by scrapes
        yield request.SerializeToString()


class RefusedError(Exception):
    """A request is not to be sent again; the message says why."""


class PartialError(Exception):
    """A request arrived, and is not to be sent again; so many of its points were rejected."""

    def __init__(self, points: int, message: str) -> None:
        super().__init__(f"{points} points rejected: {message}" if points else message)
        self.points = points


def connect() -> httpx.AsyncClient:
    """It follows no redirect: the receiver's answer is not somebody else's."""
    return httpx.AsyncClient(verify=ssl.create_default_context(), timeout=None)


async def _check(answer: httpx.Response) -> None:
    """PartialError if the receiver did not take all of what it answers with success."""
    content = b""
    async for piece in answer.aiter_raw():
        content += piece
        if len(content) > ANSWER_MAX:
            return
    try:
        partial = ExportMetricsServiceResponse.FromString(content).partial_success
    except DecodeError:  # not all receivers answer as they should
        return
    # Without points it is a warning; a negative number of points is no number of points.
    if partial.rejected_data_points > 0 or partial.error_message:
        raise PartialError(max(partial.rejected_data_points, 0), partial.error_message)


@dataclass(frozen=True, slots=True)
class Endpoint:
    url: str
    headers: Mapping[str, str]
    gzip: bool = False  # not all receivers can
    timeout: float = TIMEOUT  # of a request and its answer, however little of it comes at a time

    async def post(self, client: httpx.AsyncClient, body: bytes) -> float | None:
        """Sends a request. None: it has arrived; else after how many seconds it may be retried.

        RefusedError: for good. PartialError: it has, but not all of it was taken.
        """
        headers = {
            "Accept-Encoding": "identity",
            "Content-Type": "application/x-protobuf",
            "User-Agent": f"kpod-metrics/{__version__}",
            **self.headers,
        }
        if self.gzip:
            headers["Content-Encoding"] = "gzip"
            body = await asyncio.to_thread(igzip.compress, body, 1)
        try:
            async with (
                asyncio.timeout(self.timeout),
                client.stream("POST", self.url, content=body, headers=headers) as answer,
            ):
                if answer.status_code in RETRYABLE:
                    return retry_after(answer)
                if not answer.is_success:
                    raise RefusedError(f"{answer.status_code} {answer.reason_phrase}")
                await _check(answer)
        except (httpx.InvalidURL, httpx.LocalProtocolError, ValueError) as error:
            raise RefusedError(f"cannot be sent: {error}") from error
        except (TimeoutError, httpx.TransportError) as error:
            log.debug("%s: %r", self.url, error)
            return 0.0
        return None


class Exporter:
    """Sends the store's snapshots, each at most once, in the order they were taken."""

    def __init__(
        self,
        store: Store,
        own: SelfMetrics,
        endpoint: Endpoint,
        *,
        interval: float,
        backoff: float = BACKOFF,
        jitter: Callable[[], float] = random.random,
        arrived: Callable[[int, int], None] = lambda _generation, _sequence: None,
    ) -> None:
        """arrived: is told of each snapshot that the receiver has whole."""
        self._arrived = arrived
        self._store = store
        self._endpoint = endpoint
        self._interval = interval
        self._backoff = backoff
        self._jitter = jitter
        self._queue: asyncio.Queue[Snapshot] = asyncio.Queue(QUEUE)
        self._failed = False
        self.sent = own.counter("kpod_otlp_requests", "OTLP requests that arrived.")
        self.retries = own.counter("kpod_otlp_retries", "OTLP requests sent once more.")
        self.dropped = own.counter(
            "kpod_otlp_dropped", "OTLP requests given up, and snapshots never sent."
        )
        self.partial = own.counter(
            "kpod_otlp_partial_successes",
            "OTLP requests that the receiver took with a warning or without some of their points.",
        )
        self.rejected = own.counter(
            "kpod_otlp_rejected_points",
            "Data points of OTLP requests that the receiver said it did not take.",
        )
        self.errors = own.counter(
            "kpod_otlp_errors", "Unexpected errors of the OTLP push, each in the log; it goes on."
        )

    async def run(self) -> None:
        """Until cancelled, whatever happens."""
        async with connect() as client, asyncio.TaskGroup() as group:
            group.create_task(self._take())
            group.create_task(self._send(client))

    async def _take(self) -> None:
        last = 0
        snapshot: Snapshot | None
        while True:
            with self._survived("reading a snapshot"):
                await self._store.fresh()
                snapshot = self._store.snapshot
                if snapshot and snapshot.native.realtime_ns != last:
                    last = snapshot.native.realtime_ns
                    if self._queue.full():
                        self._queue.get_nowait()
                        self.dropped.inc()
                    self._queue.put_nowait(snapshot)
            snapshot = None  # not to be kept in memory until the next one
            await asyncio.sleep(self._interval)

    async def _send(self, client: httpx.AsyncClient) -> None:
        while True:
            snapshot = await self._queue.get()
            with self._survived("sending a snapshot"):
                pieces, whole = requests(snapshot), True
                name = snapshot.generation, int(snapshot.native.sequence)
                del snapshot
                while body := await asyncio.to_thread(next, pieces, None):
                    whole &= await self._deliver(client, body)
                if whole:
                    self._arrived(*name)

    @contextmanager
    def _survived(self, what: str) -> Iterator[None]:
        """An error that nobody thought of costs one snapshot, not all that follow."""
        try:
            yield
        except Exception:
            self.errors.inc()
            log.exception("OTLP push, %s: unexpected error; the next snapshot is sent", what)

    async def _deliver(self, client: httpx.AsyncClient, body: bytes) -> bool:
        """Whether all of it has arrived."""
        cause: object = f"no answer after {ATTEMPTS} attempts"
        for attempt in range(ATTEMPTS):
            try:
                wait = await self._endpoint.post(client, body)
            except PartialError as error:
                self.sent.inc()
                self.partial.inc()
                self.rejected.inc(error.points)
                self._warn(error, "kpod_otlp_rejected_points_total")
                return not error.points
            except RefusedError as error:
                cause = error
                break
            if wait is None:
                self.sent.inc()
                self._failed = False
                return True
            if attempt + 1 < ATTEMPTS:
                self.retries.inc()
                pause = min(self._backoff * 2**attempt * (0.5 + self._jitter()), BACKOFF_MAX)
                await asyncio.sleep(max(pause, min(wait, BACKOFF_MAX)))
        self.dropped.inc()
        self._warn(cause, "kpod_otlp_dropped_total")
        return False

    def _warn(self, cause: object, counter: str) -> None:
        if not self._failed:
            self._failed = True
            log.warning("OTLP %s: %s; see %s", self._endpoint.url, cause, counter)


def headers(text: str) -> dict[str, str]:
    """OTEL_EXPORTER_OTLP_HEADERS: name=value,name=value."""
    pairs = (part.partition("=") for part in text.split(",") if part.strip())
    return {name.strip(): urllib.parse.unquote(value.strip()) for name, _, value in pairs}
