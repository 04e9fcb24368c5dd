"""Text, OpenMetrics and protobuf say the same, and each what its specification wants."""

import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

from aggregator._native import lib
from aggregator.pods.resolver import standalone
from aggregator.segment.exposition import Presentation
from aggregator.segment.formats import FORMATS, encode_protobuf, negotiate
from aggregator.segment.store import Store
from tests.scrape import (
    Samples,
    native_buckets,
    openmetrics_samples,
    protobuf_families,
    protobuf_samples,
    text_samples,
)
from tests.segment import HOST_SLOT, UNIT, Row, Segment, Slot, collector, column, schema, table
from tests.segment import START as START_NS

MAX = 2**64 - 1
START = 1_700_000_000  # of tests.segment's loader
BUCKETS = 98
HISTOGRAM = {"schema": 2, "first_exponent": -20, "buckets": BUCKETS, "sum_words": 2}
BOTH = [Presentation(classic=True)]

TEXT, OPENMETRICS, PROTOBUF = lib.KPOD_TEXT, lib.KPOD_OPENMETRICS, lib.KPOD_PROTOBUF


def scrapes(path: Path, segment: Segment, **options: Any) -> list[bytes]:
    """The segment in each format."""
    store = Store(
        str(segment.write(path / "segment")),
        clock=time.monotonic_ns,
        **{"resolver": standalone, "created": "all", **options},
    )
    assert store.refresh() == "live", store.cause
    snapshot = store.snapshot
    assert snapshot
    found = []
    for format_ in (TEXT, OPENMETRICS, PROTOBUF):
        chunks = list(snapshot.render(format_))
        assert all(len(chunk) <= lib.KPOD_CHUNK_SIZE for chunk in chunks)
        found.append(b"".join(chunks))
    found[OPENMETRICS] += b"# EOF\n"
    return found


def check_same(found: list[bytes]) -> Samples:
    """That the formats agree; returns the samples of the text format."""
    text = text_samples(found[TEXT].decode())
    openmetrics = openmetrics_samples(found[OPENMETRICS].decode())
    protobuf = protobuf_samples(found[PROTOBUF])
    assert protobuf == openmetrics
    assert text == {k: v for k, v in openmetrics.items() if not k[0].endswith("_created")}
    assert all(v == v for v in openmetrics.values())
    return text


def document(labels: dict[str, str], help_text: str) -> dict[str, Any]:
    """Two tables with everything in them: 5 + BUCKETS words with three keys, and 2 of the node."""
    keys = [
        {"label": "device", "values": ["sda", 's"d\\b\n'], "words": 0},
        {"label": "port", "values": [], "words": 0},
        {"label": "irq", "values": [], "words": 2},
    ]
    columns = [
        column("io_total", labels=labels),
        column("io_total", word=1, labels=labels | {"op": "write"}),
        column("wait_seconds_total", word=2, decimals=9),
        column("held_bytes", "gauge", word=3, decimals=3),
        column(
            "latency_seconds", "histogram", word=5, decimals=9, labels=labels, sum=3, **HISTOGRAM
        ),
    ]
    for c in columns:
        c["help"] = help_text
    return schema(
        table("t", 5 + BUCKETS, columns, keys=keys),
        table("n", 1, [column("n_total")], scope="node"),
    )


EXTREMES = (0, 1, 2**53 - 1, 2**53 + 1, MAX - 1, MAX)
words = st.one_of(st.sampled_from(EXTREMES), st.integers(0, MAX))


def row_words(generator: random.Random) -> list[int]:
    """Keys and values of a row of the first table."""
    chosen = [generator.choice([*EXTREMES, generator.randrange(MAX)]) for _ in range(8)]
    # Beyond 2^63 events the differences between native buckets no longer are in 64 bits.
    counts = [generator.choice([0, 1, generator.randrange(2**62 // 98)]) for _ in range(BUCKETS)]
    return [generator.choice([0, 1, 2, MAX]), *chosen, *counts]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=200), min_size=1, max_size=4),
    st.text(max_size=200),
    st.text(max_size=50).map(lambda t: t.strip() or "Help."),
    st.text(max_size=20),
    st.integers(),
)
def test_all_formats_say_the_same(
    tmp_path: Path, values: list[str], constant: str, help_text: str, node: str, seed: int
) -> None:
    generator = random.Random(seed)
    segment = Segment(
        document({"c": constant} if constant else {}, help_text),
        slots=[Slot(i, f"{i}.service", UNIT) for i in range(len(values))],
        rows=[
            *(Row(0, i, row_words(generator)) for i in range(len(values))),
            Row(1, 0, [generator.choice(EXTREMES)]),
        ],
    )
    found = scrapes(
        tmp_path,
        segment,
        presentations=BOTH,
        node=node,
        resolver=lambda o: (("l", values[int(o.path.split(".")[0])]),),
    )
    text = check_same(found)
    assert len(text) == 1 + len(values) * (4 + 15)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(words, min_size=1, max_size=20), st.integers(0, 18))
