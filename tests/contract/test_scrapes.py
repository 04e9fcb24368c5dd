"""Scrapes while the C writer writes as fast as it can, and over the lives of two loaders."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest

from aggregator.http.server import Application
from aggregator.pods.resolver import standalone
from aggregator.segment.exposition import Presentation
from aggregator.segment.formats import PROTOBUF_TYPE
from aggregator.segment.store import Store
from tests.scrape import native_buckets, openmetrics_samples, protobuf_families, protobuf_samples
from tests.segment import column, schema, table

ROOT = Path(__file__).parent.parent.parent
SLOTS, BUCKETS = 12, 98
WORDS = BUCKETS + 1
ALL = sum(range(2, WORDS + 1))  # of the words 1 to BUCKETS in snapshot 1
EVERY_BOUND = [Presentation(classic=True, exponents=tuple(x / 4 for x in range(-80, 17)))]
RESPONSES = 10_000
CLIENTS = 8

ACCEPT = ("text/plain", "application/openmetrics-text", PROTOBUF_TYPE)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("writer") / "writer"
    sources = [f"{ROOT}/shared/{name}.c" for name in ("abi", "crc32c", "writer")]
    flags = ["-O2", "-std=gnu11", "-Wall", "-Wextra", "-Werror"]
    command = ["cc", *flags, "-o", str(program), f"{ROOT}/tests/contract/writer.c", *sources]
    subprocess.run(command, check=True)
    return program


@contextmanager
def writing(program: Path, directory: Path) -> Iterator[None]:
    histogram = column(
        "h_seconds",
        "histogram",
        word=1,
        decimals=9,
        schema=2,
        first_exponent=-20,
        buckets=BUCKETS,
        sum=0,
        sum_words=1,
    )
    (directory / "schema").write_bytes(msgpack.packb(schema(table("t", WORDS, [histogram]))))
    command: list[str | Path] = [
        program,
        directory / "segment",
        directory / "schema",
        str(SLOTS),
        str(WORDS),
    ]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        while not (directory / "segment").exists():
            assert process.poll() is None
            time.sleep(0.01)
        yield
    finally:
        process.communicate(timeout=60)
    assert process.returncode == 0


async def scrape(application: Application, accept: str) -> bytes:
    body = bytearray()

    async def send(message: dict[str, Any]) -> None:
        assert message.get("status", 200) == 200
        body.extend(message.get("body", b""))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    headers = [(b"accept", accept.encode())]
    scope = {"type": "http", "method": "GET", "path": "/metrics", "headers": headers}
    await application(scope, receive, send)
    return bytes(body)


def snapshots_in(body: bytes, accept: str) -> set[int]:
    """The numbers of all snapshots that the histograms' values are from."""
    found: list[tuple[int, int]] = []  # (count, nanoseconds of the sum)
    if accept == PROTOBUF_TYPE:
        (family,) = (f for f in protobuf_families(body) if f.name == "h_seconds")
        for metric in family.metric:
            h = metric.histogram
            assert h.zero_count + sum(native_buckets(h).values()) == h.sample_count
            assert h.bucket[-1].cumulative_count <= h.sample_count
            found.append((h.sample_count, round(h.sample_sum * 1e9)))
    else:
        lines = body.split(b"\n")
        infinite, counts, sums = (
            [line.rsplit(b" ")[-1] for line in lines if line.startswith(start)]
            for start in (b'h_seconds_bucket{le="+Inf"', b"h_seconds_count{", b"h_seconds_sum{")
        )
        assert infinite == counts
        found = [(int(c), round(float(s) * 1e9)) for c, s in zip(counts, sums, strict=True)]
    assert len(found) == SLOTS
    assert all(count == n * ALL for count, n in found)
    return {n for _, n in found}


def test_a_scrape_sees_one_snapshot_whole(tmpfs: Path, writer: Path) -> None:
    """And none is older than what was served before it began."""
    newest, seen = 0, set()

    async def client(application: Application, number: int) -> None:
        nonlocal newest
        for i in range(RESPONSES // CLIENTS):
            before, accept = newest, ACCEPT[(i + number) % 3]
            body = await scrape(application, accept)
            (snapshot,) = snapshots_in(body, accept)
            assert snapshot >= before
            newest = max(newest, snapshot)
            seen.add(snapshot)

    async def clients() -> None:
        store = Store(
            str(tmpfs / "segment"),
            clock=time.monotonic_ns,
            resolver=standalone,
            presentations=EVERY_BOUND,
        )
        application = Application(store)
        await asyncio.gather(*(client(application, n) for n in range(CLIENTS)))
        print(f"{len(seen)} snapshots of {newest} seen, {store.laps} laps")

    with writing(writer, tmpfs):
        asyncio.run(clients())
    assert len(seen) > RESPONSES / 100


def test_a_new_loader_is_a_reset(tmpfs: Path, writer: Path) -> None:
    store = Store(
        str(tmpfs / "segment"), clock=time.monotonic_ns, resolver=standalone, created="all"
    )
    application = Application(store)
    lives = []
    for _ in range(2):
        with writing(writer, tmpfs):
            openmetrics = openmetrics_samples(asyncio.run(scrape(application, ACCEPT[1])).decode())
            protobuf = protobuf_samples(asyncio.run(scrape(application, ACCEPT[2])))
            created = {v for (name, _), v in openmetrics.items() if name == "h_seconds_created"}
            assert created == {v for (name, _), v in protobuf.items() if name.endswith("_created")}
            assert len(created) == 1
            assert abs(created.pop() - time.time()) < 60
            assert protobuf["kpod_loader_up", frozenset()] == 1
            lives.append(protobuf)
        gone = protobuf_samples(asyncio.run(scrape(application, ACCEPT[2])))
        assert gone["kpod_loader_up", frozenset()] == 0
        assert not [name for name, _ in gone if name.startswith("h_seconds")]
    series = (
        "h_seconds_created",
        frozenset({("scope", "unit"), ("unit", "1.service")} | {("cgroup_id", "101")}),
    )
    assert lives[0][series] < lives[1][series]
