"""OTLP push: what arrives at a receiver is what a scrape says, and a bad receiver harms nobody."""

import asyncio
import contextlib
import gzip
import http.server
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings
from prometheus_client import Counter

from aggregator._native import lib
from aggregator.push.otlp import ATTEMPTS, QUEUE, Endpoint, Exporter, connect, headers, requests
from aggregator.segment.store import Limits, Store
from aggregator.selfmetrics import SelfMetrics
from tests.scrape import native_buckets, protobuf_families
from tests.segment import (
    HOST_SLOT,
    POD_CONTAINER,
    UNIT,
    Row,
    Segment,
    Slot,
    begin,
    column,
    schema,
    table,
)

START = 1_700_000_000 * 10**9  # of tests.segment's loader and of its snapshots
MAX = 2**64 - 1
BUCKETS = 98
LABELS = (
    ("scope", "pod"),
    ("namespace", "shop"),
    ("pod", "cart-0"),
    ("pod_uid", "u-1"),
    ("container", 'c"\\\n'),
    ("container_id", "abc"),
)


def segment(generation: int = 1) -> Segment:
    keys = [
        {"label": "device", "values": ["sda"], "words": 0},
        {"label": "irq", "values": [], "words": 1},
    ]
    columns = [
        column("io_total", labels={"op": "read"}),
        column("wait_seconds_total", word=1, decimals=9),
        column("held_bytes", "gauge", word=2),
        column(
            "latency_seconds",
            "histogram",
            word=4,
            decimals=9,
            schema=2,
            first_exponent=-20,
            buckets=BUCKETS,
            sum=1,
            sum_words=2,
        ),
    ]
    counts = [0] * BUCKETS
    counts[0], counts[7], counts[9], counts[97] = 3, 1, 5, 2
    return Segment(
        schema(
            table("t", 4 + BUCKETS, columns, keys=keys),
            table("n", 1, [column("n_total")], scope="node"),
        ),
        [HOST_SLOT, Slot(1, "x", POD_CONTAINER, counted_ns=START + 5 * 10**9)],
        [
            Row(0, 0, [0, 0x6161, MAX, 2**53 + 1, 7, 0, *counts]),
            Row(0, 1, [9, 0, 6, 123456789, 2**63 - 1, 0, *reversed(counts)]),
            Row(0, 1, [0, 0, 8, 1, 2, 0, *[0] * BUCKETS]),
            Row(1, 0, [77]),
        ],
        generation=generation,
        stale_after_ns=10**15,
    )


def store_of(path: Path, **options: Any) -> Store:
    store = Store(
        str(path),
        clock=time.monotonic_ns,
        resolver=lambda o: LABELS if o.kind == POD_CONTAINER else (("scope", "host"),),
        node="n1",
        **options,
    )
    store.refresh()
    return store


Points = dict[tuple[str, frozenset[tuple[str, str]]], Any]


def points(metric: Metric, more: frozenset[tuple[str, str]] = frozenset()) -> Points:
    """Values by name and attributes; of a histogram: count, sum, zero and native buckets."""
    found: Points = {}
    data: Any = getattr(metric, str(metric.WhichOneof("data")))
    for point in data.data_points:
        labels = more | {(a.key, a.value.string_value) for a in point.attributes}
        if metric.HasField("exponential_histogram"):
            assert (point.scale, point.zero_threshold) == (2, 2.0**-20)
            offset = point.positive.offset + 1
            buckets = {i + offset: n for i, n in enumerate(point.positive.bucket_counts) if n}
            value: Any = (point.count, point.sum, point.zero_count, buckets)
        else:
            value = getattr(point, str(point.WhichOneof("value")))
        assert (metric.name, labels) not in found
        found[metric.name, labels] = value
    return found


def as_double(value: Any) -> Any:
    """Counts of 2^53 and more are exact in OTLP and rounded in a scrape."""
    return float(value) if isinstance(value, int) else value


def scraped(store: Store) -> Points:
    """The same from the protobuf exposition."""
    assert store.snapshot
    found: Points = {}
    for family in protobuf_families(b"".join(store.snapshot.render(lib.KPOD_PROTOBUF))):
        for metric in family.metric:
            labels = frozenset((x.name, x.value) for x in metric.label if x.value)
            h = metric.histogram
            buckets = {i: n for i, n in native_buckets(h).items() if n}
            found[family.name, labels] = (
                (h.sample_count, h.sample_sum, h.zero_count, buckets)
                if metric.HasField("histogram")
                else metric.counter.value
                if metric.HasField("counter")
                else metric.gauge.value
            )
    return found


