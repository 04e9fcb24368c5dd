"""The endpoints, over ASGI."""

import asyncio
import gzip
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from aggregator.cli import address, arguments
from aggregator.http.server import Application
from aggregator.pods.resolver import standalone
from aggregator.segment.exposition import Presentation
from aggregator.segment.formats import PROTOBUF_TYPE
from aggregator.segment.store import STATES, Limits, Store
from tests.scrape import openmetrics_samples, protobuf_families, protobuf_samples, text_samples
from tests.segment import CLOSED, HOST_SLOT, UNIT, Row, Segment, Slot, column, schema, table

Answer = tuple[int, dict[str, str], str]


def get_bytes(
    application: Application, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], bytes]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()],
    }
    asyncio.run(application(scope, receive, send))
    start, *body = sent
    assert not body[-1].get("more_body")
    answered = {k.decode(): v.decode() for k, v in start["headers"]}
    return start["status"], answered, b"".join(m["body"] for m in body)


def get(application: Application, path: str, method: str = "GET", **headers: str) -> Answer:
    status, answered, body = get_bytes(application, path, method, **headers)
    return status, answered, body.decode()


def application(path: Path) -> Application:
    return Application(Store(str(path), clock=time.monotonic_ns, resolver=standalone))


def segment(**more: Any) -> Segment:
    document = schema(
        table("t", 1, [column("t_total")]),
        collectors=[
            {"name": "a", "help": "works", "up": True, "reason": "", "attach": "tp_btf"},
            {"name": "b", "help": "not", "up": False, "reason": 'no <"BTF">', "attach": ""},
        ],
    )
    return Segment(document, [HOST_SLOT], [Row(0, 0, [42])], **more)


def values(body: str, name: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(s.labels.values()): s.value
        for family in text_string_to_metric_families(body)
        for s in family.samples
        if s.name == name
    }


@pytest.mark.parametrize("path", ["/metrics", "/actuator/prometheus"])
def test_metrics(tmp_path: Path, path: str) -> None:
    status, headers, body = get(application(segment().write(tmp_path / "segment")), path)
    assert status == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert values(body, "t_total") == {("host",): 42}
    assert values(body, "kpod_loader_up") == {(): 1}
    assert values(body, "kpod_collector_up") == {("a",): 1, ("b",): 0}
    assert ("", "b", 'no <"BTF">') in values(body, "kpod_collector_info")
    assert values(body, "kpod_segment_state") == {(s,): float(s == "live") for s in STATES}
    assert values(body, "kpod_scrapes_total") == {(): 1}
    assert "_created" not in body


def test_formats(tmp_path: Path) -> None:
    """One scrape, its own metrics included, in whatever format is asked for."""
    app = application(segment().write(tmp_path / "segment"))
    _, _, text = get(app, "/metrics")
    _, headers, openmetrics = get(app, "/metrics", accept="application/openmetrics-text")
    assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.endswith("\n# EOF\n")
    assert openmetrics.count("# EOF") == 1
    assert "# UNIT kpod_loader_start_time_seconds seconds\n" in openmetrics
    accept = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"
    _, headers, protobuf = get_bytes(app, "/metrics", accept=accept + "encoding=delimited")
    assert headers["content-type"] == (
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; "
        "encoding=delimited"
    )
    found = [text_samples(text), openmetrics_samples(openmetrics), protobuf_samples(protobuf)]
    # Since when a counter counts is no series of its own, and in protobuf alone.
    assert found[0].keys() == found[1].keys()
    assert found[2].keys() - found[0].keys() == {("t_created", frozenset({("scope", "host")}))}
    for samples in found:
        assert samples["t_total", frozenset({("scope", "host")})] == 42
        assert samples["kpod_loader_up", frozenset()] == 1
    # As promhttp does with what it does not have.
    status, headers, body = get(app, "/metrics", accept="application/json")
    assert (status, body.splitlines()[:4]) == (200, text.splitlines()[:4])
    assert headers["content-type"].startswith("text/plain; version=0.0.4")


def test_a_family_has_a_unit_line_in_openmetrics(tmp_path: Path) -> None:
    """Empty where there is no unit: else Prometheus 3.5 to 3.14 take the one of the family before.
    Protobuf says the same."""
    app = application(segment().write(tmp_path / "segment"))
    _, _, openmetrics = get(app, "/metrics", accept="application/openmetrics-text")
    lines = openmetrics.splitlines()
    types = [(i, line.split(" ")[2]) for i, line in enumerate(lines) if line.startswith("# TYPE ")]
    units = {}
    for at, name in types:
        hash_, word, unit_of, units[name] = lines[at + 1].split(" ")
        assert (hash_, word, unit_of) == ("#", "UNIT", name)
    assert {units["t"], units["kpod_loader_start_time_seconds"]} == {"", "seconds"}
    _, _, body = get_bytes(app, "/metrics", accept=PROTOBUF_TYPE)
    for family in protobuf_families(body):
        base = family.name.removesuffix("_total" if family.type == 0 else "_info")
        assert units[base] == family.unit


