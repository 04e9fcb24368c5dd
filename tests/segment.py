"""Makes segments from the byte-level specification (shared/README.md) alone, without our C code."""

import re
import struct
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

README = Path(__file__).parent.parent / "shared/README.md"

HEADER_SIZE = 4096
PAGE = 4096
PAD, BEGIN, SLOT, ROW, END = range(1, 6)
READY, CLOSED = 1, 2
HOST, UNIT, CONTAINER, POD, POD_CONTAINER, MACHINE = range(6)

START = 1_700_000_000 * 10**9  # of the loader, CLOCK_REALTIME

# record.field -> (offset, size), as the tables of the specification say.
FIELDS = {
    m[1]: (int(m[2]), int(m[3]))
    for m in re.finditer(r"(?m)^\| (kpod_\w+\.\w+) \| (\d+) \| (\d+) \|", README.read_text())
}


def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def crc32c(data: bytes, crc: int = 0) -> int:
    """CRC32C (Castagnoli), RFC 3720 B.4."""
    crc ^= 0xFFFFFFFF
    table = _CRC
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def layout_digest() -> int:
    """FNV-1a 64 over the specification's tables."""
    digest = 0xCBF29CE484222325
    for name, (offset, size) in FIELDS.items():
        for byte in f"{name}:{offset}:{size}\n".encode():
            digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return digest


def put(buffer: bytearray, at: int, name: str, value: int) -> None:
    """Sets a field of the record that starts at `at`."""
    offset, size = FIELDS[name]
    buffer[at + offset : at + offset + size] = value.to_bytes(size, "little")


def record(kind: int, body: bytes, table: int = 0) -> bytes:
    body += bytes(-len(body) % 8)
    return struct.pack("<IHH", 8 + len(body), kind, table) + body


def begin(sequence: int, monotonic_ns: int, realtime_ns: int = START) -> bytes:
    return record(BEGIN, struct.pack("<QQQ", sequence, monotonic_ns, realtime_ns))


@dataclass(frozen=True)
class Slot:
    slot: int
    path: str
    kind: int = CONTAINER
    generation: int = 1
    cgroup_id: int = 0
    died_ns: int = 0
    born_ns: int = 1
    counted_ns: int = START
    cgroup_ns: int = START
    network_ns: int = START

    def encode(self) -> bytes:
        path = self.path.encode()
        head = struct.pack(
            "<IIQQQIIQQQ",
            self.slot,
            self.generation,
            self.cgroup_id or 1000 + self.slot,
            self.born_ns,
            self.died_ns,
            self.kind,
            len(path),
            self.counted_ns,
            self.cgroup_ns,
            self.network_ns,
        )
        return record(SLOT, head + path)


@dataclass(frozen=True)
class Row:
    table: int
    slot: int
    words: Sequence[int]
    generation: int = 1

    def encode(self) -> bytes:
        words = struct.pack(f"<{len(self.words)}Q", *self.words)
        return record(ROW, struct.pack("<II", self.slot, self.generation) + words, self.table)


HOST_SLOT = Slot(0, "/", HOST, generation=1, cgroup_id=1)


def column(name: str, kind: str = "counter", word: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "help": f"Help of {name}.",
        "kind": kind,
        "decimals": 0,
        "labels": {},
        "word": word,
        "optional": False,
        **more,
    }


def table(name: str, words: int, columns: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "collector": "test",
        "scope": "slot",
        "keys": [],
        "words": words,
        "columns": columns,
        **more,
    }


def collector(name: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "help": "a test",
        "up": True,
        "reason": "",
        "attach": "tp_btf",
        **more,
    }


def schema(*tables: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "loader": {"version": "9.9"},
        "kernel": "6.0-test",
        "collectors": [collector("test")],
        "tables": list(tables),
        **more,
    }


@dataclass
class Segment:
    """A segment in memory, which tests may spoil before they write it."""

    document: dict[str, Any] | bytes
    slots: Iterable[Slot] = ()
    rows: Iterable[Row] = ()
    sequence: int = 1
    generation: int = 1
    ring_capacity: int = 65536
    start: int = 0  # ring position of the snapshot: anything 8-aligned
    heartbeat: int = field(default_factory=time.monotonic_ns)
    state: int = READY
    stale_after_ns: int = 5 * 10**9

    def __post_init__(self) -> None:
        raw = self.document if isinstance(self.document, bytes) else msgpack.packb(self.document)
        self.ring_offset = HEADER_SIZE + -(-max(len(raw), 1) // PAGE) * PAGE
        self.bytes = bytearray(self.ring_offset + self.ring_capacity)
        self.bytes[HEADER_SIZE : HEADER_SIZE + len(raw)] = raw
        for name, value in {
            "magic": int.from_bytes(b"KPODSEG\0", "little"),
            "abi_major": 1,
            "abi_minor": 0,
            "header_size": HEADER_SIZE,
            "layout_digest": layout_digest(),
            "generation": self.generation,
            "start_realtime_ns": START,
            "start_monotonic_ns": 1,
            "interval_ns": 10**9,
            "stale_after_ns": self.stale_after_ns,
            "schema_offset": HEADER_SIZE,
            "schema_size": len(raw),
            "schema_crc": crc32c(raw),
            "ring_offset": self.ring_offset,
            "ring_capacity": self.ring_capacity,
            "segment_size": len(self.bytes),
            "state": self.state,
            "heartbeat": self.heartbeat,
        }.items():
            self.set(name, value)
        self.seal()
        records = [begin(self.sequence, self.heartbeat)]
        records += [s.encode() for s in self.slots]
        records += [r.encode() for r in self.rows]
        self.write_snapshot(records)

    def set(self, name: str, value: int) -> None:
        """Sets a header field."""
        put(self.bytes, 0, f"kpod_header.{name}", value)

    def seal(self) -> None:
        """Makes header_crc right."""
        self.set("header_crc", crc32c(bytes(self.bytes[: FIELDS["kpod_header.header_crc"][0]])))

    def write_snapshot(self, records: list[bytes], **end: int) -> None:
        """Puts BEGIN, records and END at self.start; `end` overrides fields of END."""
        position = self.start
        crc, capacity = 0, self.ring_capacity

        def write(raw: bytes) -> None:
            nonlocal position
            left = capacity - position % capacity
            if len(raw) > left:
                pad = struct.pack("<IHH", left, PAD, 0)
                at = self.ring_offset + position % capacity
                self.bytes[at : at + 8] = pad
                position += left
            at = self.ring_offset + position % capacity
            self.bytes[at : at + len(raw)] = raw
            position += len(raw)

        for raw in records:
            write(raw)
            crc = crc32c(raw, crc)
        values = {
            "begin": self.start,
            "sequence": self.sequence,
            "records": len(records),
            "crc": crc,
            **end,
        }
        write(record(END, struct.pack("<QQII", *(values[k] for k in values))))
        assert position - self.start <= capacity, "the ring is too small for this snapshot"
        self.set("published", position)
        self.set("intent", position)
        self.end = position

    def write(self, path: Path) -> Path:
        """Replaces the file at once, as the loader does."""
        building = path.with_name(path.name + ".building")
        building.write_bytes(self.bytes)
        building.rename(path)
        return path