NAMES = {
    "k8s.namespace.name": "namespace",
    "k8s.pod.name": "pod",
    "k8s.pod.uid": "pod_uid",
    "k8s.container.name": "container",
    "k8s.node.name": "node",
    "container.id": "container_id",
}


def test_requests_say_what_a_scrape_says(tmp_path: Path) -> None:
    store = store_of(segment().write(tmp_path / "segment"))
    assert store.snapshot
    (body,) = requests(store.snapshot)
    found: Points = {}
    for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
        attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
        assert attributes.pop("k8s.node.name") == "n1"
        if attributes.get("scope") == "pod":
            assert attributes == {
                "scope": "pod",
                "k8s.namespace.name": "shop",
                "k8s.pod.name": "cart-0",
                "k8s.pod.uid": "u-1",
                "k8s.container.name": 'c"\\_',
                "container.id": "abc",
            }
        created = START + (5 * 10**9 if attributes.get("scope") == "pod" else 0)
        labels = frozenset((NAMES.get(k, k), v) for k, v in (attributes | {"node": "n1"}).items())
        for metric in resource.scope_metrics[0].metrics:
            assert metric.description
            unit = {"wait_seconds_total": "s", "latency_seconds": "s", "held_bytes": "By"}
            assert metric.unit == unit.get(metric.name, "")
            found |= points(metric, labels)
            data: Any = getattr(metric, str(metric.WhichOneof("data")))
            for point in data.data_points:
                assert point.time_unix_nano == START
                if not metric.HasField("gauge"):
                    assert point.start_time_unix_nano == created
                    assert data.aggregation_temporality == 2  # cumulative
    assert len(found) == 3 * 4 + 1
    assert {k: as_double(v) for k, v in found.items()} == scraped(store)


def test_limits_hold(tmp_path: Path) -> None:
    path = segment().write(tmp_path / "segment")
    store = store_of(path, limits=Limits(per_family=2, total=100))
    assert store.snapshot
    (body,) = requests(store.snapshot)
    names = [
        metric.name
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for metric in resource.scope_metrics[0].metrics
    ]
    assert names.count("io_total") == 2
    assert "latency_seconds" not in names


def test_what_is_not_shown_is_not_sent(tmp_path: Path) -> None:
    """No value of an optional column, and owners that have no name yet."""
    path = tmp_path / "segment"
    columns = [column("limit_bytes", "gauge", optional=True), column("used_bytes", "gauge", word=1)]
    slots = [Slot(1, "a", UNIT), Slot(2, "b", UNIT)]
    rows = [Row(0, 1, [MAX, 2**63]), Row(0, 2, [5, 6])]
    names = {"a": "one"}
    store = Store(
        str(path),
        clock=time.monotonic_ns,
        resolver=lambda o: (("container", names[o.path]),) if o.path in names else None,
    )

    def sent(generation: int) -> dict[tuple[str, str], float]:
        Segment(schema(table("t", 2, columns)), slots, rows, generation=generation).write(path)
        assert store.refresh() == "live"
        assert store.snapshot
        found = {}
        for body in requests(store.snapshot):
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                (who,) = resource.resource.attributes
                for metric in resource.scope_metrics[0].metrics:
                    for (name, _), number in points(metric).items():
                        found[name, who.value.string_value] = number
        return found

    unlimited = {("used_bytes", "one"): 2.0**63}
    assert sent(1) == unlimited
    names["b"] = "two"
    assert sent(2) == unlimited | {("limit_bytes", "two"): 5, ("used_bytes", "two"): 6}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def value(counter: Counter) -> float:
    (metric,) = counter.collect()
    return metric.samples[0].value


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def run_beside(exporter: Exporter, scenario: Callable[[], Awaitable[None]]) -> None:
    async def both() -> None:
        pushing = asyncio.create_task(exporter.run())
        await scenario()
        pushing.cancel()

    asyncio.run(both())


def exporter_of(store: Store, url: str, timeout: float = 10) -> Exporter:
    endpoint = Endpoint(url, {}, timeout=timeout)
    return Exporter(store, SelfMetrics(store), endpoint, interval=0.01, backoff=0.001)


