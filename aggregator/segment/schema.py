"""The schema document of a segment (shared/README.md), checked once and then trusted."""

import re
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import msgpack

from aggregator.segment.labels import clean

FORMAT = 1
SINCES = ("collector", "cgroup", "network")  # enum kpod_since
TABLES_MAX = 64
WORDS_MAX = 1 << 16
DECIMALS_MAX = 18
TEXT_WORDS_MAX = 16
BUCKETS_MAX = 1024

NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")

# What exposition and resolver put on series themselves.
RESERVED_LABELS = frozenset(
    [
        "cgroup_id",
        "container",
        "container_id",
        "le",
        "machine",
        "namespace",
        "node",
        "pod",
        "pod_uid",
        "scope",
        "unit",
    ]
)

Kind = Literal["counter", "gauge", "histogram"]


class SchemaError(ValueError):
    """The document is not what shared/README.md says; the message names the place and the cause."""


@dataclass(frozen=True, slots=True)
class Key:
    """A label whose value is in each row: an index into values; without any, the number.

    With text_words it is text instead, NUL-padded, in so many words. If it names an owner, it is
    that owner's labels, with `label`_ before their names, or `label`_scope is value i for ~i.
    """

    label: str
    values: tuple[str, ...]
    text_words: int
    names_owner: bool = False

    def several(self, word: int) -> str | None:
        """What a word stands for in place of an owner; None: it names one."""
        index = ~word & 2**64 - 1
        return self.values[index] if index < len(self.values) else None


@dataclass(frozen=True, slots=True)
class Histogram:
    """Bucket 0 ends at 2^first_exponent, bucket i at 2^(first_exponent + i/2^schema)."""

    schema: int
    first_exponent: int
    buckets: int
    sum: int
    sum_words: int


@dataclass(frozen=True, slots=True)
class Column:
    name: str
    help: str
    kind: Kind
    decimals: int
    labels: tuple[tuple[str, str], ...]
    word: int
    optional: bool
    histogram: Histogram | None


@dataclass(frozen=True, slots=True)
class Table:
    name: str
    collector: str
    per_slot: bool
    since: int  # index into SINCES
    keys: tuple[Key, ...]
    words: int
    columns: tuple[Column, ...]
    with_next: bool = False  # the families have the rows of the next table too; it has none itself


@dataclass(frozen=True, slots=True)
class Collector:
    name: str
    help: str
    up: bool
    reason: str
    attach: str
    has_nothing: bool  # it is up, but there is nothing for it to read
    started_ns: int  # CLOCK_REALTIME: since when it has counted; 0: not known


@dataclass(frozen=True, slots=True)
class Schema:
    loader_version: str
    min_interval_ns: int  # between snapshots that readers ask for; 0: the loader has no doorbell
    kernel: str
    collectors: tuple[Collector, ...]
    tables: tuple[Table, ...]


class _Node:
    """A part of the document that knows where it stands, for messages."""

    def __init__(self, value: Any, where: str) -> None:
        self.value = value
        self.where = where

    def fail(self, cause: str) -> NoReturn:
        raise SchemaError(f"{self.where}: {cause}")

    def __getitem__(self, key: str) -> "_Node":
        if not isinstance(self.value, dict):
            self.fail("not a map")
        if key not in self.value:
            self.fail(f"has no '{key}'")
        return _Node(self.value[key], f"{self.where}.{key}")

    def get(self, key: str, default: Any) -> "_Node":
        found = self.value.get(key, default) if isinstance(self.value, dict) else default
        return _Node(found, f"{self.where}.{key}")

    def items(self) -> list["_Node"]:
        if not isinstance(self.value, list):
            self.fail("not a list")
        return [_Node(v, f"{self.where}[{i}]") for i, v in enumerate(self.value)]

    def text(self, pattern: re.Pattern[str] | None = None) -> str:
        if not isinstance(self.value, str):
            self.fail("not a string")
        if pattern and not pattern.match(self.value):
            self.fail(f"{self.value[:80]!r} is not a valid name")
        return self.value

    def flag(self) -> bool:
        if not isinstance(self.value, bool):
            self.fail("neither true nor false")
        return self.value

    def integer(self, low: int, high: int) -> int:
        if not isinstance(self.value, int) or isinstance(self.value, bool):
            self.fail("not an integer")
        if not low <= self.value <= high:
            self.fail(f"{self.value} is not in {low} to {high}")
        return self.value


def _histogram(column: _Node, word: int, words: int) -> Histogram:
    schema = column["schema"].integer(-4, 8)
    first_exponent = column["first_exponent"].integer(-64, 64)
    if schema < 0 and first_exponent % (1 << -schema):
        column["first_exponent"].fail(f"2^{first_exponent} is no bucket bound of schema {schema}")
    buckets = column["buckets"].integer(2, min(BUCKETS_MAX, words - word))
    total = column["sum"].integer(0, words - 1)
    sum_words = column["sum_words"].integer(1, words - total)
    return Histogram(schema, first_exponent, buckets, total, sum_words)


def _column(node: _Node, words: int) -> Column:
    kind = node["kind"].text()
    if kind not in ("counter", "gauge", "histogram"):
        node["kind"].fail(f"{kind!r} is not counter, gauge or histogram")
    labels = node["labels"]
    if not isinstance(labels.value, dict):
        labels.fail("not a map")
    constant = []
    for name in labels.value:
        label = _Node(name, f"{labels.where} key").text(LABEL)
        constant.append((label, clean(labels[name].text())))
    word = node["word"].integer(0, words - 1)
    name = node["name"].text(NAME)
    if kind == "counter" and not name.endswith("_total"):
        node["name"].fail(f"{name!r} is a counter and does not end in _total")
    optional = node["optional"].flag()
    if optional and kind == "histogram":
        node["optional"].fail("a histogram always has its values")
    return Column(
        name=name,
        help=node["help"].text(),
        kind=kind,  # type: ignore[arg-type]  # checked above
        decimals=node["decimals"].integer(0, DECIMALS_MAX),
        labels=tuple(constant),
        word=word,
        optional=optional,
        histogram=_histogram(node, word, words) if kind == "histogram" else None,
    )


