"""The last minutes of every container, for people: a bounded ring, filled from the snapshots that
somebody takes anyway. The work is in native/history.c."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aggregator._native import ffi, lib
from aggregator.segment.exposition import Plan
from aggregator.segment.schema import Column, Schema
from aggregator.segment.store import Snapshot

# At least so long between two points: sixty of them are then the last five minutes.
STEP_NS = 4_900_000_000


@dataclass(frozen=True, slots=True)
class Quantity:
    """columns: of the first list of which the schema has one, those it has are added up."""

    key: str  # in JSON, and in ?sort=
    title: str
    unit: str  # in JSON
    help: str
    columns: tuple[tuple[str, ...], ...]


# In the order of enum kpod_quantity.
QUANTITIES = (
    Quantity(
        "cpu",
        "CPU",
        "cores",
        "Time on a CPU, in CPUs",
        (("kpod_cpu_oncpu_seconds_total",), ("kpod_cgroup_cpu_usage_seconds_total",)),
    ),
    Quantity(
        "cpu_wait",
        "CPU wait",
        "seconds per second",
        "Time that tasks were ready to run and waited for a CPU",
        (("kpod_cpu_runqueue_wait_seconds_total",),),
    ),
    Quantity(
        "throttled",
        "Throttled",
        "seconds per second",
        "Time that tasks were held back by the CPU limit",
        (("kpod_cgroup_cpu_throttled_seconds_total",),),
    ),
    Quantity(
        "memory",
        "Memory",
        "bytes",
        "Memory without inactive page cache (working set)",
        (("kpod_cgroup_memory_working_set_bytes",),),
    ),
    Quantity(
        "block_io",
        "Block I/O",
        "bytes per second",
        "Bytes of block requests that ended, all devices and operations",
        (("kpod_block_io_bytes_total",), ("kpod_disk_bytes_total",)),
    ),
    Quantity(
        "retransmits",
        "Retransmits",
        "segments per second",
        "TCP segments that were sent again",
        (("kpod_tcp_retransmitted_segments_total",),),
    ),
    Quantity(
        "drops",
        "Drops",
        "packets per second",
        "TCP packets that the kernel dropped, and UDP datagrams that found the socket's queue full",
        (("kpod_tcp_dropped_packets_total", "kpod_udp_receive_drops_total"),),
    ),
)
assert len(QUANTITIES) == lib.KPOD_QUANTITIES


def sources(schema: Schema) -> list[tuple[int, int, int, float, bool, bool]]:
    """What of this schema is added up: struct kpod_history_source."""
    by_name: dict[str, list[tuple[int, Column]]] = {}
    for index, table in enumerate(schema.tables):
        for column in table.columns:
            if table.per_slot and column.kind != "histogram":
                by_name.setdefault(column.name, []).append((index, column))
    found = []
    for number, quantity in enumerate(QUANTITIES):
        known = (
            [place for name in names for place in by_name.get(name, ())]
            for names in quantity.columns
        )
        for index, c in next((places for places in known if places), ()):
            gauge = c.kind == "gauge"
            found.append((number, index, c.word, 10.0**-c.decimals, gauge, c.optional))
    return found


class History:
    """One ring; offered every new snapshot, it takes a point of those that are due."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """clock: CLOCK_MONOTONIC in ns."""
        self._clock = clock
        native = lib.kpod_history_new()
        if not native:
            raise MemoryError("history")
        self._native: Any = ffi.gc(native, lib.kpod_history_free)
        self._plan: Plan | None = None
        self._sources: Any = None
        self._out = ffi.new("char[]", lib.KPOD_HISTORY_CELLS_SIZE)
        self._last = ffi.new("double[]", lib.KPOD_QUANTITIES)

    @property
    def untracked(self) -> int:
        """Containers without a history, because there are too many."""
        return int(self._native.untracked)

    @property
    def last_ns(self) -> int | None:
        """CLOCK_MONOTONIC of the last point."""
        at = self.times()
        return at[-1] if at else None

    def is_older_than(self, seconds: float) -> bool:
        """Whether the last point is, or there is none."""
        last = self.last_ns
        return last is None or self._clock() - last > seconds * 1e9

    def times(self) -> list[int]:
        """CLOCK_MONOTONIC of the points, the oldest first."""
        native, most = self._native, lib.KPOD_HISTORY_POINTS
        first = max(0, native.points - most)
        return [int(native.at_ns[n % most]) for n in range(first, native.points)]

    def offer(self, snapshot: Snapshot) -> None:
        if snapshot.plan is not self._plan:  # another loader, or other collectors
            lib.kpod_history_clear(self._native)
            self._plan = snapshot.plan
            self._sources = ffi.new("struct kpod_history_source[]", sources(snapshot.plan.schema))
        last = self.last_ns
        if last is not None and snapshot.native.monotonic_ns - last < STEP_NS:
            return
        plan = snapshot.plan.native
        if not lib.kpod_history_add(
            self._native, snapshot.native, plan, self._sources, len(self._sources)
        ):
            raise MemoryError("history")

    def tracks(self, snapshot: Snapshot) -> Any:
        """By owner of the snapshot; for the methods below."""
        found = ffi.new("uint32_t[]", max(snapshot.native.owner_count, 1))
        lib.kpod_history_find(self._native, snapshot.native, found)
        return found

    def cells(self, tracks: Sequence[int]) -> tuple[str, list[float]]:
        """A row of a table in HTML, and its last values (NaN: not known)."""
        size = lib.kpod_history_cells(self._native, tracks, len(tracks), self._last, self._out)
        return str(ffi.unpack(self._out, size), "ascii"), ffi.unpack(
            self._last, lib.KPOD_QUANTITIES
        )

    def last(self, tracks: Sequence[int]) -> list[float]:
        """The last values of some containers together; NaN: not known."""
        n = min(self._native.points, lib.KPOD_HISTORY_POINTS)
        return [self._sum(tracks, q)[n - 1] if n else math.nan for q in range(len(QUANTITIES))]

    def series(self, tracks: Sequence[int], quantity: int) -> list[float]:
        """The points of some containers together, the oldest first; NaN where there is none."""
        values = self._sum(tracks, quantity)
        return ffi.unpack(values, min(self._native.points, lib.KPOD_HISTORY_POINTS))  # type: ignore[no-any-return]

    def _sum(self, tracks: Sequence[int], quantity: int) -> Any:
        values = ffi.new("double[]", lib.KPOD_HISTORY_POINTS)
        lib.kpod_history_sum(self._native, tracks, len(tracks), quantity, values)
        return values

    def path(self, tracks: Sequence[int], quantity: int, width: int, height: int) -> str:
        """Of an SVG path."""
        values = self._sum(tracks, quantity)
        size = lib.kpod_history_path(self._native, quantity, values, width, height, self._out)
        return str(ffi.unpack(self._out, size), "ascii")

    def text(self, quantity: int, value: float) -> str:
        """For people."""
        size = lib.kpod_history_text(quantity, value, self._out)
        return str(ffi.unpack(self._out, size), "ascii")


def known(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return None if math.isnan(value) else value
