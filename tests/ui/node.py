"""A node with so many containers, for the page at /: a segment, made from the specification."""

import hashlib
import time
from pathlib import Path

from aggregator.segment.store import Store
from tests.segment import (
    CONTAINER,
    HOST_SLOT,
    POD_CONTAINER,
    UNIT,
    Row,
    Segment,
    Slot,
    column,
    schema,
    table,
)

SECOND = 10**9
MEMORY = 1 << 25

COLLECTORS = [
    {"name": "cpu", "help": "Time on CPUs.", "up": True, "reason": "", "attach": "tp_btf"},
    {"name": "tcp", "help": "TCP.", "up": True, "reason": "", "attach": "tp_btf"},
]
DOWN = {
    "name": "l7",
    "help": "Requests.",
    "up": False,
    "reason": "the kernel has no <cgroup_skb> hook",
    "attach": "",
}

TABLES = (
    table(
        "cpu",
        3,
        [
            column("kpod_cpu_oncpu_seconds_total", decimals=9),
            column(
                "kpod_cpu_runqueue_wait_seconds_total",
                word=1,
                decimals=9,
                labels={"held_by": "self"},
            ),
            column(
                "kpod_cpu_runqueue_wait_seconds_total",
                word=2,
                decimals=9,
                labels={"held_by": "other"},
            ),
        ],
    ),
    table("throttle", 1, [column("kpod_cgroup_cpu_throttled_seconds_total", decimals=9)]),
    table(
        "memory", 1, [column("kpod_cgroup_memory_working_set_bytes", kind="gauge", optional=True)]
    ),
    table(
        "block",
        1,
        [column("kpod_block_io_bytes_total")],
        keys=[{"label": "operation", "values": ["read", "write"], "words": 0}],
    ),
    table("tcp", 1, [column("kpod_tcp_retransmitted_segments_total")]),
    table("udp", 1, [column("kpod_udp_receive_drops_total")]),
    table("loader", 1, [column("kpod_loader_cpu_seconds_total", decimals=9)], scope="node"),
)


def identity(slot: int) -> str:
    """A container's id: 64 hex digits that differ from the first on."""
    return hashlib.sha256(b"%d" % slot).hexdigest()


def slots(containers: int) -> list[Slot]:
    """Two containers to a pod; the fifth of five is one of docker's, and there is a unit."""
    found = [HOST_SLOT, Slot(1, "/system.slice/nginx.service", UNIT)]
    for i in range(containers):
        slot = 2 + i
        if i % 5 == 4:
            found.append(Slot(slot, f"/system.slice/docker-{identity(slot)}.scope", CONTAINER))
        else:
            uid = f"{i // 5:08x}-1111-2222-3333-{i % 5 // 2:012x}"
            found.append(Slot(slot, f"/kubepods/pod{uid}/{identity(slot)}", POD_CONTAINER))
    return found if containers else found[:1]


def rows(every: list[Slot], seconds: int) -> list[Row]:
    """Totals after so many seconds: what container i does goes up and down."""
    found = [Row(6, 0, [seconds * SECOND // 200], generation=0)]
    for slot in every:
        i = slot.slot
        done = seconds * (1 + i % 7) + (seconds // 5 * (i + seconds // 5)) % (20 + i % 3)
        found += [
            Row(0, i, [done * SECOND // 50, done * SECOND // 900, done * SECOND // 300]),
            Row(1, i, [done * SECOND // 200 if i % 3 == 0 else 0]),
            Row(2, i, [MEMORY + done * 100_000 * (1 + i % 4)]),
            Row(3, i, [0, done * 30_000]),
            Row(3, i, [1, done * 70_000 * (i % 2)]),
            Row(4, i, [done // 40]),
            Row(5, i, [done // 60 if i % 4 == 0 else 0]),
        ]
    return found


def segment(containers: int, seconds: int = 0, *, down: bool = False, at_ns: int = 0) -> Segment:
    """The snapshot after so many seconds; at_ns: when that is, by CLOCK_MONOTONIC."""
    every = slots(containers)
    return Segment(
        schema(*TABLES, collectors=COLLECTORS + [DOWN] * down, kernel='6.12.1 <test> & "more"'),
        every,
        rows(every, seconds),
        sequence=1 + seconds,
        ring_capacity=1 << 21,
        stale_after_ns=10**15,
        heartbeat=at_ns or time.monotonic_ns(),
    )


def live(store: Store, path: Path, containers: int, points: int, *, down: bool = False) -> None:
    """The store sees so many snapshots, five seconds apart, the last of them now."""
    now = time.monotonic_ns()
    for point in range(points):
        seconds = 5 * (points - 1 - point)
        made = segment(containers, 5 * point, down=down, at_ns=now - seconds * SECOND)
        made.write(path)
        assert store.refresh() == "live", store.cause
