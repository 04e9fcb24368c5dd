"""One spoiled segment for each fault a reader can name, made without our C code."""

import os
import re
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aggregator._native import lib
from aggregator.pods.resolver import standalone
from aggregator.segment.store import Store
from tests.segment import (
    CLOSED,
    END,
    FIELDS,
    HOST_SLOT,
    README,
    SLOT,
    UNIT,
    Row,
    Segment,
    Slot,
    begin,
    column,
    put,
    record,
    schema,
    table,
)

FAULTS = {
    name: text
    for name, text in re.findall(
        r'X\((\w+), \d+, "(.+)"\)', (README.parent / "reader.h").read_text()
    )
    if name != "NONE"
}


def segment() -> Segment:
    return Segment(
        schema(table("t", 2, [column("t_total")])),
        slots=[HOST_SLOT, Slot(1, "a.service", UNIT)],
        rows=[Row(0, 0, [1, 2]), Row(0, 1, [3, 4])],
    )


def header(name: str, value: int, *, sealed: bool = True) -> Callable[[Segment], None]:
    def spoil(s: Segment) -> None:
        s.set(name, value)
        if sealed:
            s.seal()

    return spoil


def snapshot(*records: bytes, **end: int) -> Callable[[Segment], None]:
    """A snapshot of these records, whose checksum is right unless said otherwise."""

    def spoil(s: Segment) -> None:
        s.write_snapshot([begin(1, 1), *records], **end)

    return spoil


def end_record(name: str, value: int) -> Callable[[Segment], None]:
    def spoil(s: Segment) -> None:
        put(s.bytes, s.ring_offset + s.end - 32, name, value)

    return spoil


def flip(find: Callable[[Segment], int]) -> Callable[[Segment], None]:
    def spoil(s: Segment) -> None:
        s.bytes[find(s)] ^= 1

    return spoil


def resized(change: int) -> Callable[[Segment], None]:
    def spoil(s: Segment) -> None:
        del s.bytes[change:]

    return spoil


def size_of_record(size: int) -> bytes:
    return struct.pack("<IHH", size, SLOT, 0) + bytes(40)


LONG_PATH = struct.pack("<IIQQQII", 1, 1, 1, 1, 0, 1, 513) + bytes(520)
WRONG_PATH = struct.pack("<IIQQQII", 1, 1, 1, 1, 0, 1, 100) + bytes(16)

CASES = [
    ("TOO_SHORT", resized(100)),
    ("TOO_SHORT", resized(0)),
    ("MAGIC", header("magic", 7)),
    ("ABI", header("abi_major", 2)),
    ("ABI", header("abi_major", 0)),
    ("LAYOUT", header("layout_digest", 1)),
    ("LAYOUT", header("header_size", 8192)),
    ("HEADER_CRC", header("interval_ns", 5, sealed=False)),
    ("HEADER_CRC", header("header_crc", 5, sealed=False)),
    ("TRUNCATED", resized(-4096)),
    ("TRUNCATED", header("segment_size", 2**63)),
    ("SCHEMA_BOUNDS", header("schema_offset", 2**64 - 8)),
    ("SCHEMA_BOUNDS", header("schema_offset", 0)),
    ("SCHEMA_BOUNDS", header("schema_size", 2**32 - 1)),
    ("SCHEMA_CRC", flip(lambda _: 4096)),
    ("SCHEMA_CRC", header("schema_size", 3)),
    ("RING_BOUNDS", header("ring_capacity", 65537)),
    ("RING_BOUNDS", header("ring_capacity", 2**40)),
    ("RING_BOUNDS", header("ring_capacity", 32768)),
    ("RING_BOUNDS", header("ring_offset", 2**64 - 4096)),
    ("RING_BOUNDS", header("ring_offset", 0)),
    ("STATE", header("state", 0)),
    ("STATE", header("state", 3)),
    ("POSITION", header("published", 7)),
    ("POSITION", header("published", 8)),
    ("POSITION", header("published", 3)),
    ("END", header("published", 64)),
    ("END", end_record("kpod_end.begin", 8 + 2**63)),
    ("END", end_record("kpod_end.begin", 4)),
    ("END", end_record("kpod_record.size", 40)),
    ("RECORD_SIZE", snapshot(size_of_record(0))),
    ("RECORD_SIZE", snapshot(size_of_record(12))),
    ("RECORD_SIZE", snapshot(size_of_record(2**31))),
    ("RECORD_SIZE", snapshot(size_of_record(24) + bytes(8))),
    ("RECORD_SIZE", snapshot(record(SLOT, LONG_PATH))),
    ("RECORD_SIZE", snapshot(record(SLOT, WRONG_PATH))),
    ("RECORD_TYPE", snapshot(record(9, bytes(24)))),
    ("RECORD_TYPE", snapshot(begin(1, 1))),
    ("RECORD_TYPE", snapshot(record(END, bytes(24)))),
    ("RECORD_TYPE", snapshot(record(4, bytes(16), table=64))),
    ("RECORD_COUNT", end_record("kpod_end.records", 7)),
    ("SEQUENCE", snapshot(sequence=2)),
    ("SNAPSHOT_CRC", snapshot(crc=1)),
    ("SNAPSHOT_CRC", flip(lambda s: s.ring_offset + s.end - 32 - 8)),
    ("ROW_SIZE", snapshot(Row(0, 0, [1]).encode())),
    ("ROW_SIZE", snapshot(Row(0, 0, [1, 2, 3]).encode())),
    ("ROW_SIZE", snapshot(Row(1, 0, [1, 2]).encode())),
]


