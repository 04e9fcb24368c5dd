"""A scrape asks the loader for a snapshot, waits a little, and says how old what it shows is."""

import asyncio
import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aggregator.pods.resolver import standalone
from aggregator.segment.store import DOORBELL, WAIT_NS, Store
from tests.segment import HOST_SLOT, Row, Segment, column, schema, table

MS = 10**6
IN_OPEN = 0x20


def segment(value: int, sequence: int, min_interval_ms: int = 100) -> Segment:
    document = schema(
        table("t", 1, [column("t_total")]),
        loader={"version": "9.9", "min_interval_ns": min_interval_ms * MS},
    )
    return Segment(
        document, [HOST_SLOT], [Row(0, 0, [value])], sequence=sequence, start=64 * sequence
    )


def store(path: Path) -> Store:
    return Store(str(path), clock=time.monotonic_ns, resolver=standalone)


@contextmanager
def answering(path: Path, delay: float = 0.0) -> Iterator[list[int]]:
    """A loader that hears the doorbell, and writes a snapshot for each ring it reads."""
    libc = ctypes.CDLL(None, use_errno=True)
    bell = path.with_name(path.name + DOORBELL)
    bell.touch(0o444)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    assert libc.inotify_add_watch(fd, os.fsencode(bell), IN_OPEN) >= 0
    rings: list[int] = []
    stop = threading.Event()

    def run() -> None:
        while os.read(fd, 4096) and not stop.is_set():
            rings.append(time.monotonic_ns())
            time.sleep(delay)
            with path.open("r+b") as f:
                f.write(segment(100 + len(rings), 1 + len(rings)).bytes)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield rings
    finally:
        stop.set()
        bell.open().close()
        thread.join(20)
        os.close(fd)


def shown(followed: Store) -> int:
    assert followed.snapshot
    return int(followed.snapshot.native.rows[0].words[0])


def test_a_scrape_gets_a_snapshot_of_its_own(tmp_path: Path) -> None:
    path = segment(1, 1).write(tmp_path / "segment")
    followed = store(path)

    async def scrapes() -> None:
        assert await followed.fresh() == "live"
        assert shown(followed) == 1, "it is new enough"
        await asyncio.sleep(0.15)
        asked = time.monotonic_ns()
        await followed.fresh()
        assert shown(followed) == 101
        assert followed.age_ns is not None
        assert followed.age_ns < time.monotonic_ns() - asked
        await followed.fresh()
        assert shown(followed) == 101, "two within the least interval see one snapshot"
        await asyncio.sleep(0.15)
        await asyncio.gather(*(followed.fresh() for _ in range(20)))
        assert shown(followed) == 102, "who asks at once shares"

    with answering(path) as rings:
        asyncio.run(scrapes())
        assert len(rings) == 2
    assert followed.served_old == {"timeout": 0, "no_doorbell": 0}


def test_a_loader_that_does_not_answer_costs_a_quarter_of_a_second(tmp_path: Path) -> None:
    path = segment(1, 1, 1).write(tmp_path / "segment")
    followed = store(path)

    async def scrapes() -> None:
        await followed.update()
        await asyncio.sleep(0.01)
        begun = time.monotonic_ns()
        await asyncio.gather(*(followed.fresh() for _ in range(20)))
        took = time.monotonic_ns() - begun
        assert WAIT_NS <= took < 3 * WAIT_NS, "they wait together"
        assert shown(followed) == 1

    with answering(path, delay=2):
        asyncio.run(scrapes())
    assert followed.served_old == {"timeout": 20, "no_doorbell": 0}


@pytest.mark.parametrize("min_interval_ms", [0, 1])
def test_without_a_doorbell_nobody_waits(tmp_path: Path, min_interval_ms: int) -> None:
    path = segment(1, 1, min_interval_ms).write(tmp_path / "segment")
    followed = store(path)

    async def scrape() -> None:
        await followed.update()
        await asyncio.sleep(0.01)
        await asyncio.wait_for(followed.fresh(), WAIT_NS / 2e9)

    asyncio.run(scrape())
    # A loader that says nothing of it is an older one, and has none.
    assert followed.served_old == {"timeout": 0, "no_doorbell": min_interval_ms}