def test_own_label_values_are_safe(tmp_path: Path) -> None:
    document = schema(
        table("t", 1, [column("t_total")]),
        collectors=[
            {"name": "a", "help": "x", "up": False, "reason": "a\rb\nc\x85d\u2028e", "attach": ""}
        ],
    )
    app = application(Segment(document, [HOST_SLOT], [Row(0, 0, [42])]).write(tmp_path / "segment"))
    for accept in ("text/plain", "application/openmetrics-text", PROTOBUF_TYPE):
        _, _, body = get_bytes(app, "/metrics", accept=accept)
        assert b"a_b_c_d_e" in body


def test_absolute_form(tmp_path: Path) -> None:
    """What a forward proxy sends (RFC 9112, 3.2.2)."""
    app = application(segment().write(tmp_path / "segment"))
    assert get(app, "http://node:9090/healthz")[::2] == (200, "ok\n")
    assert get(app, "http://node:9090")[1]["content-type"].startswith("text/html")
    assert get(app, "http://node:9090/nothing")[0] == 404
    assert get(app, "/http://node:9090/healthz")[0] == 404


def test_families_without_samples_are_left_out(tmp_path: Path) -> None:
    no_value = 2**64 - 1
    columns = [
        column("a", "gauge", optional=True),
        column("b", "gauge", word=1, optional=True),
        column("b", "gauge", word=2, labels={"k": "v"}, optional=True),
    ]
    rows = [Row(0, 0, [no_value, no_value, no_value]), Row(0, 0, [no_value, no_value, 7])]
    made = Segment(schema(table("t", 3, columns)), [HOST_SLOT], rows)
    app = application(made.write(tmp_path / "segment"))
    for accept in ("text/plain", "application/openmetrics-text"):
        lines = get(app, "/metrics", accept=accept)[2].splitlines()
        described = {line.split(" ")[2] for line in lines if line.startswith("# TYPE ")}
        assert "b" in described
        assert not {"a", "kpod_series_cut"} & described
        samples = {line.partition("{")[0].partition(" ")[0] for line in lines if line[0] != "#"}
        # Of a counter or info, TYPE has the name without its suffix in OpenMetrics.
        assert described <= samples | {
            s.removesuffix("_total").removesuffix("_info") for s in samples
        }
    names = {f.name for f in protobuf_families(get_bytes(app, "/metrics", accept=PROTOBUF_TYPE)[2])}
    assert "b" in names
    assert "a" not in names


