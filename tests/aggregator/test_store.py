"""The store over the life of a segment."""

import asyncio
import gc
import time
from collections.abc import Callable, Set
from pathlib import Path

import pytest

from aggregator._native import lib
from aggregator.pods.resolver import standalone
from aggregator.segment.exposition import Labels
from aggregator.segment.owner import Owner
from aggregator.segment.store import NAMED_AT_ONCE, Store
from tests.segment import (
    CLOSED,
    HOST_SLOT,
    UNIT,
    Row,
    Segment,
    Slot,
    begin,
    column,
    schema,
    table,
)


class Clock:
    """CLOCK_MONOTONIC that a test may advance."""

    def __init__(self) -> None:
        self.ahead = 0

    def __call__(self) -> int:
        return time.monotonic_ns() + self.ahead


def make(slots: list[Slot], values: list[int], **options: int) -> Segment:
    rows = [Row(0, s.slot, [v], s.generation) for s, v in zip(slots, values, strict=True)]
    return Segment(schema(table("t", 1, [column("t_total")])), slots, rows, **options)


def text(store: Store) -> str:
    return b"".join(store.snapshot.render(lib.KPOD_TEXT)).decode() if store.snapshot else ""


def test_life_of_a_segment(tmp_path: Path) -> None:
    path, clock = tmp_path / "segment", Clock()
    store = Store(str(path), clock=clock, resolver=standalone)
    assert store.refresh() == "absent"
    make([HOST_SLOT], [1]).write(path)
    assert store.refresh() == "live"
    assert 't_total{scope="host"} 1' in text(store)
    clock.ahead = 6 * 10**9
    assert store.refresh() == "stale"
    assert (store.schema, text(store)) == (None, "")
    clock.ahead = 0
    assert store.refresh() == "live"
    assert 't_total{scope="host"} 1' in text(store), "shown again when it is back"
    make([HOST_SLOT], [2], generation=2).write(path)
    assert store.refresh() == "live", "replaced, and the new one read at once"
    assert 't_total{scope="host"} 2' in text(store)
    closed = make([HOST_SLOT], [3], generation=3, state=CLOSED)
    closed.write(path)
    assert store.refresh() == "closed"
    assert text(store) == ""
    path.unlink()
    assert store.refresh() in ("closed", "absent")
    make([HOST_SLOT], [4], generation=4).write(path)
    assert store.refresh() == "live"
    assert 't_total{scope="host"} 4' in text(store)


def rewrite(path: Path, segment: Segment) -> None:
    """A new snapshot in the same file."""
    with path.open("r+b") as f:
        f.write(segment.bytes)


