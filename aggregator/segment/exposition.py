"""From a schema to the plan that the C renderer follows."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from aggregator._native import ffi, lib
from aggregator.segment import protobuf
from aggregator.segment.labels import Labels as Labels
from aggregator.segment.labels import clean
from aggregator.segment.schema import Column, Key, Schema, SchemaError, Table, owner_label

# Longest value of a number, its sign of life "} ", separators and the end of the line.
VALUE_ROOM = 32
NUMBER_ROOM = 20
# A Metric without labels and buckets, a classic bucket, a native one with its share of a span.
METRIC_ROOM = 128
BOUND_ROOM = 22
BUCKET_ROOM = 14

# OpenMetrics: a metric with a unit has it at the end of its name.
UNITS = ("seconds", "bytes")

# io.prometheus.client: MetricFamily.type, and the field of Metric that has the value.
PROTOBUF_KINDS = {"counter": (0, 3), "gauge": (1, 2), "histogram": (4, 7)}

# How many buckets a classic histogram has if nobody says, evenly over its range.
CLASSIC_BUCKETS = 12


# Where a scrape says since when a counter counts: nowhere; counters of protobuf, where it is no
# series of its own; or also OpenMetrics' _created lines and histograms of protobuf.
CREATED = ("off", "protobuf", "all")


@dataclass(frozen=True, slots=True)
class Presentation:
    """How histograms are shown whose family's name matches the pattern.

    Buckets of the text formats end at these powers of two; None: chosen by the histogram's range.
    Protobuf has native histograms, classic ones with the same buckets, or both in one. Both is the
    default: a request does not say whether its sender can store native ones, and who cannot would
    be left without any bucket.
    """

    pattern: str = "*"
    native: bool = True
    classic: bool = True
    exponents: tuple[float, ...] | None = None


def escape(value: str) -> str:
    """A label value as the text format 0.0.4 and OpenMetrics want it."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


# Shown also where they are empty: a scraper that honours our labels else adds the target's.
WHOSE = frozenset(("namespace", "pod", "container"))


