"""The formats of /metrics, and which of them a client is given."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as OPENMETRICS_1_0
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics_latest
from prometheus_client.registry import Collector

from aggregator._native import lib
from aggregator.segment import protobuf
from aggregator.segment.exposition import PROTOBUF_KINDS, protobuf_header, protobuf_labels

OWN_OPENMETRICS: Callable[[Collector], bytes] = openmetrics_latest
_TYPE_ALONE = re.compile(rb"(?m)^(# TYPE (\S+) .*\n)(?!# UNIT )")


def encode_protobuf(metrics: Collector) -> bytes:
    """Counters, gauges and infos as length-delimited io.prometheus.client.MetricFamily."""
    return b"".join(_family(metric) for metric in metrics.collect() if metric.samples)


def _family(metric: Metric) -> bytes:
    kind = "counter" if metric.type == "counter" else "gauge"
    content = protobuf_header(kind, metric.samples[0].name, metric.documentation)
    for sample in metric.samples:
        value = protobuf.message(PROTOBUF_KINDS[kind][1], protobuf.double(1, sample.value))
        content += protobuf.message(4, protobuf_labels(sample.labels.items()) + value)
    return protobuf.varint(len(content)) + content


def encode_openmetrics(metrics: Collector) -> bytes:
    """With a UNIT line for each family, as exposition.header() has it."""
    return _TYPE_ALONE.sub(rb"\1# UNIT \2 \n", OWN_OPENMETRICS(metrics))


@dataclass(frozen=True, slots=True)
class Format:
    """native: enum kpod_format. encode: the same for what prometheus-client has."""

    native: int
    media: str
    content_type: str
    encode: Callable[[Collector], bytes]
    parameters: dict[str, str] = field(default_factory=dict)  # that a client may insist on


PROTOBUF_TYPE = "application/vnd.google.protobuf"
PROTOBUF_PARAMETERS = {"proto": "io.prometheus.client.MetricFamily", "encoding": "delimited"}

# The first is for clients that do not say what they want.
FORMATS = (
    Format(lib.KPOD_TEXT, "text/plain", CONTENT_TYPE_PLAIN_0_0_4, generate_latest),
    Format(
        lib.KPOD_OPENMETRICS, "application/openmetrics-text", OPENMETRICS_1_0, encode_openmetrics
    ),
    Format(
        lib.KPOD_PROTOBUF,
        PROTOBUF_TYPE,
        "; ".join([PROTOBUF_TYPE, *(f"{k}={v}" for k, v in PROTOBUF_PARAMETERS.items())]),
        encode_protobuf,
        PROTOBUF_PARAMETERS,
    ),
)


def negotiate(accept: str) -> Format:
    """The format that an Accept header wants most (RFC 9110, 12.5.1); the text format if it wants
    none of ours, as client_golang's promhttp does: 12.5.1 allows it, and scrapers exist that ask
    for application/json alone.

    Versions are not compared: each format has one, which is better than no answer.
    """
    ranges = list(_ranges(accept))
    if not ranges:
        return FORMATS[0]
    best, wanted = FORMATS[0], (0.0, 0)
    for candidate in FORMATS:
        matches = [(s, q) for r, p, q in ranges if (s := _specificity(candidate, r, p))]
        specificity, quality = max(matches, default=(0, 0.0))
        if quality > 0 and (quality, specificity) > wanted:
            best, wanted = candidate, (quality, specificity)
    return best


def accepts_gzip(accept_encoding: str) -> bool:
    """RFC 9110, 12.5.3."""
    qualities = {coding: quality for coding, _, quality in _ranges(accept_encoding)}
    return qualities.get("gzip", qualities.get("*", 0)) > 0


def _specificity(candidate: Format, media: str, parameters: dict[str, str]) -> int:
    if media == "*/*":
        return 1
    if media == candidate.media.split("/")[0] + "/*":
        return 2
    known = candidate.parameters.items()
    agrees = all(parameters.get(name, value) == value for name, value in known)
    return 3 if media == candidate.media and agrees else 0


def _ranges(accept: str) -> Iterable[tuple[str, dict[str, str], float]]:
    """Media range, parameters and quality of each part that can be understood."""
    for part in accept.split(","):
        media, *rest = (piece.strip() for piece in part.split(";"))
        parameters = {}
        for piece in rest:
            name, _, value = piece.partition("=")
            parameters[name.strip().lower()] = value.strip().strip('"')
        try:
            quality = float(parameters.pop("q", "1"))
        except ValueError:
            continue
        if media:
            yield media.lower(), parameters, quality
