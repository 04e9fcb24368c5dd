"""The text that is served, read back by prometheus-client's parser."""

import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator._native import lib
from aggregator.pods.resolver import standalone
from aggregator.segment.exposition import Presentation, bucket_ends, render_labels
from aggregator.segment.schema import Column, Histogram
from aggregator.segment.store import Store
from tests.scrape import text_samples
from tests.segment import HOST_SLOT, UNIT, Row, Segment, Slot, column, schema, table

MAX = 2**64 - 1


def rendered_bytes(path: Path, segment: Segment, format_: int, **options: Any) -> bytes:
    store = Store(
        str(segment.write(path / "segment")),
        clock=time.monotonic_ns,
        **{"resolver": standalone, **options},
    )
    assert store.refresh() == "live", store.cause
    assert store.snapshot
    chunks = list(store.snapshot.render(format_))
    assert all(len(c) <= lib.KPOD_CHUNK_SIZE for c in chunks)
    assert format_ == lib.KPOD_PROTOBUF or all(c.endswith(b"\n") for c in chunks)
    return b"".join(chunks)


def rendered(path: Path, segment: Segment, **options: Any) -> str:
    return rendered_bytes(path, segment, lib.KPOD_TEXT, **options).decode()


def one(words: int, *columns: dict[str, Any], **more: Any) -> dict[str, Any]:
    return schema(table("t", words, list(columns), **more))


@pytest.mark.parametrize("decimals", range(19))
def test_values_are_exact(tmp_path: Path, decimals: int) -> None:
    powers = [10**i + d for i in range(20) for d in (-1, 0, 1)]
    values = [0, 1, 9, 10, 123456789, 2**63, MAX - 1, *powers, *(7 * 3**i for i in range(38))]
    values = [v for v in values if v < MAX]
    segment = Segment(
        one(1, column("v", "gauge", decimals=decimals)),
        slots=[Slot(i, f"{i}.service", UNIT) for i in range(len(values))],
        rows=[Row(0, i, [v]) for i, v in enumerate(values)],
    )
    lines = [x for x in rendered(tmp_path, segment).splitlines() if not x.startswith("#")]
    assert len(lines) == len(values)
    for line, value in zip(lines, values, strict=True):
        text = line.rsplit(" ", 1)[1]
        exact = Decimal(value).scaleb(-decimals)
        assert Decimal(text) == exact
        assert text == (f"{exact:f}".rstrip("0").rstrip(".") if "." in f"{exact:f}" else text)
        assert not (len(text) > 1 and text[0] == "0" and text[1] != ".")


def test_no_value_makes_no_sample(tmp_path: Path) -> None:
    segment = Segment(
        one(
            2,
            column("a", "gauge", optional=True),
            column("b_total", word=1, labels={"k": "v"}, decimals=6, optional=True),
            keys=[{"label": "device", "values": [], "words": 1}],
        ),
        slots=[HOST_SLOT],
        rows=[
            Row(0, 0, [ord(d), a, b]) for d, a, b in (("a", MAX, 0), ("b", 5, MAX), ("c", MAX, MAX))
        ],
    )
    found = {
        (name, dict(labels)["device"]): value
        for (name, labels), value in text_samples(rendered(tmp_path, segment)).items()
    }
    assert found == {("a", "b"): 5, ("b_total", "a"): 0}


HISTOGRAM = {"schema": 2, "first_exponent": -20, "buckets": 98, "sum": 98, "sum_words": 3}


def test_histogram_is_cumulative(tmp_path: Path) -> None:
    words = [i + 1 for i in range(98)] + [10**9, 2 * 10**9, 500_000_000, 77]
    segment = Segment(
        one(102, column("h_seconds", "histogram", decimals=9, **HISTOGRAM)),
        slots=[HOST_SLOT],
        rows=[Row(0, 0, words)],
    )
    found = text_samples(
        rendered(
            tmp_path, segment, presentations=[Presentation(exponents=(-20, -18, 0, 4, 5, -21))]
        )
    )
    host = ("scope", "host")
    buckets = {
        dict(labels)["le"]: value for (name, labels), value in found.items() if "bucket" in name
    }
    # 5 and -21 are no bounds of this histogram.
    assert buckets == {
        str(2.0**-20): 1,
        str(2.0**-18): sum(range(1, 10)),
        "1.0": sum(range(1, 82)),
        "16.0": sum(range(1, 98)),
        "+Inf": sum(range(1, 99)),
    }
    assert found["h_seconds_count", frozenset([host])] == sum(range(1, 99))
    assert found["h_seconds_sum", frozenset([host])] == 3.5