@example([2**53 + 1, 9007199254740995, MAX, MAX - 1023, MAX - 1024, MAX - 1025], 0)
def test_doubles_are_the_nearest(tmp_path: Path, values: list[int], decimals: int) -> None:
    """Python's float() of the exact text is the oracle for protobuf's doubles."""
    segment = Segment(
        schema(table("t", 1, [column("v_total", decimals=decimals)])),
        slots=[Slot(i, f"{i}.service", UNIT) for i in range(len(values))],
        rows=[Row(0, i, [v]) for i, v in enumerate(values)],
    )
    check_same(scrapes(tmp_path, segment))


def test_families_are_described(tmp_path: Path) -> None:
    segment = Segment(
        document({}, 'He said: "back\\slash"\nand more.'),
        [HOST_SLOT],
        [Row(0, 0, [0] * 4 + [1] * (5 + BUCKETS)), Row(1, 0, [1])],
    )
    text, openmetrics, protobuf = scrapes(tmp_path, segment)
    escaped = 'He said: "back\\\\slash"\\nand more.'
    assert f"# HELP io_total {escaped}\n# TYPE io_total counter\nio_total{{" in text.decode()
    assert "UNIT" not in text.decode()
    escaped = 'He said: \\"back\\\\slash\\"\\nand more.'  # quotes too
    for lines in (
        # An empty unit too: a reader may else take the one of the family before.
        f"# HELP io {escaped}\n# TYPE io counter\n# UNIT io \nio_total{{",
        f"# HELP wait_seconds {escaped}\n# TYPE wait_seconds counter\n"
        "# UNIT wait_seconds seconds\nwait_seconds_total{",
        f"# HELP held_bytes {escaped}\n# TYPE held_bytes gauge\n# UNIT held_bytes bytes\n",
        f"# HELP latency_seconds {escaped}\n# TYPE latency_seconds histogram\n"
        "# UNIT latency_seconds seconds\nlatency_seconds_bucket{",
    ):
        assert lines in openmetrics.decode()
    families = {f.name: f for f in protobuf_families(protobuf)}
    assert {name: f.type for name, f in families.items()} == {
        "io_total": 0,
        "wait_seconds_total": 0,
        "n_total": 0,
        "held_bytes": 1,
        "latency_seconds": 4,
    }
    assert {name: f.unit for name, f in families.items() if f.HasField("unit")} == {
        "wait_seconds_total": "seconds",
        "held_bytes": "bytes",
        "latency_seconds": "seconds",
    }
    assert families["io_total"].help == 'He said: "back\\slash"\nand more.'


def test_created_says_since_when_totals_count(tmp_path: Path) -> None:
    """What programs count: since the collector runs and the container is there. What the kernel
    counts: since the cgroup, or the network interface, is there, however young the loader is."""
    tables = [
        table("t", 1, [column("t_total")], collector="c"),
        table("k", 1, [column("k_total")], collector="c", since="cgroup"),
        table("i", 1, [column("i_total")], collector="c", since="network"),
        table("n", 1, [column("n_total")], collector="c", scope="node"),
        table("o", 1, [column("o_total")], collector="other"),
    ]
    again = START_NS + 50 * 10**9  # the collector was shed, and came back
    segment = Segment(
        schema(*tables, collectors=[collector("c", started_ns=again), collector("other")]),
        slots=[
            Slot(1, "old.service", UNIT, cgroup_ns=START_NS - 7, network_ns=START_NS - 9 * 10**9),
            Slot(2, "new.service", UNIT, counted_ns=START_NS + 123_456_789_012),
        ],
        rows=[Row(t, s, [5]) for t in (0, 1, 2, 4) for s in (1, 2)] + [Row(3, 0, [5])],
    )
    found = scrapes(tmp_path, segment)
    check_same(found)
    created = {
        (name.removesuffix("_created"), dict(labels).get("unit")): value
        for (name, labels), value in openmetrics_samples(found[OPENMETRICS].decode()).items()
        if name.endswith("_created")
    }
    assert created == {
        ("t", "old.service"): START + 50,
        ("t", "new.service"): START + 123.456789012,
        ("k", "old.service"): (START_NS - 7) / 1e9,
        ("k", "new.service"): START,
        ("i", "old.service"): START - 9,
        ("i", "new.service"): START,
        ("n", None): START + 50,
        ("o", "old.service"): START,
        ("o", "new.service"): START + 123.456789012,
    }
    assert b'service",cgroup_id="1002"} 1700000123.456789012\n' in found[OPENMETRICS]