def test_owners_are_resolved_once(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    asked: list[int] = []

    def resolver(owner: Owner) -> Labels:
        asked.append(owner.cgroup_id)
        return standalone(owner)

    store = Store(str(path), clock=time.monotonic_ns, resolver=resolver)
    slots = [HOST_SLOT, *(Slot(i, f"{i}.service", UNIT) for i in range(1, 6))]
    first = make(slots, [10, 11, 12, 13, 14, 15])
    first.write(path)
    store.refresh()
    assert sorted(asked) == [1, 1001, 1002, 1003, 1004, 1005]

    asked.clear()
    # 2 has ended and its slot is another's; 4 is gone; 7 is new; the others are as they were.
    later = [
        HOST_SLOT,
        slots[1],
        Slot(2, "new.service", UNIT, generation=2, cgroup_id=77),
        slots[3],
        slots[5],
        Slot(7, "7.service", UNIT),
    ]
    second = make(later, [20, 21, 22, 23, 25, 27])
    records = [begin(2, 5)] + [s.encode() for s in second.slots] + [r.encode() for r in second.rows]
    first.start, first.sequence = first.end, 2
    first.write_snapshot(records)
    rewrite(path, first)
    assert store.refresh() == "live"
    assert sorted(asked) == [77, 1007]
    shown = text(store)
    for name, value in (("1", 21), ("new", 22), ("3", 23), ("5", 25), ("7", 27)):
        line = next(x for x in shown.splitlines() if f'unit="{name}.service"' in x)
        assert line.endswith(f" {value}")
    assert "4.service" not in shown
    assert "2.service" not in shown


def test_a_snapshot_outlives_the_next(tmp_path: Path) -> None:
    """A slow client's is not changed under it."""
    path = tmp_path / "segment"
    make([HOST_SLOT], [1]).write(path)
    store = Store(str(path), clock=time.monotonic_ns, resolver=standalone)
    store.refresh()
    held = store.snapshot
    assert held
    pieces = held.render(lib.KPOD_TEXT)
    make([HOST_SLOT], [2], generation=2).write(path)
    store.refresh()
    gc.collect()
    assert b'{scope="host"} 1\n' in b"".join(pieces)
    assert '{scope="host"} 2\n' in text(store)


MANY = 3 * NAMED_AT_ONCE


def test_others_have_their_turn_while_many_are_named(tmp_path: Path) -> None:
    """And who comes meanwhile waits: nobody sees a snapshot that is half named."""
    slots = [Slot(i, f"{i}.service", UNIT) for i in range(1, MANY + 1)]
    path = tmp_path / "segment"
    make(slots, [1] * MANY).write(path)
    asked: list[int] = []

    def resolver(owner: Owner) -> Labels:
        asked.append(owner.cgroup_id)
        return standalone(owner)

    store = Store(str(path), clock=time.monotonic_ns, resolver=resolver)
    turns: list[int] = []

    async def scenario() -> None:
        first, second = (asyncio.create_task(store.update()) for _ in range(2))
        while not first.done():
            await asyncio.sleep(0)
            turns.append(len(asked))
            assert first.done() or not store.snapshot
            assert first.done() or not second.done()
        assert [await first, await second] == ["live", "live"]

    asyncio.run(scenario())
    assert len(set(turns)) >= 3
    assert sorted(asked) == [1000 + slot.slot for slot in slots]
    assert text(store).count(".service") == MANY


def test_naming_that_was_cancelled_forgets_no_change(tmp_path: Path) -> None:
    slots = [Slot(i, f"{i}.service", UNIT) for i in range(1, MANY + 1)]
    path = tmp_path / "segment"
    names = {"of": "old"}
    changes: list[set[int]] = []
    store = Store(
        str(path),
        clock=time.monotonic_ns,
        resolver=lambda owner: (("container", f"{names['of']}-{owner.cgroup_id}"),),
        changed=lambda present: set(present) & (changes.pop() if changes else set()),
    )
    segment = make(slots, [1] * MANY, ring_capacity=1 << 18)
    segment.write(path)

    def next_snapshot(sequence: int) -> None:
        records = [begin(sequence, 5)]
        records += [s.encode() for s in segment.slots] + [r.encode() for r in segment.rows]
        segment.start, segment.sequence = segment.end, sequence
        segment.write_snapshot(records)
        rewrite(path, segment)

    async def cancelled() -> None:
        task = asyncio.create_task(store.update())
        await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    store.refresh()
    names["of"] = "new"
    changes.append({1000 + slot.slot for slot in slots})
    next_snapshot(2)
    asyncio.run(cancelled())
    next_snapshot(3)
    assert store.refresh() == "live"
    assert text(store).count("new-") == MANY
    assert "old-" not in text(store)


@pytest.mark.parametrize("spoil", [lambda p: p.unlink(), lambda p: p.write_bytes(b"x" * 5000)])
def test_a_broken_file_takes_the_samples_away(
    tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    path = tmp_path / "segment"
    make([HOST_SLOT], [1]).write(path)
    store = Store(str(path), clock=time.monotonic_ns, resolver=standalone)
    assert store.refresh() == "live"
    spoil(path)
    store.refresh()
    # An unlinked file is still whole and its heartbeat decides; a spoiled one is not.
    assert (store.state == "live") == (not path.exists())
    assert bool(text(store)) == (store.state == "live")


def test_owners_without_a_name_are_hidden_until_they_have_one(tmp_path: Path) -> None:
    """Rows are not shown while the resolver has no labels, and labels change when it says so."""
    path = tmp_path / "segment"
    names: dict[int, str] = {1001: "one"}
    changed: set[int] = set()
    present: list[set[int]] = []

    def resolver(owner: Owner) -> Labels | None:
        name = names.get(owner.cgroup_id)
        return (("container", name),) if name else None

    def ask(cgroups: Set[int]) -> Set[int]:
        present.append(set(cgroups))
        return set(changed)

    store = Store(str(path), clock=time.monotonic_ns, resolver=resolver, changed=ask)
    slots = [Slot(i, f"{i}.service", UNIT) for i in range(1, 4)]
    segment = make(slots, [11, 12, 13])
    segment.write(path)

    def shown() -> list[str]:
        """After another snapshot."""
        segment.start, segment.sequence = segment.end, segment.sequence + 1
        records = [begin(segment.sequence, segment.sequence)]
        records += [s.encode() for s in slots] + [r.encode() for r in segment.rows]
        segment.write_snapshot(records)
        rewrite(path, segment)
        assert store.refresh() == "live"
        assert store.snapshot
        assert store.snapshot.native.hidden == 3 - sum(" 1" in x for x in text(store).splitlines())
        return [x for x in text(store).splitlines() if not x.startswith("#")]

    assert shown() == ['t_total{container="one"} 11']
    assert present[-1] == {1001, 1002, 1003}
    names[1003] = "three"
    assert shown() == ['t_total{container="one"} 11', 't_total{container="three"} 13']
    names[1001], names[1002] = "new", "two"
    assert 't_total{container="one"} 11' in shown(), "asked again only when it is said to"
    changed.add(1001)
    assert 't_total{container="new"} 11' in shown()
    # Hidden again, and no name of another's is taken for its own.
    del names[1001]
    assert shown() == ['t_total{container="two"} 12', 't_total{container="three"} 13']
    names[1001] = "two"
    assert len(set(shown())) == 3
    changed.clear()
    assert len(set(shown())) == 3


def test_a_table_may_be_hidden_whole(tmp_path: Path) -> None:
    """No header without a series; tables before and after it stay as they are."""
    path = tmp_path / "segment"
    slots = [HOST_SLOT, Slot(1, "1.service", UNIT)]
    tables = [table(f"t{i}", 1, [column(f"t{i}_total")]) for i in range(3)]
    rows = [Row(0, 0, [1], 1), Row(1, 1, [2], 1), Row(2, 0, [3], 1), Row(2, 1, [4], 1)]
    Segment(schema(*tables), slots, rows).write(path)
    store = Store(
        str(path),
        clock=time.monotonic_ns,
        resolver=lambda owner: None if owner.kind == UNIT else standalone(owner),
    )
    store.refresh()
    shown = text(store)
    assert 't0_total{scope="host"} 1' in shown
    assert "t1_total" not in shown
    assert 't2_total{scope="host"} 3' in shown
    assert len([x for x in shown.splitlines() if not x.startswith("#")]) == 2