def test_a_real_receiver_has_the_same_values(tmp_path: Path) -> None:
    store = store_of(segment().write(tmp_path / "segment"))
    port = free_port()
    exporter = exporter_of(store, f"http://127.0.0.1:{port}/v1/metrics")
    received: Points = {}

    async def scenario() -> None:
        settings = OtelTapHttpProtobufReceiverSettings(http_port=port)
        async with OtelTapHttpProtobufReceiver(settings) as receiver, asyncio.timeout(30):
            async for metric in receiver.stream_metrics():
                # It does not hand over the resource: containers are told apart by their values.
                for (name, labels), v in points(metric).items():
                    received[name, labels | {("value", str(v))}] = v
                if len(received) == 13:
                    break

    run_beside(exporter, scenario)
    names = sorted((name, as_double(v)) for (name, _), v in received.items())
    assert names == sorted((name, v) for (name, _), v in scraped(store).items())
    assert value(exporter.dropped) == 0


@pytest.mark.parametrize(
    "kind", ["dead", "silent", "dripping", "refusing", "moved", "partial", "busy"]
)
def test_a_bad_receiver_harms_nobody(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "segment"
    store = store_of(segment().write(path))
    partial = ExportMetricsServiceResponse()
    partial.partial_success.rejected_data_points = 3
    answers = {
        "refusing": b"HTTP/1.1 400 Bad Request\r\n\r\n",
        # Nobody follows: the data would be left behind, and a GET taken for its arrival.
        "moved": b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n",
        "partial": b"HTTP/1.1 200 OK\r\n\r\n" + partial.SerializeToString(),
        "busy": b"HTTP/1.1 503 Busy\r\n\r\n",
    }
    final = ("refusing", "moved", "partial")
    requests_seen = 0

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests_seen
        requests_seen += 1
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"POST ")
        if kind == "silent":
            await reader.read()
        elif kind == "dripping":
            writer.write(b"HTTP/1.1 200 OK\r\n")
            while not reader.at_eof():
                writer.write(b"x: y\r\n")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1 << 16), 0.05)
        else:
            writer.write(answers[kind])
        writer.close()

    async def scenario() -> None:
        if kind != "dead":
            await asyncio.start_server(receive, "127.0.0.1", port)
        for generation in range(2, 2 + QUEUE + 3):
            # New snapshots come while the first one waits, and scrapes find them at once.
            new = segment(generation)
            new.start, new.sequence = new.end, generation
            realtime = START + generation
            records = [begin(generation, time.monotonic_ns(), realtime)]
            records += [s.encode() for s in new.slots] + [r.encode() for r in new.rows]
            new.write_snapshot(records)
            new.write(path)
            await asyncio.sleep(0.05)
            store.refresh()
            assert store.snapshot
            assert store.snapshot.native.realtime_ns == realtime
        await until(lambda: value(exporter.dropped) + value(exporter.partial) >= QUEUE)
        # What is dropped from the queue may come before the first request has failed.
        await until(lambda: kind in final or value(exporter.retries) >= ATTEMPTS)

    port = free_port()
    exporter = exporter_of(store, f"http://127.0.0.1:{port}/v1/metrics", timeout=0.2)
    run_beside(exporter, scenario)
    # What arrived in part has arrived, and is not sent again.
    assert value(exporter.sent) == value(exporter.partial) == value(exporter.rejected) / 3
    assert (value(exporter.partial) > 0) == (kind == "partial")
    assert (value(exporter.retries) > 0) == (kind not in final)
    assert len([r for r in caplog.records if "OTLP" in r.message]) <= 1
    if kind == "busy":
        assert requests_seen >= ATTEMPTS


def test_a_warning_of_a_receiver_is_no_loss(tmp_path: Path) -> None:
    """Success with a message and no rejected points (OTLP 1.x, partial success)."""
    warning = ExportMetricsServiceResponse()
    warning.partial_success.error_message = "use another name"
    answer = b"HTTP/1.1 200 OK\r\n\r\n" + warning.SerializeToString()
    store = store_of(segment().write(tmp_path / "segment"))

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async def scenario() -> None:
        await asyncio.start_server(receive, "127.0.0.1", port)
        await until(lambda: value(exporter.partial))

    port = free_port()
    exporter = exporter_of(store, f"http://127.0.0.1:{port}/")
    run_beside(exporter, scenario)
    assert (value(exporter.sent), value(exporter.rejected), value(exporter.dropped)) == (1, 0, 0)