@pytest.mark.parametrize("created", ["off", "protobuf", "all"])
def test_created_is_a_series_only_where_it_is_asked_for(tmp_path: Path, created: str) -> None:
    """Prometheus stores OpenMetrics' _created as one more series; servers before 3.6.0 with
    experimental flags have ended on a native histogram that has it (prometheus#16318)."""
    segment = Segment(
        document({}, "Help."), [HOST_SLOT], [Row(0, 0, [0] * 4 + [1] * (5 + BUCKETS))]
    )
    text, openmetrics, protobuf = scrapes(tmp_path, segment, created=created)
    assert b"_created" not in text
    assert (b"_created" in openmetrics) == (created == "all")
    counters = histograms = 0
    for family in protobuf_families(protobuf):
        for metric in family.metric:
            counters += metric.counter.HasField("created_timestamp")
            histograms += metric.histogram.HasField("created_timestamp")
    assert (counters, histograms) == {"off": (0, 0), "protobuf": (3, 0), "all": (3, 1)}[created]


def test_native_histogram_is_the_classic_one(tmp_path: Path) -> None:
    """Each bound of a classic bucket is one of a native bucket, and the counts agree there."""
    generator = random.Random(6)
    rows = []
    for i in range(50):
        # Empty ones, dense ones, lonely buckets at both ends, gaps of every length.
        density = (0, 0.02, 0.2, 0.6, 1)[i % 5]
        counts = [generator.randrange(1, 10**6) * (generator.random() < density) for _ in range(98)]
        if i % 5 == 1:
            counts[i % 3 * 97 // 2] = 7
        rows.append(Row(0, i, [generator.randrange(10**12), *counts]))
    exponents = tuple(x / 4 for x in range(-80, 17))
    segment = Segment(
        schema(
            table(
                "t",
                99,
                [
                    column(
                        "h_seconds",
                        "histogram",
                        word=1,
                        decimals=9,
                        sum=0,
                        **(HISTOGRAM | {"sum_words": 1}),
                    )
                ],
            )
        ),
        slots=[Slot(i, f"{i}.service", UNIT) for i in range(len(rows))],
        rows=rows,
    )
    found = scrapes(tmp_path, segment, presentations=[Presentation("h_*", True, True, exponents)])
    check_same(found)
    (family,) = protobuf_families(found[PROTOBUF])
    for metric, row in zip(family.metric, rows, strict=True):
        histogram = metric.histogram
        assert (histogram.schema, histogram.zero_threshold) == (2, 2.0**-20)
        assert histogram.zero_count == row.words[1]
        buckets = native_buckets(histogram)
        assert histogram.zero_count + sum(buckets.values()) == histogram.sample_count
        # Bucket i ends at 2^(i/4); the last one has all beyond 16 s.
        assert {i: n for i, n in buckets.items() if n} == {
            i - 80: n for i, n in enumerate(row.words[1:]) if n and i
        }
        assert max(buckets, default=0) <= 17
        for bucket in histogram.bucket:
            inside = sum(n for i, n in buckets.items() if 2.0 ** (i / 4) <= bucket.upper_bound)
            assert bucket.cumulative_count == histogram.zero_count + inside
        gaps = [span.offset for span in histogram.positive_span][1:]
        assert all(gap > 2 for gap in gaps)


def test_shape_of_a_histogram(tmp_path: Path) -> None:
    def segment() -> Segment:
        one = column("h", "histogram", word=1, sum=0, **(HISTOGRAM | {"sum_words": 1}))
        size = column("size_bytes", "histogram", word=1, sum=0, **(HISTOGRAM | {"sum_words": 1}))
        size["first_exponent"] = 6
        return Segment(schema(table("t", 99, [one, size])), [HOST_SLOT], [Row(0, 0, [1] * 99)])

    def shape(*presentations: Presentation) -> dict[str, tuple[bool, list[float]]]:
        _, _, body = scrapes(tmp_path, segment(), presentations=presentations)
        return {
            f.name: (
                f.metric[0].histogram.HasField("zero_threshold"),
                [b.upper_bound for b in f.metric[0].histogram.bucket],
            )
            for f in protobuf_families(body)
        }

    # Nobody knows which kind a reader can store: both.
    assert all(native and len(bounds) == 12 for native, bounds in shape().values())
    assert shape(
        Presentation("*", False, True, (-3, 0.25, 99, float("nan"))),
        Presentation("size_*", True, False),
    ) == {"h": (False, [2.0**-3, 2.0**0.25]), "size_bytes": (True, [])}
    default = shape(Presentation("*", True, True))
    assert default["h"][1] == [2.0**e for e in (-20, -18, -16, -13, -11, -9, -7, -5, -3, 0, 2, 4)]
    sizes = default["size_bytes"][1]
    assert (len(sizes), sizes[0], sizes[-1]) == (12, 64, 2.0**30)


def test_a_family_of_many_chunks(tmp_path: Path) -> None:
    count = 3000
    segment = Segment(
        schema(table("t", 1, [column("a_total"), column("g", "gauge")])),
        slots=[Slot(i, f"{'x' * 300}{i}.service", UNIT) for i in range(count)],
        rows=[Row(0, i, [i]) for i in range(count)],
        ring_capacity=1 << 22,
    )
    found = scrapes(tmp_path, segment)
    assert len(found[PROTOBUF]) > 10 * lib.KPOD_CHUNK_SIZE
    assert len(check_same(found)) == 2 * count


def test_families_at_every_place_of_a_chunk(tmp_path: Path) -> None:
    """Small ones are rendered once and moved to their place, one that does not fit twice."""
    families = [
        column(f"f{i}_total", help="x" * (1 + i * 37 % 500), labels={"i": "y" * i})
        for i in range(60)
    ]
    count = 40
    segment = Segment(
        schema(table("t", 1, families)),
        slots=[Slot(i, f"{'x' * (i * 13 % 90)}{i}.service", UNIT) for i in range(count)],
        rows=[Row(0, i, [i]) for i in range(count)],
    )
    found = scrapes(tmp_path, segment)
    assert len(found[PROTOBUF]) > 3 * lib.KPOD_CHUNK_SIZE
    assert len(check_same(found)) == count * len(families)


def test_the_largest_header_before_the_largest_row(tmp_path: Path) -> None:
    """Together they do not fit into a chunk."""
    constant = {"c": "c" * 32_000}
    segment = Segment(
        schema(table("t", 1, [column("a_total", help="h" * 32_000, labels=constant)])),
        [Slot(1, "1.service", UNIT)],
        [Row(0, 1, [1])],
    )
    found = scrapes(tmp_path, segment, resolver=lambda _: (("l", "v" * 16_000),))
    assert len(check_same(found)) == 1


def test_own_metrics_in_protobuf() -> None:
    class Own:
        def collect(self) -> list[Any]:
            up = GaugeMetricFamily("up", "Up.", labels=["a", "b"])
            up.add_metric(["x\ny", ""], 1.5)
            up.add_metric(["z" * 200, "ü"], -0.25)
            empty = GaugeMetricFamily("empty", "No samples.", labels=["a"])
            info = InfoMetricFamily("i", "Info.", value={"version": "1"})
            return [up, empty, info, CounterMetricFamily("c", "Counter.", value=7)]

    body = encode_protobuf(Own())
    assert protobuf_samples(body) == {
        ("up", frozenset({("a", "x_y")})): 1.5,
        ("up", frozenset({("a", "z" * 200), ("b", "ü")})): -0.25,
        ("i_info", frozenset({("version", "1")})): 1,
        ("c_total", frozenset()): 7,
    }


# What Prometheus 2.42 sends, with native histograms and without.
PROMETHEUS_NATIVE = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
    "application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;version=0.0.1;"
    "q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROTO = "application/vnd.google.protobuf"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,application/xhtml+xml,*/*;q=0.8", TEXT),
        (PROMETHEUS_NATIVE, PROTOBUF),
        (PROMETHEUS, OPENMETRICS),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", TEXT),
        ("application/*;q=0.3, text/plain;q=0.2", OPENMETRICS),
        ("application/openmetrics-text;q=0, */*", TEXT),
        ("text/plain;q=0, */*", OPENMETRICS),
        ("application/openmetrics-text, */*", OPENMETRICS),
        ("TEXT/PLAIN; Q=0.1 , application/openmetrics-text;q=nonsense", TEXT),
        (f'{PROTO}; proto="io.prometheus.client.MetricFamily"; encoding=delimited', PROTOBUF),
        (f"{PROTO};proto=io.prometheus.client.MetricFamily;encoding=text, text/*;q=0.1", TEXT),
        (f"{PROTO};encoding=compact-text", TEXT),
        ("application/json", TEXT),
        ("text/plain;q=0", TEXT),
        (", ;,", TEXT),
    ],
)
def test_negotiation(accept: str, wanted: int) -> None:
    assert negotiate(accept).native == wanted


@given(st.text(max_size=100))
def test_any_accept_header_is_survived(accept: str) -> None:
    assert negotiate(accept) in FORMATS