def _table(node: _Node) -> Table:
    scope = node["scope"].text()
    if scope not in ("slot", "node"):
        node["scope"].fail(f"{scope!r} is neither slot nor node")
    words = node["words"].integer(1, WORDS_MAX)
    since = node.get("since", SINCES[0])
    if since.text() not in SINCES:
        since.fail(f"{since.value!r} is not {', '.join(SINCES[:-1])} or {SINCES[-1]}")
    return Table(
        name=node["name"].text(),
        collector=node["collector"].text(),
        per_slot=scope == "slot",
        since=SINCES.index(since.value),
        keys=tuple(
            Key(
                key["label"].text(LABEL),
                tuple(clean(v.text()) for v in key["values"].items()),
                key["words"].integer(0, TEXT_WORDS_MAX),
                key.get("owner", False).flag(),
            )
            for key in node["keys"].items()
        ),
        words=words,
        columns=tuple(_column(c, words) for c in node["columns"].items()),
    )


def decode(document: bytes) -> Schema:
    """The schema in `document`; SchemaError if it is not one."""
    try:
        value = msgpack.unpackb(document, raw=False, strict_map_key=False)
    except Exception as error:  # msgpack raises many kinds for bad input
        raise SchemaError(f"schema: not MessagePack: {error}") from error
    root = _Node(value, "schema")
    root["format"].integer(FORMAT, FORMAT)
    tables = root["tables"].items()
    if len(tables) > TABLES_MAX:
        root["tables"].fail(f"{len(tables)} tables, at most {TABLES_MAX}")
    schema = Schema(
        loader_version=root["loader"]["version"].text(),
        min_interval_ns=root["loader"].get("min_interval_ns", 0).integer(0, 1 << 62),
        kernel=root["kernel"].text(),
        collectors=tuple(
            Collector(
                name=c["name"].text(),
                help=c["help"].text(),
                up=c["up"].flag(),
                reason=c["reason"].text(),
                attach=c["attach"].text(),
                has_nothing=c.get("has_nothing", False).flag(),
                started_ns=c.get("started_ns", 0).integer(0, (1 << 63) - 1),
            )
            for c in root["collectors"].items()
        ),
        tables=tuple(_table(t) for t in tables),
    )
    _check_families(schema)
    _check_owners(schema)
    return schema


# Names that OpenMetrics reserves for a family beside its own.
SUFFIXES = {
    "counter": ("_total", "_created"),
    "gauge": (),
    "histogram": ("_bucket", "_count", "_created", "_sum"),
}


def owner_label(schema: Schema) -> str:
    """The label of the keys that name owners; empty if there are none."""
    keys = (key for table in schema.tables for key in table.keys)
    return next((key.label for key in keys if key.names_owner), "")


def _check_owners(schema: Schema) -> None:
    """Keys that name owners are first, of one label, and no other label begins with it."""
    prefix = owner_label(schema)
    for table in schema.tables:
        named = [key.names_owner for key in table.keys]
        if not any(named):
            continue
        where = f"table {table.name}"
        if not table.per_slot or any(named[1:]) or table.keys[0].text_words:
            raise SchemaError(f"{where}: a key that names an owner is not its first, a number")
        if table.keys[0].label != prefix:
            raise SchemaError(f"{where}: {table.keys[0].label} and {prefix} both name owners")
        labels = [name for column in table.columns for name, _ in column.labels]
        if any(n.startswith(f"{prefix}_") for n in [*labels, *(k.label for k in table.keys)]):
            raise SchemaError(f"{where}: a label begins with {prefix}_")


def _check_families(schema: Schema) -> None:
    """A family is one table's, of one kind, and no two of its columns make the same series."""
    seen: dict[str, tuple[Table, Column]] = {}
    names: dict[str, str] = {}
    series: set[tuple[str, tuple[tuple[str, str], ...]]] = set()
    for table in schema.tables:
        key_labels = [key.label for key in table.keys]
        if len(set(key_labels)) != len(key_labels):
            raise SchemaError(f"table {table.name}: two keys have the same label")
        for column in table.columns:
            where = f"table {table.name}, column {column.name}"
            other = seen.setdefault(column.name, (table, column))
            if other[0] is not table:
                raise SchemaError(f"{where}: also a column of table {other[0].name}")
            if (other[1].kind, other[1].help) != (column.kind, column.help):
                raise SchemaError(f"{where}: kind or help differs from the column before")
            base = column.name.removesuffix("_total" if column.kind == "counter" else "")
            for name in (base, *(base + suffix for suffix in SUFFIXES[column.kind])):
                if names.setdefault(name, column.name) != column.name:
                    raise SchemaError(f"{where}: {name} also belongs to {names[name]}")
            constant = [name for name, _ in column.labels]
            if set(key_labels) & set(constant):
                raise SchemaError(f"{where}: a label is also the label of a key")
            if reserved := RESERVED_LABELS.intersection(key_labels + constant):
                raise SchemaError(f"{where}: label {min(reserved)} is taken")
            identity = (column.name, tuple(sorted(column.labels)))
            if identity in series:
                raise SchemaError(f"{where}: twice with the same labels")
            series.add(identity)