def test_bounds_that_are_no_powers_of_two_are_left_out() -> None:
    coarse = Histogram(-2, -20, 8, 0, 1)  # a factor of 16 apart
    column = Column("h", "", "histogram", 0, (), 0, False, coarse)
    assert bucket_ends(column, range(-24, 10)) == [
        (2.0**e, i + 1) for i, e in enumerate(range(-20, 8, 4))
    ]


def test_keys_become_labels(tmp_path: Path) -> None:
    keys = [
        {"label": "device", "values": ["sda", 's"d\\b\n'], "words": 0},
        {"label": "port", "values": [], "words": 0},
    ]
    segment = Segment(
        one(2, column("io_total", labels={"op": "read"}), column("g", "gauge", word=1), keys=keys),
        slots=[HOST_SLOT],
        rows=[Row(0, 0, [0, 53, 7, 8]), Row(0, 0, [1, MAX, 9, 10]), Row(0, 0, [5, 0, 11, 12])],
    )
    found = text_samples(rendered(tmp_path, segment))
    assert {tuple(sorted(dict(labels).items())): v for (_, labels), v in found.items()} == {
        (("device", d), *more, ("port", p), ("scope", "host")): v
        for d, p, read, gauge in (
            ("sda", "53", 7, 8),
            ('s"d\\b_', str(MAX), 9, 10),
            ("5", "0", 11, 12),
        )
        for more, v in (((("op", "read"),), read), ((), gauge))
    }


def test_keys_of_text(tmp_path: Path) -> None:
    """Text fills its words or ends with a NUL; what would need an escape is replaced."""

    def words(text: bytes) -> list[int]:
        return [int.from_bytes(text[i : i + 8].ljust(8, b"\0"), "little") for i in (0, 8)]

    keys = [
        {"label": "port", "values": [], "words": 0},
        {"label": "irq", "values": [], "words": 2},
        {"label": "op", "values": ["read"], "words": 0},
    ]
    segment = Segment(
        schema(table("t", 1, [column("io_total")], keys=keys, scope="node")),
        rows=[
            Row(0, 0, [1, *words(b"eth0"), 0, 7]),
            Row(0, 0, [2, *words(b"0123456789abcdef"), 0, 8]),
            Row(0, 0, [3, *words(b'a"b\\c\n\xff\0x'), 0, 9]),
            Row(0, 0, [4, *words(b""), 0, 10]),
        ],
    )
    found = text_samples(rendered(tmp_path, segment))
    assert {tuple(v for _, v in sorted(labels)): value for (_, labels), value in found.items()} == {
        ("eth0", "read", "1"): 7,
        ("0123456789abcdef", "read", "2"): 8,
        ("a_b_c__", "read", "3"): 9,
        ("read", "4"): 10,
    }


def test_node_scope_and_node_label(tmp_path: Path) -> None:
    document = schema(
        table("n", 1, [column("n_total")], scope="node"), table("s", 1, [column("s_total")])
    )
    segment = Segment(document, slots=[HOST_SLOT], rows=[Row(0, 0, [1]), Row(1, 0, [2])])
    text = rendered(tmp_path, segment)
    assert "\nn_total 1\n" in text
    assert '\ns_total{scope="host"} 2\n' in text
    text = rendered(tmp_path, segment, node='a"b')
    assert '\nn_total{node="a\\"b"} 1\n' in text
    assert '\ns_total{scope="host",node="a\\"b"} 2\n' in text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=400), min_size=1, max_size=6),
    st.text(max_size=50),
    st.text(max_size=50),
)
def test_hostile_labels_come_back_unchanged(
    tmp_path: Path, values: list[str], constant: str, help_text: str
) -> None:
    segment = Segment(
        one(1, column("t_total", labels={"c": constant}) | {"help": help_text}),
        slots=[Slot(i, f"{i}.service", UNIT) for i in range(len(values))],
        rows=[Row(0, i, [i]) for i in range(len(values))],
    )
    text = rendered(
        tmp_path, segment, resolver=lambda o: (("l", values[int(o.path.split(".")[0])]),)
    )
    # The parser strips what is no label; ours is compared with the escaped form byte for byte.
    lines = text.split("\n")
    assert len([x for x in lines if x.startswith("t_total{")]) == len(values)
    taken: set[str] = set()
    for i, value in enumerate(values):
        own = render_labels([("l", value)])
        if own in taken:
            own = render_labels([("l", value), ("cgroup_id", str(1000 + i))])
        taken.add(own)
        head = render_labels([("c", constant)]) or 'c=""'
        assert f"t_total{{{head},{own}}} {i}" in lines


