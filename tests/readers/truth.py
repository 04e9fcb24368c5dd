"""A known segment, and the exact list of what a reader can have of it; made without our code."""

import unicodedata
from decimal import Decimal
from pathlib import Path

from aggregator.segment.labels import Labels
from aggregator.segment.owner import Owner
from tests.segment import HOST_SLOT, UNIT, Row, Segment, Slot, column, schema, table

Series = tuple[str, frozenset[tuple[str, str]]]
Samples = dict[Series, float]

# Everything that some reader may take for more than a character.
HOSTILE = (
    "".join(map(chr, range(32)))
    + "\x7f"
    + "".join(map(chr, range(0x80, 0xA0)))
    + '\u2028\u2029"\\{}=,#  \u00a0 ünï 猫🐈\u202e\ufeff'
    + '"} 1\nr_things{scope="host"} 666\n'
)
NODE = "node-1"
UNITS = ("plain.service", HOSTILE + "a", HOSTILE + "b")

SCHEMA, FIRST, BUCKETS = 2, -20, 98
BOUNDS = (-20, -18, -16, -13, -11, -9, -7, -5, -3, 0, 2, 4)  # 2^N; as our documentation says
NO_VALUE = 2**64 - 1

# name, word, decimals, constant labels
COUNTERS: tuple[tuple[str, int, int, dict[str, str]], ...] = (
    ("r_bytes_total", 0, 0, {}),
    ("r_spent_seconds_total", 1, 9, {"kind": "a"}),
    ("r_spent_seconds_total", 2, 9, {"kind": "b"}),
)
GAUGES = (("r_held_bytes", 3, 0), ("r_things", 4, 3))
OPTIONAL = ("r_limit_bytes", 5)
SUM, COUNTS = 6, 7
WORDS = COUNTS + BUCKETS


def counts(owner: int) -> list[int]:
    """Two humps, holes between them, something at each end."""
    found = [0] * BUCKETS
    for bucket, count in ((0, 2), (20, 100), (21, 300), (22, 50), (60, 7), (64, 30), (97, 1)):
        found[bucket] = count * (owner + 1)
    return found


def words(owner: int) -> list[int]:
    values = [2**53 + 2 * owner, 123456789 + owner, 7, 4096 * owner, 1500 * owner]
    limit = NO_VALUE if owner == 1 else 10**12 + owner
    return [*values, limit, 10**10 * (owner + 1) + 5, *counts(owner)]


def write(path: Path) -> None:
    columns = [
        *(column(n, word=w, decimals=d, labels=dict(labels)) for n, w, d, labels in COUNTERS),
        *(column(name, "gauge", word=word, decimals=d) for name, word, d in GAUGES),
        column(OPTIONAL[0], "gauge", word=OPTIONAL[1], optional=True),
        column(
            "r_latency_seconds",
            "histogram",
            word=COUNTS,
            decimals=9,
            schema=SCHEMA,
            first_exponent=FIRST,
            buckets=BUCKETS,
            sum=SUM,
            sum_words=1,
        ),
    ]
    keys = [{"label": "device", "values": ["sda", "x" + HOSTILE], "words": 0}]
    Segment(
        schema(
            table("t", WORDS, columns),
            table("k", 1, [column("r_keyed_total")], keys=keys),
            table("n", 1, [column("r_of_node", "gauge")], scope="node"),
        ),
        [HOST_SLOT, *(Slot(i, f"{i}", UNIT) for i in range(1, len(UNITS) + 1))],
        [
            *(Row(0, i, words(i)) for i in range(len(UNITS) + 1)),
            *(Row(1, 1, [device, 10 + device]) for device in range(2)),
            Row(2, 0, [77]),
        ],
        stale_after_ns=10**15,
    ).write(path)


def resolver(owner: Owner) -> Labels:
    """The names are the test's; who gives them is tested elsewhere."""
    if owner.path == "/":
        return (("scope", "host"),)
    return (("scope", "unit"), ("container", UNITS[int(owner.path) - 1]))


def safe(value: str) -> str:
    return "".join("_" if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in value)


def _who(owner: int) -> set[tuple[str, str]]:
    if not owner:
        return {("scope", "host"), ("node", NODE)}
    # Two that differ in what cannot be shown would be told apart by their cgroup.
    return {("scope", "unit"), ("container", safe(UNITS[owner - 1])), ("node", NODE)}


def scaled(word: int, decimals: int) -> float:
    return float(Decimal(word).scaleb(-decimals))


def plain() -> Samples:
    """All but the histograms."""
    found: Samples = {("r_of_node", frozenset({("node", NODE)})): 77}
    for owner in range(len(UNITS) + 1):
        who, row = _who(owner), words(owner)
        for name, word, decimals, labels in COUNTERS:
            found[name, frozenset(who | set(labels.items()))] = scaled(row[word], decimals)
        for name, word, decimals in GAUGES:
            found[name, frozenset(who)] = scaled(row[word], decimals)
        if row[OPTIONAL[1]] != NO_VALUE:
            found[OPTIONAL[0], frozenset(who)] = row[OPTIONAL[1]]
    for device, name in enumerate(("sda", safe("x" + HOSTILE))):
        found["r_keyed_total", frozenset(_who(1) | {("device", name)})] = 10 + device
    return found


def classic() -> Samples:
    """Histograms by their classic buckets."""
    found: Samples = {}
    for owner in range(len(UNITS) + 1):
        who, row = _who(owner), counts(owner)
        name = "r_latency_seconds"
        found[f"{name}_count", frozenset(who)] = sum(row)
        found[f"{name}_sum", frozenset(who)] = scaled(words(owner)[SUM], 9)
        for exponent in BOUNDS:
            # Bucket i ends at 2^(FIRST + i/4).
            inside = sum(row[: 4 * (exponent - FIRST) + 1])
            found[f"{name}_bucket", frozenset(who | {("le", repr(2.0**exponent))})] = inside
        found[f"{name}_bucket", frozenset(who | {("le", "+Inf")})] = sum(row)
    return found


Native = tuple[float, float, frozenset[tuple[float, float, float]]]


def bucket(low: float, high: float, count: float) -> tuple[float, float, float]:
    """With bounds to nine digits: servers compute them in different ways."""
    return float(f"{low:.9g}"), float(f"{high:.9g}"), count


def native() -> dict[Series, Native]:
    """Count, sum, and the buckets in use: lower bound, upper bound, count."""
    found: dict[Series, Native] = {}
    for owner in range(len(UNITS) + 1):
        row = counts(owner)
        ends = [2.0 ** (FIRST + i / 4) for i in range(BUCKETS)]
        buckets = {bucket(-ends[0], ends[0], row[0])} | {
            bucket(ends[i - 1], ends[i], row[i]) for i in range(1, BUCKETS) if row[i]
        }
        key = "r_latency_seconds", frozenset(_who(owner))
        found[key] = float(sum(row)), scaled(words(owner)[SUM], 9), frozenset(buckets)
    return found
