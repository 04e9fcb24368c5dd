"""A container that has ended is shown until every scraper has had its last values twice, no longer;
the oracle is which page each of the scrapers got."""

import asyncio
import http.client
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)

from aggregator._native import lib
from aggregator.http.scrapers import WINDOW_NS, Scrapers
from aggregator.http.server import Application
from aggregator.pods.kinds import POD_CONTAINER
from aggregator.pods.resolver import standalone
from aggregator.push.otlp import requests
from aggregator.segment.store import Limits, Store
from tests.aggregator.test_http import server
from tests.scrape import openmetrics_samples, protobuf_samples, text_samples
from tests.segment import HOST_SLOT, UNIT, Row, Segment, Slot, begin, column, schema, table


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


class World:
    """A segment in which b.service may have ended, and scrapers of it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "segment"
        self.clock = Clock()
        self.scrapers = Scrapers(self.clock)
        self.clock.now = WINDOW_NS  # who scraped the process before is long gone
        self.sequence = 0
        self.generation = 1
        self.value = 5
        self.died = 0
        store = Store(
            str(self.path),
            clock=time.monotonic_ns,
            resolver=standalone,
            seen=self.scrapers.seen,
        )
        self.application = Application(store, scrapers=self.scrapers)
        self.snapshot()

    def snapshot(self) -> None:
        """Another one, with the same rows if nothing was set meanwhile."""
        self.sequence += 1
        made = Segment(
            schema(table("t", 1, [column("t_total")])),
            [HOST_SLOT, Slot(1, "b.service", UNIT, died_ns=self.died)],
            [Row(0, 0, [self.sequence]), Row(0, 1, [self.value])],
            generation=self.generation,
            stale_after_ns=10**15,
        )
        made.start, made.sequence = 8 * self.sequence, self.sequence
        records = [begin(self.sequence, time.monotonic_ns(), self.sequence)]
        records += [s.encode() for s in made.slots] + [r.encode() for r in made.rows]
        made.write_snapshot(records)
        made.write(self.path)

    def page(self, client: int | None, new: bool = True, **headers: str) -> str:
        """One scrape, by default of a new snapshot."""
        if new:
            self.snapshot()
        body = bytearray()

        async def send(message: dict[str, Any]) -> None:
            body.extend(message.get("body", b""))

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/metrics",
            "client": ("127.0.0.1", client) if client else None,
            "headers": [(n.replace("_", "-").encode(), v.encode()) for n, v in headers.items()],
        }
        asyncio.run(self.application(scope, None, send))  # type: ignore[arg-type]
        return body.decode()

    def shows(self, client: int | None, **more: Any) -> bool:
        return "b.service" in self.page(client, **more)


def test_each_scraper_has_it_twice(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert [world.shows(c) for c in (1, 2, 1, 2)] == [True] * 4
    world.died = 7
    assert [world.shows(1) for _ in range(4)] == [True] * 4, "the other one has not been here"
    assert world.shows(2)
    assert world.shows(1)
    assert world.shows(2)
    assert [world.shows(c) for c in (1, 2, 3)] == [False] * 3
    assert "kpod_snapshot_ended_rows 1.0" in world.page(1)


def test_what_changes_after_its_end_is_shown_again(tmp_path: Path) -> None:
    """Pages that are written back later are still its own."""
    world = World(tmp_path)
    assert [world.shows(1) for _ in range(2)] == [True] * 2
    world.died = 7
    assert [world.shows(1) for _ in range(4)] == [True, True, False, False]
    world.value = 6
    assert [world.shows(1) for _ in range(4)] == [True, True, False, False]


def test_a_new_scraper_does_not_count_until_it_has_two(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert [world.shows(1) for _ in range(3)] == [True] * 3
    world.died = 7
    assert world.shows(2)
    assert [world.shows(1) for _ in range(4)] == [True] * 4
    assert world.shows(2)
    assert not world.shows(1)


@pytest.mark.parametrize(
    "who",
    [
        {"client": None},
        {"client": 9, "x_forwarded_for": "10.0.0.1"},
        {"client": 9, "via": "1.1 proxy"},
    ],
)
def test_who_cannot_be_recognized_keeps_everything(tmp_path: Path, who: dict[str, Any]) -> None:
    world = World(tmp_path)
    assert [world.shows(1) for _ in range(2)] == [True] * 2
    world.died = 7
    assert world.shows(**who)
    assert [world.shows(1) for _ in range(5)] == [True] * 5
    world.clock.now += WINDOW_NS - 1
    assert world.shows(1)
    world.clock.now += 1
    assert not world.shows(1)


def test_a_closed_connection_keeps_everything(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert [world.shows(c) for c in (1, 1, 2, 2)] == [True] * 4
    world.died = 7
    world.scrapers.closed(("127.0.0.1", 2))
    assert [world.shows(1) for _ in range(5)] == [True] * 5
    world.scrapers.closed(("127.0.0.1", 3))  # it never scraped
    world.clock.now += WINDOW_NS
    assert not world.shows(1)


def test_at_the_start_nobody_is_known(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.clock.now -= 1
    world.died = 7
    assert [world.shows(1) for _ in range(5)] == [True] * 5


def test_another_loader_counts_from_one(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert [world.shows(1) for _ in range(9)] == [True] * 9
    world.generation, world.sequence, world.died = 2, 0, 7
    assert [world.shows(1) for _ in range(4)] == [True, True, False, False]


def test_a_push_is_a_reader_too(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.scrapers.expect("http://receiver", "push")
    world.died = 7
    assert [world.shows(1) for _ in range(5)] == [True] * 5
    for _ in range(2):
        world.scrapers.served("http://receiver", "push", 1, world.sequence)
    assert not world.shows(1)


def test_over_real_connections(tmp_path: Path) -> None:
    """Two that are kept, then one that is closed after its scrape."""
    world = World(tmp_path)
    application = world.application

    with server(application, 20, on_close=world.scrapers.closed) as to:
        one, two = http.client.HTTPConnection(*to), http.client.HTTPConnection(*to)

        def shows(client: http.client.HTTPConnection) -> bool:
            world.snapshot()
            client.request("GET", "/metrics")
            return b"b.service" in client.getresponse().read()

        world.died = 7
        assert [shows(c) for c in (one, two, one, two)] == [True] * 4
        assert [shows(c) for c in (one, two)] == [False] * 2
        world.value = 6
        assert [shows(c) for c in (one, one, one)] == [True] * 3
        world.value = 7
        two.close()
        assert [shows(one) for _ in range(5)] == [True] * 5
        one.close()


@given(
    st.lists(
        st.tuples(st.sampled_from("scd"), st.integers(1, 3)) | st.tuples(st.just("t"), st.just(0)),
        max_size=60,
    )
)
def test_nothing_is_hidden_that_a_scraper_has_not_twice(steps: list[tuple[str, int]]) -> None:
    """s: a scrape; c: its connection closes and it comes again; d: a scrape by another connection
    of the same scraper, closed at once; t: time passes. The model follows scrapers, not
    connections: each that was here within the window must have two snapshots of that age."""
    clock = Clock()
    scrapers = Scrapers(clock)
    port = {n: n for n in range(1, 4)}
    had: dict[int, list[tuple[int, int]]] = {}
    before = 0
    for sequence, (what, who) in enumerate(steps, 1):
        if what == "t":
            clock.now += WINDOW_NS // 2
        elif what == "c":
            scrapers.closed(port[who])
            port[who] += 10
        else:
            client = port[who] if what == "s" else -who
            scrapers.served(client, "/metrics", 1, sequence)
            had.setdefault(who, []).append((clock.now, sequence))
            if what == "d":
                scrapers.closed(client)
        seen = scrapers.seen(1)
        for whole in had.values() if seen > before else ():
            if clock.now - whole[-1][0] < WINDOW_NS:
                assert sum(s >= seen for _, s in whole) >= 2
        assert seen >= before
        before = seen


BUCKETS = 98
H = {"schema": 2, "first_exponent": -20, "buckets": BUCKETS, "sum": 3, "sum_words": 1}


def test_an_ended_container_has_no_series_of_zeros(tmp_path: Path) -> None:
    """They cannot move any more. Gauges, and zeros of what lives, stay: a counter that appeared at
    its first event would hide it from rate()."""
    columns = [
        column("a_total"),
        column("b_total", word=1, labels={"k": "x"}),
        column("g", "gauge", word=2),
        column("h_seconds", "histogram", word=4, decimals=9, **H),
        column("never_total", word=1),
    ]
    ended = {"died_ns": 9}
    slots = [
        Slot(1, "live.service", UNIT),
        Slot(2, "idle.service", UNIT, **ended),
        Slot(3, "busy.service", UNIT, **ended),
    ]
    zeros = [0] * BUCKETS
    rows = [
        Row(0, 1, [0, 0, 0, 0, *zeros]),
        Row(0, 2, [0, 0, 0, 0, *zeros]),
        Row(0, 3, [3, 0, 0, 9, *zeros[1:], 1]),
    ]
    path = tmp_path / "segment"
    Segment(schema(table("t", 4 + BUCKETS, columns)), slots, rows).write(path)
    store = Store(
        str(path),
        clock=time.monotonic_ns,
        resolver=lambda owner: (("who", owner.path.removesuffix(".service")),),
        created="all",
    )
    assert store.refresh() == "live"
    snapshot = store.snapshot
    assert snapshot
    text, openmetrics, protobuf = (
        b"".join(snapshot.render(f))
        for f in (lib.KPOD_TEXT, lib.KPOD_OPENMETRICS, lib.KPOD_PROTOBUF)
    )
    names = {
        "live": {"a_total", "b_total", "g", "h_seconds", "never_total"},
        "idle": {"g"},
        "busy": {"a_total", "g", "h_seconds"},
    }
    for found in (
        text_samples(text.decode()),
        openmetrics_samples(openmetrics.decode() + "# EOF\n"),
        protobuf_samples(protobuf),
    ):
        for who, wanted in names.items():
            series = [n for n, labels in found if ("who", who) in labels]
            base = {
                n.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
                for n in series
            }
            created = {n for n in base if n.endswith("_created")}
            assert base - created == wanted
            if created:
                kinds = {n.removesuffix("_total") + "_created" for n in wanted - {"g"}}
                assert created == kinds
            assert series.count("h_seconds_bucket") == 13 * ("h_seconds" in wanted)
    (body,) = requests(snapshot)
    pushed = {
        (
            next(a.value.string_value for a in r.resource.attributes if a.key == "who"),
            m.name,
        )
        for r in ExportMetricsServiceRequest.FromString(body).resource_metrics
        for m in r.scope_metrics[0].metrics
    }
    assert pushed == {(who, name) for who, of in names.items() for name in of}


def test_a_pod_that_starts_again_and_again_shows_few_that_ended(tmp_path: Path) -> None:
    """Those that ended last, and the others when the scraper has had these twice; other pods'
    have nothing to do with it, and what lives is shown.
    """
    path = tmp_path / "segment"
    clock = Clock()
    scrapers = Scrapers(clock)
    clock.now = WINDOW_NS
    store = Store(
        str(path),
        clock=time.monotonic_ns,
        resolver=standalone,
        seen=scrapers.seen,
        limits=Limits(ended_per_pod=3),
    )
    made: Segment | None = None
    slots = [HOST_SLOT]
    for pod, count in (("1", 8), ("2", 2)):
        uid = f"0000000{pod}-1111-2222-3333-444444444444"
        for i in range(count + 1):
            number = len(slots)
            where = f"/kubepods/pod{uid}/{number:064x}"
            died = 100 + i if i < count else 0
            slots.append(Slot(number, where, POD_CONTAINER, cgroup_id=number, died_ns=died))

    def page() -> tuple[set[int], int]:
        """Slots that are shown, and how many wait."""
        nonlocal made
        if made:
            made.start, made.sequence = made.end, made.sequence + 1
        else:
            document = schema(table("t", 1, [column("t_total")]))
            made = Segment(document, stale_after_ns=10**15, ring_capacity=1 << 20)
        rows = [Row(0, s.slot, [100 + s.slot]) for s in slots]
        records = [begin(made.sequence, time.monotonic_ns(), made.sequence)]
        records += [s.encode() for s in slots] + [r.encode() for r in rows]
        made.write_snapshot(records)
        made.write(path)
        store.refresh()
        assert store.snapshot
        text = b"".join(store.snapshot.render(lib.KPOD_TEXT)).decode()
        scrapers.served("a", "/metrics", store.snapshot.generation, made.sequence)
        shown = {round(value) - 100 for value in text_samples(text).values()}
        return shown - {0}, int(store.snapshot.native.waiting)

    live, others = {9, 12}, {10, 11}
    assert page() == ({6, 7, 8} | live | others, 5)
    assert page() == ({6, 7, 8} | live | others, 5)
    assert page() == ({3, 4, 5} | live, 2)
    assert page() == ({3, 4, 5} | live, 2)
    assert page() == ({1, 2} | live, 0)
    assert page() == ({1, 2} | live, 0)
    assert page() == (live, 0)
