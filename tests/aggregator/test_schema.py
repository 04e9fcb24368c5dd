"""Schema documents, good and bad."""

import copy
import re
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from aggregator._native import lib
from aggregator.pods.resolver import standalone
from aggregator.segment.exposition import Plan
from aggregator.segment.schema import SchemaError, Table, decode
from aggregator.segment.store import Store
from tests.segment import HOST_SLOT, Row, Segment, column, schema, table

HISTOGRAM = {
    "schema": 2,
    "first_exponent": -20,
    "buckets": 98,
    "sum": 98,
    "sum_words": 2,
}


def good() -> dict[str, Any]:
    return schema(
        table(
            "t",
            100,
            [
                column("a_total", labels={"kind": "x"}),
                column("a_total", word=1, labels={"kind": "y"}),
                column("h_seconds", "histogram", decimals=9, **HISTOGRAM),
            ],
            keys=[{"label": "device", "values": ["sda", "sdb"], "words": 0}],
        ),
        table("u", 1, [column("g", "gauge")], scope="node"),
    )


def test_good_one() -> None:
    decoded = decode(msgpack.packb(good()))
    assert decoded.kernel == "6.0-test"
    assert [t.name for t in decoded.tables] == ["t", "u"]
    assert [t.per_slot for t in decoded.tables] == [True, False]
    assert decoded.tables[0].keys[0].values == ("sda", "sdb")
    histogram = decoded.tables[0].columns[2].histogram
    assert histogram
    assert (histogram.buckets, histogram.sum_words) == (98, 2)


def test_unknown_keys_are_ignored() -> None:
    more = good() | {"later": [1, 2]}
    more["tables"][0]["columns"][0]["unit"] = "seconds"
    assert decode(msgpack.packb(more)) == decode(msgpack.packb(good()))


def at(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def spoil(document: dict[str, Any]) -> None:
        *to, last = path
        place: Any = document
        for step in to:
            place = place[step]
        if value is ...:
            del place[last]
        else:
            place[last] = value

    return spoil


T, C, H = ("tables", 0), ("tables", 0, "columns", 0), ("tables", 0, "columns", 2)

BAD = [
    (at("format", value=2), "schema.format: 2 is not in 1 to 1"),
    (at("format", value=...), "schema: has no 'format'"),
    (at("format", value=True), "schema.format: not an integer"),
    (at("loader", value=[]), "schema.loader: not a map"),
    (at("kernel", value=5), "schema.kernel: not a string"),
    (at("collectors", 0, "up", value=1), "collectors[0].up: neither true nor false"),
    (at("tables", value={}), "schema.tables: not a list"),
    (at("tables", value=[good()["tables"][1]] * 65), "65 tables, at most 64"),
    (at(*T, "scope", value="pod"), "'pod' is neither slot nor node"),
    (at(*T, "words", value=0), "words: 0 is not in"),
    (at(*T, "keys", 0, "label", value="a-b"), "'a-b' is not a valid name"),
    (at(*T, "keys", 0, "label", value="__name__"), "not a valid name"),
    (at(*T, "keys", 0, "label", value="kind"), "also the label of a key"),
    (at(*T, "keys", 0, "label", value="pod"), "label pod is taken"),
    (at(*C, "name", value="a total"), "'a total' is not a valid name"),
    (at(*C, "name", value="a\n"), "not a valid name"),
    (at(*C, "kind", value="summary"), "'summary' is not counter"),
    (at(*C, "word", value=100), "word: 100 is not in 0 to 99"),
    (at(*C, "word", value=-1), "word: -1 is not in"),
    (at(*C, "decimals", value=19), "decimals: 19 is not in"),
    (at(*C, "labels", value={"le": "1"}), "label le is taken"),
    (at(*C, "labels", value={3: "1"}), "not a string"),
    (at(*C, "labels", value={"kind": "y"}), "twice with the same labels"),
    (at(*C, "help", value="other"), "kind or help differs"),
    (at(*H, "buckets", value=101), "buckets: 101 is not in"),
    (at(*H, "buckets", value=1), "buckets: 1 is not in"),
    (at(*H, "sum", value=100), "sum: 100 is not in"),
    (at(*H, "sum_words", value=3), "sum_words: 3 is not in"),
    (at(*H, "optional", value=True), "a histogram always has its values"),
    (at(*H, "schema", value=9), "schema: 9 is not in"),
    (at(*H, "schema", value=-3), "2^-20 is no bucket bound of schema -3"),
    (at(*C, "name", value="a"), "'a' is a counter and does not end in _total"),
    (at("tables", 1, "columns", 0, "name", value="a_total"), "also a column of table t"),
    (at("tables", 1, "columns", 0, "name", value="a_created"), "also belongs to a_total"),
    (at("tables", 1, "columns", 0, "name", value="h_seconds_sum"), "also belongs to h_seconds"),
]


@pytest.mark.parametrize(("spoil", "cause"), BAD, ids=lambda c: c if isinstance(c, str) else "")
def test_bad_one_says_where_and_why(spoil: Callable[[dict[str, Any]], None], cause: str) -> None:
    document = copy.deepcopy(good())
    spoil(document)
    with pytest.raises(SchemaError) as error:
        decode(msgpack.packb(document))
    assert cause in str(error.value)
    assert "\n" not in str(error.value)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with pytest.raises(SchemaError):
        decode(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON, st.data())
def test_anything_anywhere(value: Any, data: st.DataObject) -> None:
    """Any value in any place is a SchemaError, or a schema whose rows are rendered, all of them."""
    document = copy.deepcopy(good())
    place: Any = document
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        inner = place[key]
        if isinstance(inner, dict | list) and inner and data.draw(st.booleans()):
            place = inner
            continue
        place[key] = value
        break
    with suppress(SchemaError):
        decoded = decode(msgpack.packb(document))
        Plan(decoded, ())
        check_rendering(document, decoded.tables)


def check_rendering(document: dict[str, Any], tables: tuple[Table, ...]) -> None:
    sizes = [t.words + sum(k.text_words or 1 for k in t.keys) for t in tables]
    assume(sum(sizes) < 2000)  # or they do not fit into the ring of a test
    rows = [Row(i, 0, [1] * size) for i, size in enumerate(sizes)]
    with tempfile.TemporaryDirectory() as directory:
        path = Segment(document, slots=[HOST_SLOT], rows=rows).write(Path(directory) / "segment")
        store = Store(str(path), clock=time.monotonic_ns, resolver=standalone)
        assert store.refresh() == "live", store.cause
    assert store.snapshot
    text = b"".join(store.snapshot.render(lib.KPOD_TEXT)).decode()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert len({line.rpartition(" ")[0] for line in lines}) == len(lines)
    names = {column.name for table in tables for column in table.columns}
    for line in lines:
        assert re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*({.+})? [0-9.]+", line), line
        assert re.sub(r"_(bucket|sum|count)$", "", re.split("[{ ]", line)[0]) in names