def shown_labels(labels: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """An empty value is the same as none and left out, except for whose a series is and labels of
    pods: those are the same on every series.
    """
    return ((n, v) for n, v in labels if v or n in WHOSE or n.startswith("label_"))


@lru_cache(256)  # most labels of a container are also its neighbours'
def _encoded(name: str, value: str) -> tuple[str, bytes]:
    """A label in text, and as a field of Metric."""
    value = clean(value)
    pair = protobuf.text(1, name) + protobuf.text(2, value)
    return f'{name}="{escape(value)}"', protobuf.message(1, pair)


def render_labels(labels: Iterable[tuple[str, str]]) -> str:
    """name="value",name="value"."""
    return ",".join([_encoded(name, value)[0] for name, value in shown_labels(labels)])


def row_labels(labels: Iterable[tuple[str, str]]) -> str:
    """Labels of a row, which come last, as the renderer wants them."""
    text = render_labels(labels)
    return f",{text}}} " if text else "} "


def named_labels(labels: Iterable[tuple[str, str]]) -> str:
    """Labels of an owner that a row names, which stand between others."""
    text = render_labels(labels)
    return f",{text}" if text else ""


def protobuf_labels(labels: Iterable[tuple[str, str]]) -> bytes:
    """The same as fields of Metric."""
    return b"".join([_encoded(name, value)[1] for name, value in shown_labels(labels)])


class _Blob:
    """Texts one after the other, each stored once."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.known: dict[bytes, dict[str, int]] = {}

    def add(self, text: str | bytes) -> dict[str, int]:
        raw = text.encode() if isinstance(text, str) else text
        if raw not in self.known:
            self.known[raw] = {"at": len(self.data), "size": len(raw)}
            self.data += raw
        return self.known[raw]


def bucket_ends(column: Column, exponents: Iterable[float] | None) -> list[tuple[float, int]]:
    """(upper bound, buckets at or below it) for each wanted power of two that is a bucket bound."""
    histogram = column.histogram
    assert histogram
    low = histogram.first_exponent
    if exponents is None:
        # Bucket `buckets - 2` is the last that ends.
        high = low + math.floor(math.ldexp(histogram.buckets - 2, -histogram.schema))
        steps = min(CLASSIC_BUCKETS - 1, max(1, high - low))
        exponents = [low + round(i * (high - low) / steps) for i in range(steps + 1)]
    ends: dict[int, float] = {}
    for exponent in exponents:
        index = math.ldexp(exponent - low, histogram.schema)
        if index.is_integer() and 0 <= index < histogram.buckets - 1:
            ends[int(index) + 1] = 2.0**exponent
    return [(ends[count], count) for count in sorted(ends)]


def header(kind: str, name: str, help_text: str, *, openmetrics: bool = False) -> str:
    """The lines above a family's samples; name: as TYPE has it."""
    # OpenMetrics has one kind of escaped text, format 0.0.4 leaves the quotes in HELP alone.
    text = (escape if openmetrics else escape_help)(help_text)
    lines = f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    if openmetrics:
        # Also where there is none: Prometheus 3.5 to 3.14 with type-and-unit-labels gives a family
        # without this line the unit of the one before.
        lines += f"# UNIT {name} {unit_of(name)}\n"
    return lines


def unit_of(name: str) -> str:
    """The unit at the end of a family's name; empty if there is none."""
    base = name.removesuffix("_total")
    return next((unit for unit in UNITS if base.endswith(f"_{unit}")), "")


def protobuf_header(kind: str, name: str, help_text: str) -> bytes:
    """MetricFamily's fields but for its metrics."""
    unit = unit_of(name)
    return (
        protobuf.text(1, name)
        + protobuf.text(2, help_text)
        + protobuf.number(3, PROTOBUF_KINDS[kind][0])
        + (protobuf.text(5, unit) if unit else b"")
    )


def _counts(column: Column) -> dict[str, int]:
    """The words that say whether anything was counted; none for a gauge, whose zero is a value."""
    if column.kind == "gauge":
        return {"counts": 0, "count_words": 0}
    words = column.histogram.buckets if column.histogram else 1
    return {"counts": column.word, "count_words": words}


class Plan:
    """struct kpod_plan and what it points to, which lives as long as this object."""

    def __init__(
        self,
        schema: Schema,
        node_labels: Labels,
        presentations: Sequence[Presentation] = (),
        created: str = "protobuf",
        page: int = lib.KPOD_OWN,
        prefixes: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Of the presentations that match a family, the last one holds. created: one of CREATED.
        prefixes: of the values of keys, by label.
        """
        self._prefixes = prefixes
        self.schema = schema
        self._blob = _Blob()
        self.node_labels = node_labels if render_labels(node_labels) else ()
        self._presentations = (Presentation(), *presentations)
        self._created = created
        self._started = {c.name: c.started_ns for c in schema.collectors}
        self._shapes: list[dict[str, Any]] = []
        self._keys: list[dict[str, Any]] = []
        self._values: list[dict[str, Any]] = []
        self._families: list[dict[str, Any]] = []
        self._samples: list[dict[str, Any]] = []
        self._histograms: list[dict[str, Any]] = []
        self._bounds: list[dict[str, Any]] = []
        self.names: list[str] = []  # of families, as the text format has them
        self.owner_label = owner_label(schema)
        for index, table in enumerate(schema.tables):
            key_room = self._add_shape(table)
            by_name: dict[str, list[Column]] = {}
            for column in table.columns:
                by_name.setdefault(column.name, []).append(column)
            for columns in by_name.values():
                self._add_family(index, table, columns, key_room)
        self._keep: list[Any] = []
        self.native: Any = ffi.new("struct kpod_plan *")
        self.native.page = page
        self.native.text = self._array("char[]", bytes(self._blob.data) + bytes(lib.KPOD_TEXT_PAD))
        self.native.shapes = self._array("struct kpod_shape[]", self._shapes)
        self.native.shape_count = len(self._shapes)
        self.native.keys = self._array("struct kpod_key[]", self._keys)
        self.native.values = self._array("struct kpod_value[]", self._values)
        self.native.families = self._array("struct kpod_family[]", self._families)
        self.native.family_count = len(self._families)
        self.native.samples = self._array("struct kpod_sample[]", self._samples)
        self.native.histograms = self._array("struct kpod_histogram[]", self._histograms)
        self.native.bounds = self._array("struct kpod_bound[]", self._bounds)

    def _array(self, kind: str, content: Any) -> Any:
        array = ffi.new(kind, content)
        self._keep.append(array)
        return array

    def _add_shape(self, table: Table) -> int:
        """Bytes that the table's keys take in a line at most."""
        room = 0
        first_key = len(self._keys)
        for key in table.keys:
            room += self._add_key(key)
        self._shapes.append(
            {
                "first_key": first_key,
                "key_count": len(table.keys),
                "key_words": sum(key.text_words or 1 for key in table.keys),
                "word_count": table.words,
                "per_slot": table.per_slot,
                "since": table.since,
                "started_ns": self._started.get(table.collector, 0),
            }
        )
        return room

    def _add_key(self, key: Key) -> int:
        if key.names_owner:
            return self._add_owner_key(key)
        values = [{"encoded": [self._blob.add(escape(v)), self._blob.add(v)]} for v in key.values]
        prefix = self._prefixes.get(key.label, "")
        text = self._blob.add(f',{key.label}="{escape(prefix)}')
        # The name of a LabelPair; the renderer writes what is around it.
        encoded = self._blob.add(protobuf.text(1, key.label))
        self._keys.append(
            {
                "label": [text, encoded],
                "prefix": self._blob.add(prefix),
                "first_value": len(self._values),
                "value_count": len(values),
                "text_words": key.text_words,
            }
        )
        self._values += values
        room = max([NUMBER_ROOM, 8 * key.text_words, *(v["encoded"][0]["size"] for v in values)])
        return max(text["size"], encoded["size"] + len(prefix)) + room + 8

    def _add_owner_key(self, key: Key) -> int:
        """What it takes where it names an owner the renderer adds."""
        values = []
        for value in key.values:
            labels = ((f"{key.label}_scope", value),)
            encoded: list[str | bytes] = [named_labels(labels), protobuf_labels(labels)]
            values.append({"encoded": [self._blob.add(each) for each in encoded]})
        self._keys.append(
            {
                "label": [self._blob.add("")] * 2,
                "prefix": self._blob.add(""),
                "first_value": len(self._values),
                "value_count": len(values),
                "text_words": 0,
                "names_owner": True,
            }
        )
        self._values += values
        return max([0, *(each["size"] for v in values for each in v["encoded"])])

    def _add_family(self, index: int, table: Table, columns: list[Column], key_room: int) -> None:
        column = columns[0]
        name, kind, help_text = column.name, column.kind, column.help
        shown = next(p for p in reversed(self._presentations) if fnmatchcase(name, p.pattern))
        labelled = table.per_slot or bool(table.keys) or bool(self.node_labels)
        base = name.removesuffix("_total") if kind == "counter" else name
        views = []
        for text, created in (
            (header(kind, name, help_text), False),
            (header(kind, base, help_text, openmetrics=True), self._created == "all"),
        ):
            first = len(self._samples)
            for each in columns:
                self._add_lines(each, shown, labelled, f"{base}_created" if created else "")
            line = max(s["head"]["size"] for s in self._samples[first:]) + VALUE_ROOM
            views.append(self._view(text, first, line + key_room))
        first = len(self._samples)
        line = max(self._add_metric(each, shown) for each in columns)
        views.append(self._view(protobuf_header(kind, name, help_text), first, line + key_room))
        if any(max(v["line_size"], v["header"]["size"]) > lib.KPOD_LINE_MAX for v in views):
            raise SchemaError(f"table {table.name}, column {name}: its texts are too long")
        self.names.append(name)
        self._families.append(
            {
                "views": views,
                "labels": [
                    self._blob.add(row_labels(self.node_labels) if labelled else ""),
                    self._blob.add(protobuf_labels(self.node_labels)),
                ],
                "table": index,
                "tables": 1 + table.with_next,
            }
        )

    def _view(self, text: str | bytes, first: int, line: int) -> dict[str, Any]:
        return {
            "header": self._blob.add(text),
            "first_sample": first,
            "sample_count": len(self._samples) - first,
            "line_size": line,
            "heads_size": sum(s["head"]["size"] for s in self._samples[first:]),
        }

    def _add_metric(self, column: Column, shown: Presentation) -> int:
        """A column in protobuf; returns how long it is at most."""
        histogram = column.histogram
        sample: dict[str, Any] = {
            "head": self._blob.add(protobuf_labels(column.labels)),
            "first": histogram.sum if histogram else column.word,
            "count": histogram.sum_words if histogram else 1,
            "decimals": column.decimals,
            "histogram": len(self._histograms),
            "optional": 1 + column.word if column.optional else 0,
            "field": PROTOBUF_KINDS[column.kind][1],
            "created": self._created == "all"
            or (self._created == "protobuf" and column.kind == "counter"),
            **_counts(column),
        }
        self._samples.append(sample)
        room: int = METRIC_ROOM + sample["head"]["size"]
        if histogram:
            bounds = bucket_ends(column, shown.exponents) if shown.classic else []
            first_index = math.ldexp(histogram.first_exponent, histogram.schema) + 1
            self._histograms.append(
                {
                    "word": column.word,
                    "buckets": histogram.buckets,
                    "schema": histogram.schema,
                    "first_index": int(first_index),
                    "zero_threshold": 2.0**histogram.first_exponent,
                    "first_bound": len(self._bounds),
                    "bound_count": len(bounds),
                    "native": shown.native,
                }
            )
            self._bounds += [{"le": le, "buckets": end} for le, end in bounds]
            room += BOUND_ROOM * len(bounds) + BUCKET_ROOM * histogram.buckets
        return room

    def _add_lines(self, column: Column, shown: Presentation, labelled: bool, created: str) -> None:
        """A column in text, with the line of this name for the time it was created, if any."""
        first = len(self._samples)
        optional = 1 + column.word if column.optional else 0
        if column.histogram:
            self._add_histogram(column, shown, labelled)
        else:
            self._add_line(
                labelled,
                column.name,
                column.labels,
                column.word,
                1,
                decimals=column.decimals,
                optional=optional,
            )
        if created and column.kind != "gauge":
            self._add_line(
                labelled,
                created,
                column.labels,
                decimals=9,
                base=lib.KPOD_FROM_CREATED,
                optional=optional,
            )
        for sample in self._samples[first:]:
            sample.update(_counts(column))

    def _add_histogram(self, column: Column, shown: Presentation, labelled: bool) -> None:
        histogram = column.histogram
        assert histogram
        bucket, at = column.name + "_bucket", column.word
        ends = [(repr(le), end) for le, end in bucket_ends(column, shown.exponents)]
        for le, end in [*ends, ("+Inf", histogram.buckets)]:
            last = column.word + end
            self._add_line(
                labelled,
                bucket,
                (*column.labels, ("le", le)),
                at,
                last - at,
                base=lib.KPOD_FROM_PREVIOUS if at > column.word else lib.KPOD_FROM_ZERO,
            )
            at = last
        # The same value as +Inf: it continues by nothing.
        self._add_line(labelled, column.name + "_count", column.labels, base=lib.KPOD_FROM_PREVIOUS)
        self._add_line(
            labelled,
            column.name + "_sum",
            column.labels,
            histogram.sum,
            histogram.sum_words,
            decimals=column.decimals,
        )

    def _add_line(
        self,
        labelled: bool,
        name: str,
        labels: Labels,
        first: int = 0,
        count: int = 0,
        *,
        base: int = lib.KPOD_FROM_ZERO,
        decimals: int = 0,
        optional: int = 0,
    ) -> None:
        constant = ",".join(f'{n}="{escape(v)}"' for n, v in labels)
        if labelled:
            head = f"{name}{{{constant}"
        else:
            head = f"{name}{{{constant}}} " if constant else f"{name} "
        self._samples.append(
            {
                "head": self._blob.add(head),
                "first": first,
                "count": count,
                "decimals": decimals,
                "base": base,
                "optional": optional,
                "opens": labelled and not constant,
            }
        )
