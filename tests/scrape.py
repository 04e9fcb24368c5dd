"""What a scrape says, in each format, read by others' parsers into the same form."""

import subprocess
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

ROOT = Path(__file__).parent.parent
PROTO = (
    ROOT / ".cache/client-model/usr/share/gocode/src/github.com/prometheus/client_model"
    "/io/prometheus/client/metrics.proto"
)
# Fields of client_model 0.5.0: Debian 12 has 0.3.0, without them, and Debian 13 has 0.6.0.
LATER = {
    "optional Exemplar exemplar = 2;": "optional google.protobuf.Timestamp created_timestamp = 3;",
    "repeated double positive_count    = 14;": "optional google.protobuf.Timestamp "
    "created_timestamp = 15;",
    "repeated Metric     metric = 4;": "optional string unit = 5;",  # 0.6.0
}
# protoc has it in another package.
TIMESTAMP = """syntax = "proto3";
package google.protobuf;
message Timestamp { int64 seconds = 1; int32 nanos = 2; }
"""

# What a reader may take for the end of a line: Unicode's controls and separators of lines.
UNSAFE = ("Cc", "Zl", "Zp")


def safe(value: str) -> str:
    """A label value from outside as every format shows it."""
    return "".join("_" if unicodedata.category(c) in UNSAFE else c for c in value)


Series = tuple[str, frozenset[tuple[str, str]]]
Samples = dict[Series, float]


@cache
def _metric_family() -> Any:
    """io.prometheus.client.MetricFamily, compiled from the official file."""
    source = PROTO.read_text()
    for field, later in LATER.items() if "created_timestamp" not in source else ():
        assert source.count(field) == 1
        source = source.replace(field, f"{field} {later}")
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "metrics.proto").write_text(source)
        (Path(directory) / "google/protobuf").mkdir(parents=True)
        (Path(directory) / "google/protobuf/timestamp.proto").write_text(TIMESTAMP)
        subprocess.run(
            ["protoc", "--include_imports", "--descriptor_set_out=set", "metrics.proto"],
            cwd=directory,
            check=True,
        )
        files = descriptor_pb2.FileDescriptorSet.FromString((Path(directory) / "set").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    name = "io.prometheus.client.MetricFamily"
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def protobuf_families(body: bytes) -> Iterator[Any]:
    """The length-delimited MetricFamily messages."""
    cls = _metric_family()
    at = 0
    while at < len(body):
        size = shift = 0
        while True:
            byte = body[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        assert at + size <= len(body)
        yield cls.FromString(body[at : at + size])
        at += size


def native_buckets(histogram: Any) -> dict[int, int]:
    """Buckets of a native histogram by index, as client_model describes spans and deltas."""
    buckets: dict[int, int] = {}
    deltas = iter(histogram.positive_delta)
    index = count = 0
    for span in histogram.positive_span:
        index += span.offset
        for _ in range(span.length):
            count += next(deltas)
            buckets[index] = count
            index += 1
    assert not list(deltas)
    return buckets


def seconds(timestamp: Any) -> float:
    return float(timestamp.seconds + timestamp.nanos / 1e9)


def protobuf_samples(body: bytes) -> Samples:
    """As the text formats have them; of native histograms, the classic buckets if there are any."""
    found: Samples = {}
    names = set()
    for family in protobuf_families(body):
        assert family.name not in names, f"a family twice: {family.name}"
        names.add(family.name)
        assert family.help
        kind = family.DESCRIPTOR.fields_by_name["type"].enum_type.values_by_number[family.type].name
        base = family.name.removesuffix("_total")
        for metric in family.metric:
            pairs = [(label.name, label.value) for label in metric.label]
            labels = frozenset(p for p in pairs if p[1])
            assert len({name for name, _ in pairs}) == len(pairs)
            value = getattr(metric, kind.lower())
            samples: dict[Series, float] = {}
            if kind == "HISTOGRAM":
                samples[f"{base}_count", labels] = float(value.sample_count)
                samples[f"{base}_sum", labels] = value.sample_sum
                for bucket in value.bucket:
                    le = labels | {("le", repr(bucket.upper_bound))}
                    samples[f"{base}_bucket", le] = float(bucket.cumulative_count)
                le = labels | {("le", "+Inf")}
                samples[f"{base}_bucket", le] = float(value.sample_count)
            else:
                samples[family.name, labels] = value.value
            if kind != "GAUGE" and value.HasField("created_timestamp"):
                samples[f"{base}_created", labels] = seconds(value.created_timestamp)
            assert not samples.keys() & found.keys()
            found |= samples
    return found


def _samples(families: Iterable[Metric]) -> Samples:
    found: Samples = {}
    for family in families:
        for sample in family.samples:
            key = sample.name, frozenset((n, v) for n, v in sample.labels.items() if v)
            assert key not in found, f"twice: {key}"
            found[key] = float(sample.value)  # OpenMetrics has whole numbers too
    return found


def text_samples(body: str) -> Samples:
    return _samples(parse_text(body))


def openmetrics_samples(body: str) -> Samples:
    return _samples(parse_openmetrics(body))  # type: ignore[no-untyped-call]