def test_a_page_is_not_larger_than_its_limit(tmp_path: Path) -> None:
    """By bytes, which is how vmagent counts; within a tenth, and a line."""
    columns = [column("a_total", labels={"kind": "x" * 20}), column("b_seconds_total", word=1)]
    count, line = 2000, 200
    Segment(
        schema(table("t", 2, columns, keys=[{"label": "port", "values": [], "words": 0}])),
        [Slot(i, f"{'u' * (i % 50)}{i}.service", UNIT) for i in range(count)],
        [Row(0, i, [i, i * 1000, i]) for i in range(count)],
        ring_capacity=1 << 20,
    ).write(tmp_path / "segment")

    def size(page: int) -> tuple[int, float]:
        store = Store(
            str(tmp_path / "segment"),
            clock=time.monotonic_ns,
            resolver=standalone,
            limits=Limits(page=page),
        )
        store.refresh()
        assert store.snapshot
        body = b"".join(store.snapshot.render(0))
        lines = [x for x in body.splitlines() if not x.startswith(b"#")]
        assert len(lines) + sum(store.snapshot.cut.values()) == 2 * count
        return len(body), sum(store.snapshot.cut.values())

    whole, cut = size(1 << 30)
    assert not cut
    for page in (1000, whole // 4, whole // 2, whole * 3 // 4):
        found, cut = size(page)
        assert page * 0.9 - line < found < page * 1.1
        assert cut


def test_created_where_it_is_asked_for() -> None:
    assert arguments([]).created == "protobuf"
    assert arguments(["--created", "off"]).created == "off"


def test_gzip(tmp_path: Path) -> None:
    app = application(segment().write(tmp_path / "segment"))
    for accept in ("text/plain", "application/openmetrics-text"):
        _, headers, plain = get_bytes(app, "/metrics", accept=accept)
        assert "content-encoding" not in headers
        assert headers["vary"] == "accept, accept-encoding"
        _, headers, packed = get_bytes(
            app, "/metrics", accept=accept, accept_encoding="br, gzip;q=0.5"
        )
        assert headers["content-encoding"] == "gzip"
        unpacked = gzip.decompress(packed)
        assert len(packed) < len(unpacked)
        # Its own metrics have moved meanwhile.
        assert unpacked.splitlines()[:4] == plain.splitlines()[:4]
        assert unpacked.splitlines()[-1] == plain.splitlines()[-1]
    assert "content-encoding" not in get_bytes(app, "/metrics", accept_encoding="*, gzip;q=0")[1]
    assert "content-encoding" in get_bytes(app, "/metrics", accept_encoding="*")[1]


def test_a_scrape_too_many_is_refused(tmp_path: Path) -> None:
    path = segment().write(tmp_path / "segment")
    store = Store(str(path), clock=time.monotonic_ns, resolver=standalone)
    app = Application(store, max_scrapes=1)
    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": []}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def scenario() -> list[int]:
        started, go_on = asyncio.Event(), asyncio.Event()
        statuses = []

        async def slow(message: dict[str, Any]) -> None:
            started.set()
            await go_on.wait()
            statuses.append(message.get("status", 0))

        async def quick(message: dict[str, Any]) -> None:
            statuses.append(message.get("status", 0))

        async def broken(_message: dict[str, Any]) -> None:
            raise ConnectionError

        first = asyncio.create_task(app(scope, receive, slow))
        await started.wait()
        await app(scope, receive, quick)
        await app(scope | {"path": "/healthz"}, receive, quick)
        go_on.set()
        await first
        with pytest.raises(ConnectionError):
            await app(scope, receive, broken)
        await app(scope, receive, quick)
        return [s for s in statuses if s]

    assert asyncio.run(scenario()) == [503, 200, 200, 200]
    _, _, body = get(app, "/metrics")
    assert values(body, "kpod_scrapes_refused_total") == {(): 1}


def test_series_beyond_the_limits_are_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    columns = [
        column("a_total"),
        column("b_total", labels={"kind": "x"}),
        column("b_total", labels={"kind": "y"}),
        column("c", "gauge"),
        column("d", "gauge"),
    ]
    Segment(
        schema(table("t", 1, columns)),
        [Slot(i, f"{i}.service", UNIT) for i in range(10)],
        [Row(0, i, [i]) for i in range(10)],
    ).write(tmp_path / "segment")
    store = Store(
        str(tmp_path / "segment"),
        clock=time.monotonic_ns,
        resolver=standalone,
        limits=Limits(per_family=15, total=26),
    )
    app = Application(store)
    for accept in ("text/plain", PROTOBUF_TYPE):
        _, _, body = get_bytes(app, "/metrics", accept=accept)
        text = accept == "text/plain"
        found = text_samples(body.decode()) if text else protobuf_samples(body)
        # Whole rows, and the first of them: a histogram is never torn.
        shown = Counter(name for name, _ in found if name[1:] in ("", "_total"))
        assert shown == {"a_total": 10, "b_total": 14, "c": 2}
        assert {
            dict(labels)["family"]: value
            for (name, labels), value in found.items()
            if name == "kpod_series_cut"
        } == {"b_total": 6, "c": 8, "d": 10}
    messages = [r.message for r in caplog.records if "more series" in r.message]
    assert len(messages) == 3
    assert any(m.startswith("b_total: ") for m in messages)


def test_without_a_loader(tmp_path: Path) -> None:
    app = application(tmp_path / "segment")
    status, _, body = get(app, "/metrics")
    assert status == 200
    assert values(body, "kpod_loader_up") == {(): 0}
    assert values(body, "kpod_segment_state")[("absent",)] == 1
    assert get(app, "/healthz")[0] == 200
    status, _, body = get(app, "/readyz")
    assert (status, body) == (503, f"not ready: segment {tmp_path}/segment is absent\n")
    segment().write(tmp_path / "segment")
    assert get(app, "/readyz")[0] == 200
    segment(state=CLOSED, generation=2).write(tmp_path / "segment")
    assert get(app, "/readyz")[2].endswith("is closed\n")
    (tmp_path / "segment").unlink()
    (tmp_path / "segment").write_bytes(bytes(5000))
    assert get(app, "/readyz")[2].endswith("is incompatible (not a kpod segment)\n")


def test_index_escapes(tmp_path: Path) -> None:
    _, headers, body = get(application(segment().write(tmp_path / "segment")), "/")
    assert headers["content-type"].startswith("text/html")
    assert "no &lt;&quot;BTF&quot;&gt;" in body
    assert 'href="metrics"' in body


def test_methods_and_paths(tmp_path: Path) -> None:
    app = application(segment().write(tmp_path / "segment"))
    assert get(app, "/nothing")[0] == 404
    status, headers, _ = get(app, "/metrics", "POST")
    assert (status, headers["allow"]) == (405, "GET, HEAD")
    status, _, body = get(app, "/metrics", "HEAD")
    assert (status, body) == (200, "")


def test_arguments(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NODE_NAME", "n1")
    options = arguments(["--listen", "[::1]:80", "--histogram", "a=b=both:-3,.25"])
    assert (options.listen, options.node) == (("::1", 80), "n1")
    assert options.histogram == [Presentation("a=b", True, True, (-3, 0.25))]
    assert arguments(["--histogram", "*=classic"]).histogram == [Presentation("*", False, True)]
    assert address(":9090") == ("", 9090)
    for bad in (
        ["--listen", "x"],
        ["--listen", "a:70000"],
        ["--histogram", "x"],
        ["--histogram", "=native"],
        ["--histogram", "*=wide"],
        ["--histogram", "*=both:1,x"],
        ["--max-series", "-1"],
        ["--otlp-endpoint", "localhost:4318"],
        ["--otlp-interval", "0"],
    ):
        with pytest.raises(SystemExit):
            arguments(bad)
        assert f"'{bad[1]}'" in capsys.readouterr().err