def looked_at(path: Path) -> Store:
    store = Store(str(path), clock=time.monotonic_ns, resolver=standalone)
    store.refresh()
    return store


def test_an_unspoiled_one_is_live(tmp_path: Path) -> None:
    store = looked_at(segment().write(tmp_path / "segment"))
    assert (store.state, store.cause) == ("live", "")
    assert store.snapshot
    assert b"".join(store.snapshot.render(lib.KPOD_TEXT)).count(b"t_total{") == 2


@pytest.mark.parametrize(("fault", "spoil"), CASES, ids=lambda c: c if isinstance(c, str) else "")
def test_fault_is_named(tmp_path: Path, fault: str, spoil: Callable[[Segment], None]) -> None:
    spoiled = segment()
    spoil(spoiled)
    store = looked_at(spoiled.write(tmp_path / "segment"))
    assert (store.state, store.cause) == ("incompatible", FAULTS[fault])
    assert store.snapshot is None
    # And a good one in its place is read again.
    segment().write(tmp_path / "segment")
    assert store.refresh() == "live"


def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "segment").mkdir()
    store = looked_at(tmp_path / "segment")
    assert (store.state, store.cause) == ("incompatible", FAULTS["UNREADABLE"])


def test_malformed_schema_says_where(tmp_path: Path) -> None:
    bad = Segment(schema(table("t", 2, [column("t_total", word=2)])))
    store = looked_at(bad.write(tmp_path / "segment"))
    assert store.state == "incompatible"
    assert "tables[0].columns[0].word: 2 is not in 0 to 1" in store.cause


def test_every_fault_has_its_segment() -> None:
    """MEMORY is the one that no segment brings about."""
    shown = {fault for fault, _ in CASES} | {"UNREADABLE", "SCHEMA"}
    assert shown == set(FAULTS) - {"MEMORY"}


def test_other_states(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    assert looked_at(path).state == "absent"
    good = segment()
    good.set("state", CLOSED)
    assert looked_at(good.write(path)).state == "closed"
    good = segment()
    good.set("heartbeat", time.monotonic_ns() - 6 * 10**9)
    assert looked_at(good.write(path)).state == "stale"


def test_snapshot_across_the_end_of_the_ring(tmp_path: Path) -> None:
    """Wherever it starts: records wrap, with a PAD where one does not fit."""
    for start in range(65536 - 400, 65536, 8):
        s = Segment(
            schema(table("t", 2, [column("t_total")])),
            slots=[HOST_SLOT, Slot(1, "a.service", UNIT)],
            rows=[Row(0, 0, [1, 2]), Row(0, 1, [3, 4])],
            start=start + 65536 * 1000,
            generation=start,
        )
        store = looked_at(s.write(tmp_path / "segment"))
        assert store.state == "live", (start, store.cause)
        assert store.snapshot
        assert b'unit="a.service",cgroup_id="1001"} 3\n' in b"".join(
            store.snapshot.render(lib.KPOD_TEXT)
        )


def test_random_bytes_never_pass(tmp_path: Path) -> None:
    good = segment()
    path = tmp_path / "segment"
    limit = FIELDS["kpod_header.header_crc"][0] + 4
    for i in range(0, limit, 3):
        spoiled = segment()
        spoiled.bytes[i] = (good.bytes[i] + 1 + os.urandom(1)[0] % 255) % 256
        assert looked_at(spoiled.write(path)).state == "incompatible", i