@pytest.mark.parametrize("format_", [lib.KPOD_TEXT, lib.KPOD_OPENMETRICS, lib.KPOD_PROTOBUF])
def test_no_label_value_ends_a_line(tmp_path: Path, format_: int) -> None:
    """Of a unit's name, the node's, a constant and a key; LF too, though it has an escape."""
    controls = "".join(map(chr, [*range(32), *range(0x7F, 0xA0), 0x2028, 0x2029]))
    segment = Segment(
        one(
            1,
            column("t_total", labels={"c": f"constant{controls}"}),
            keys=[{"label": "device", "values": [f"device{controls}"], "words": 0}],
        ),
        slots=[Slot(1, f"x{controls.replace('/', '')}.service", UNIT)],
        rows=[Row(0, 1, [0, 5])],
    )
    body = rendered_bytes(tmp_path, segment, format_, node=f"node{controls}\udcff")
    safe = "_" * len(controls)
    for wanted in (f"constant{safe}", f"device{safe}", f"x{safe}.service", f"node{safe}_"):
        assert wanted.encode() in body
    if format_ != lib.KPOD_PROTOBUF:
        text = body.decode()
        assert text.splitlines() == text.split("\n")[:-1]


def test_very_long_labels_are_an_error_not_an_overflow(tmp_path: Path) -> None:
    segment = Segment(
        one(1, column("t_total")),
        slots=[Slot(i, f"{i}.service", UNIT) for i in range(40)],
        rows=[Row(0, i, [i]) for i in range(40)],
    )
    long = "x" * (lib.KPOD_LABELS_MAX - 100)
    text = rendered(tmp_path, segment, resolver=lambda o: (("l", long + o.path),))
    assert text.count(long) == 40
    with pytest.raises(MemoryError, match=r"labels of 0\.service"):
        rendered(tmp_path, segment, resolver=lambda _: (("l", "x" * lib.KPOD_LABELS_MAX),))


def test_same_names_are_told_apart(tmp_path: Path) -> None:
    segment = Segment(
        one(1, column("t_total")),
        slots=[Slot(i, "same.service", UNIT, cgroup_id=50 + i) for i in range(3)],
        rows=[Row(0, i, [i]) for i in range(3)],
    )
    found = text_samples(rendered(tmp_path, segment, resolver=lambda _: (("l", "same"),)))
    assert sorted(dict(labels).get("cgroup_id", "") for _, labels in found) == ["", "51", "52"]


def test_owner_without_any_label_has_one_all_the_same(tmp_path: Path) -> None:
    segment = Segment(one(1, column("t_total")), [HOST_SLOT], [Row(0, 0, [5])])
    text = rendered(tmp_path, segment, resolver=lambda _: (("l", ""),))
    assert '\nt_total{cgroup_id="1"} 5\n' in text


def test_many_rows_over_many_chunks(tmp_path: Path) -> None:
    count = 3000
    columns = [column("a_total"), column("h", "histogram", word=1, **(HISTOGRAM | {"sum": 99}))]
    segment = Segment(
        one(102, *columns),
        slots=[Slot(i, f"{i}.service", UNIT) for i in range(count)],
        rows=[Row(0, i, [i] + [i % 7] * 101) for i in range(count)],
        ring_capacity=1 << 22,
        stale_after_ns=10**15,
    )
    found = text_samples(rendered(tmp_path, segment))
    assert len(found) == count * (1 + 13 + 2)
    for i in (0, 1, 1234, count - 1):
        labels = {("scope", "unit"), ("unit", f"{i}.service"), ("cgroup_id", str(1000 + i))}
        assert found["a_total", frozenset(labels)] == i
        assert found["h_count", frozenset(labels)] == 98 * (i % 7)
        assert found["h_bucket", frozenset(labels | {("le", "+Inf")})] == 98 * (i % 7)


def test_rows_without_owner_are_left_out_and_counted(tmp_path: Path) -> None:
    segment = Segment(
        one(1, column("t_total")),
        slots=[HOST_SLOT, Slot(2, "a.service", UNIT, generation=5)],
        rows=[Row(0, 0, [1]), Row(0, 2, [2], generation=4), Row(0, 9, [3]), Row(0, 2**32 - 1, [4])],
    )
    store = Store(
        str(segment.write(tmp_path / "segment")), clock=time.monotonic_ns, resolver=standalone
    )
    assert store.refresh() == "live"
    assert store.snapshot
    assert store.snapshot.native.orphans == 3
    assert len(text_samples(b"".join(store.snapshot.render(lib.KPOD_TEXT)).decode())) == 1
