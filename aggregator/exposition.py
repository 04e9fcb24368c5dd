"""From a schema to the plan that the C renderer follows."""

import math
from collections.abc import Iterable
from typing import Any

from aggregator._native import ffi, lib
from aggregator.schema import Column, Key, Schema, SchemaError, Table

# 2^-20 s, about 1 us, to 16 s: twelve buckets a factor of four or eight apart.
DEFAULT_LE_EXPONENTS = (-20, -17, -15, -13, -11, -9, -7, -5, -3, -1, 1, 4)

# Longest value of a number, its sign of life "} ", separators and the end of the line.
VALUE_ROOM = 32
NUMBER_ROOM = 20

Labels = tuple[tuple[str, str], ...]


def escape(value: str) -> str:
    """A label value as the text format 0.0.4 wants it."""
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def escape_help(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n")


def render_labels(labels: Iterable[tuple[str, str]]) -> str:
    """name="value",name="value".

    An empty value is the same as none and left out, except for labels of pods: those are the same
    on every series.
    """
    return ",".join(
        f'{name}="{escape(value)}"' for name, value in labels if value or name.startswith("label_")
    )


def row_labels(labels: Iterable[tuple[str, str]]) -> str:
    """Labels of a row, which come last, as the renderer wants them."""
    text = render_labels(labels)
    return f",{text}}} " if text else "} "


class _Blob:
    """Texts one after the other, each stored once."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.known: dict[bytes, dict[str, int]] = {}

    def add(self, text: str) -> dict[str, int]:
        raw = text.encode()
        if raw not in self.known:
            self.known[raw] = {"at": len(self.data), "size": len(raw)}
            self.data += raw
        return self.known[raw]


def bucket_ends(column: Column, exponents: Iterable[int]) -> list[tuple[str, int]]:
    """(le, buckets at or below it) for each wanted power of two, which all are bucket bounds."""
    histogram = column.histogram
    assert histogram
    ends: dict[int, str] = {}
    for exponent in exponents:
        index = math.ldexp(exponent - histogram.first_exponent, histogram.schema)
        if index.is_integer() and 0 <= index < histogram.buckets - 1:
            ends[int(index) + 1] = repr(math.ldexp(1.0, exponent))
    return [(ends[count], count) for count in sorted(ends)]


class Plan:
    """struct kpod_plan and what it points to, which lives as long as this object."""

    def __init__(
        self,
        schema: Schema,
        node_labels: Labels,
        le_exponents: Iterable[int] = DEFAULT_LE_EXPONENTS,
    ) -> None:
        self.schema = schema
        self._blob = _Blob()
        self._node = row_labels(node_labels)
        self._le = sorted(set(le_exponents))
        self._shapes: list[dict[str, Any]] = []
        self._keys: list[dict[str, Any]] = []
        self._values: list[dict[str, int]] = []
        self._families: list[dict[str, Any]] = []
        self._samples: list[dict[str, Any]] = []
        for index, table in enumerate(schema.tables):
            key_room = self._add_shape(table)
            by_name: dict[str, list[Column]] = {}
            for column in table.columns:
                by_name.setdefault(column.name, []).append(column)
            for columns in by_name.values():
                self._add_family(index, table, columns, key_room)
        self._keep: list[Any] = []
        self.native: Any = ffi.new("struct kpod_plan *")
        self.native.text = self._array("char[]", bytes(self._blob.data) + bytes(lib.KPOD_TEXT_PAD))
        self.native.shapes = self._array("struct kpod_shape[]", self._shapes)
        self.native.shape_count = len(self._shapes)
        self.native.keys = self._array("struct kpod_key[]", self._keys)
        self.native.values = self._array("struct kpod_text[]", self._values)
        self.native.families = self._array("struct kpod_family[]", self._families)
        self.native.family_count = len(self._families)
        self.native.samples = self._array("struct kpod_sample[]", self._samples)

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
            }
        )
        return room

    def _add_key(self, key: Key) -> int:
        values = [self._blob.add(escape(v)) for v in key.values]
        label = self._blob.add(f',{key.label}="')
        self._keys.append(
            {
                "label": label,
                "first_value": len(self._values),
                "value_count": len(values),
                "text_words": key.text_words,
            }
        )
        self._values += values
        room = max([NUMBER_ROOM, 8 * key.text_words, *(v["size"] for v in values)])
        return label["size"] + room + 2

    def _add_family(self, index: int, table: Table, columns: list[Column], key_room: int) -> None:
        name = columns[0].name
        header = self._blob.add(
            f"# HELP {name} {escape_help(columns[0].help)}\n# TYPE {name} {columns[0].kind}\n"
        )
        first = len(self._samples)
        labelled = table.per_slot or bool(table.keys) or self._node != "} "
        for column in columns:
            if column.histogram:
                self._add_histogram(column, labelled)
            else:
                self._add_sample(column, labelled, column.name, column.labels, column.word, 1)
        line = max(s["head"]["size"] for s in self._samples[first:])
        line += key_room + VALUE_ROOM
        if max(line, header["size"]) > lib.KPOD_LINE_MAX:
            raise SchemaError(f"table {table.name}, column {name}: its texts are too long")
        self._families.append(
            {
                "header": header,
                "labels": self._blob.add(self._node if labelled else ""),
                "table": index,
                "first_sample": first,
                "sample_count": len(self._samples) - first,
                "line_size": line,
            }
        )

    def _add_histogram(self, column: Column, labelled: bool) -> None:
        histogram = column.histogram
        assert histogram
        bucket, at = column.name + "_bucket", column.word
        for le, end in [*bucket_ends(column, self._le), ("+Inf", histogram.buckets)]:
            last = column.word + end
            labels = (*column.labels, ("le", le))
            self._add_sample(
                column, labelled, bucket, labels, at, last - at, continues=at > column.word
            )
            at = last
        # The same value as +Inf: it continues by nothing.
        self._add_sample(
            column, labelled, column.name + "_count", column.labels, 0, 0, continues=True
        )
        self._add_sample(
            column,
            labelled,
            column.name + "_sum",
            column.labels,
            histogram.sum,
            histogram.sum_words,
            decimals=column.decimals,
        )

    def _add_sample(
        self,
        column: Column,
        labelled: bool,
        name: str,
        labels: Labels,
        first: int,
        count: int,
        *,
        continues: bool = False,
        decimals: int | None = None,
    ) -> None:
        if decimals is None:
            decimals = 0 if column.histogram else column.decimals
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
                "continues": continues,
                "opens": labelled and not constant,
            }
        )