@pytest.mark.parametrize("place", ["update", "post", "pieces"])
def test_an_unexpected_error_does_not_end_the_push(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One snapshot is lost, which is counted and logged; the next one is sent."""
    path = tmp_path / "segment"
    store = store_of(segment().write(path))
    posts = 0
    broken = True

    def fail() -> None:
        nonlocal broken
        if broken:
            broken = False
            raise ZeroDivisionError("nobody thought of it")

    class BrokenEndpoint(Endpoint):
        async def post(self, *_: Any) -> float | None:
            nonlocal posts
            if place == "post":
                fail()
            posts += 1
            return None

    update = store.update

    async def updated() -> str:
        if place == "update":
            fail()
        return await update()

    def pieces(snapshot: Any) -> Any:
        if place == "pieces":
            fail()
        return requests(snapshot)

    monkeypatch.setattr(store, "update", updated)
    monkeypatch.setattr("aggregator.push.otlp.requests", pieces)
    exporter = Exporter(
        store, SelfMetrics(store), BrokenEndpoint("http://x/", {}), interval=0.01, backoff=0.001
    )

    async def scenario() -> None:
        await until(lambda: value(exporter.errors))
        new = segment(2)
        new.start, new.sequence = new.end, 2
        records = [begin(2, time.monotonic_ns(), START + 2)]
        records += [s.encode() for s in new.slots] + [r.encode() for r in new.rows]
        new.write_snapshot(records)
        new.write(path)
        await until(lambda: posts)

    run_beside(exporter, scenario)
    assert value(exporter.errors) == 1
    assert "ZeroDivisionError" in caplog.text


def test_a_header_that_cannot_be_sent_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(segment().write(tmp_path / "segment"))

    async def scenario() -> None:
        await until(lambda: value(exporter.dropped))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        endpoint = Endpoint(url, {"x": "a\nb"})
        exporter = Exporter(store, SelfMetrics(store), endpoint, interval=0.01)
        run_beside(exporter, scenario)
    assert "cannot be sent: Illegal header value" in caplog.text


def test_an_answer_without_end_is_not_read(tmp_path: Path) -> None:
    store = store_of(segment().write(tmp_path / "segment"))

    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not writer.is_closing():
            writer.write(bytes(1 << 16))
            await asyncio.sleep(0.001)

    async def scenario() -> None:
        await asyncio.start_server(talk, "127.0.0.1", port)
        await until(lambda: value(exporter.sent) or value(exporter.retries))

    port = free_port()
    exporter = exporter_of(store, f"http://127.0.0.1:{port}/")
    run_beside(exporter, scenario)
    assert (value(exporter.sent), value(exporter.retries)) == (1, 0)


def test_sums_wrap_as_in_a_scrape(tmp_path: Path) -> None:
    new = segment()
    row = Row(0, 1, [0, 0, 0, 0, MAX, MAX, *[MAX] * BUCKETS])
    made = Segment(new.document, new.slots, [row], stale_after_ns=10**15)
    store = store_of(made.write(tmp_path / "segment"))
    assert store.snapshot
    (body,) = requests(store.snapshot)
    (resource,) = ExportMetricsServiceRequest.FromString(body).resource_metrics
    (point,) = resource.scope_metrics[0].metrics[-1].exponential_histogram.data_points
    (family,) = [
        f
        for f in protobuf_families(b"".join(store.snapshot.render(lib.KPOD_PROTOBUF)))
        if f.name == "latency_seconds"
    ]
    shown = family.metric[0].histogram
    assert (point.count, point.sum) == (shown.sample_count, shown.sample_sum)


@pytest.mark.parametrize("packed", [False, True])
def test_request_as_it_is_sent(packed: bool) -> None:
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # its name there
            seen.append((self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1/metrics"

        async def post() -> float | None:
            async with connect() as client:
                return await Endpoint(url, {"x-a": "b"}, packed).post(client, b"content")

        assert asyncio.run(post()) is None
    ((sent, body),) = seen
    assert (gzip.decompress(body) if packed else body) == b"content"
    assert sent["Content-Encoding"] == ("gzip" if packed else None)
    assert (sent["Content-Type"], sent["X-A"]) == ("application/x-protobuf", "b")


def test_headers_of_the_environment() -> None:
    assert headers("") == {}
    assert headers("authorization=Basic%20abc=, x = y") == {
        "authorization": "Basic abc=",
        "x": "y",
    }
