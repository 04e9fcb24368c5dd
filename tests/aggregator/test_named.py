"""Keys that name owners: who disturbs whom, as samples, on the page at / and in /api/v1/pairs."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from aggregator.http.pairs import COLUMN, STEP_NS
from aggregator.http.server import Application
from aggregator.pods.resolver import standalone
from aggregator.push.otlp import key_values, requests
from aggregator.segment.exposition import Labels
from aggregator.segment.owner import Owner
from aggregator.segment.store import Limits, Store
from tests.aggregator.test_formats import TEXT, check_same, scrapes
from tests.aggregator.test_server import get
from tests.segment import HOST_SLOT, POD_CONTAINER, UNIT, Row, Segment, Slot, column, schema, table

SECOND = 10**9
OTHER, EARLIER = 2**64 - 1, 2**64 - 2
KEY = {"label": "culprit", "values": ["other", "earlier"], "words": 0, "owner": True}
PAIRS = table("cpu_pairs", 1, [column(COLUMN, decimals=9)], keys=[KEY])


def word(slot: int, generation: int = 1) -> int:
    return slot | generation << 32


def slots(kind: int = UNIT) -> list[Slot]:
    names = (f"/system.slice/{name}.service" for name in ("a", "b", "c"))
    return [HOST_SLOT, *(Slot(1 + i, name, kind) for i, name in enumerate(names))]


def made(rows: list[Row], every: list[Slot] | None = None, **more: Any) -> Segment:
    return Segment(schema(PAIRS), every or slots(), rows, stale_after_ns=10**15, **more)


def shown(path: Path, segment: Segment, **options: Any) -> dict[tuple[str, str], float]:
    """By victim and culprit: unit, or scope. The same in each format."""
    found = {}
    for (name, labels), value in check_same(scrapes(path, segment, **options)).items():
        if name == COLUMN:
            known = dict(labels)
            victim = known.get("unit") or known["scope"]
            culprit = known.get("culprit_unit") or known["culprit_scope"]
            found[victim, culprit] = value
    return found


def test_both_are_named_in_each_format(tmp_path: Path) -> None:
    rows = [
        Row(0, 0, [word(1), SECOND]),
        Row(0, 1, [word(2), 2 * SECOND]),
        Row(0, 1, [word(3), 3 * SECOND]),
        Row(0, 1, [OTHER, 4 * SECOND]),
        Row(0, 1, [EARLIER, 5 * SECOND]),
    ]
    assert shown(tmp_path, made(rows)) == {
        ("host", "a.service"): 1,
        ("a.service", "b.service"): 2,
        ("a.service", "c.service"): 3,
        ("a.service", "other"): 4,
        ("a.service", "earlier"): 5,
    }
    text = scrapes(tmp_path, made(rows[1:2]), node="n1")[TEXT].decode()
    line = next(line for line in text.splitlines() if line.startswith(f"{COLUMN}{{"))
    assert line == (
        f'{COLUMN}{{culprit_scope="unit",culprit_unit="b.service",culprit_cgroup_id="1002",'
        'scope="unit",unit="a.service",cgroup_id="1001",node="n1"} 2'
    )


@pytest.mark.parametrize("culprit", [word(2, 2), word(2, 0), word(9), EARLIER - 1, 2])
def test_a_slot_of_another_generation_names_nobody(tmp_path: Path, culprit: int) -> None:
    rows = [Row(0, 1, [word(3), SECOND]), Row(0, 1, [culprit, SECOND])]
    assert shown(tmp_path, made(rows)) == {("a.service", "c.service"): 1}


def test_who_is_not_shown_is_not_named(tmp_path: Path) -> None:
    def resolver(owner: Owner) -> Labels | None:
        return None if "b.service" in owner.path else standalone(owner)

    rows = [Row(0, 1, [word(2), SECOND]), Row(0, 1, [word(3), SECOND]), Row(0, 2, [word(3), 1])]
    found = shown(tmp_path, made(rows), resolver=resolver)
    assert found == {("a.service", "c.service"): 1}


def test_names_that_come_later(tmp_path: Path) -> None:
    """A culprit has its new name, or one at all, in the next snapshot; and keeps it."""
    path = tmp_path / "segment"
    names: dict[int, str] = {}
    stale: set[int] = set()

    def resolver(owner: Owner) -> Labels | None:
        return (("pod", names[owner.cgroup_id]),) if owner.cgroup_id in names else None

    def take(sequence: int) -> list[str]:
        made([Row(0, 1, [word(2), SECOND])], slots(POD_CONTAINER), sequence=sequence).write(path)
        assert store.refresh() == "live"
        assert store.snapshot
        text = b"".join(store.snapshot.render(TEXT)).decode()
        return [line.partition("{")[2] for line in text.splitlines() if line.startswith(COLUMN)]

    store = Store(
        str(path),
        clock=time.monotonic_ns,
        resolver=resolver,
        changed=lambda _: frozenset(stale),
        node="n1",
    )
    names[1001] = "a"
    assert take(1) == []
    names[1002] = "b"
    assert take(2) == ['culprit_pod="b",pod="a",node="n1"} 1']
    names.update({1001: "x", 1002: "y"})
    assert take(3) == ['culprit_pod="b",pod="a",node="n1"} 1']
    stale.update({1001, 1002})
    assert take(4) == ['culprit_pod="y",pod="x",node="n1"} 1']
    # Asked once more, with the same answer: its own name is nobody else's.
    assert take(5) == ['culprit_pod="y",pod="x",node="n1"} 1']


def test_two_that_are_called_alike_are_told_apart(tmp_path: Path) -> None:
    """Labels of pods are left out on rows of others, and may be all that tells two apart."""

    def resolver(owner: Owner) -> Labels:
        return (("pod", "same"), ("label_app", owner.path))

    rows = [Row(0, 1, [word(2), SECOND]), Row(0, 1, [word(3), SECOND])]
    found = check_same(scrapes(tmp_path, made(rows), resolver=resolver))
    assert len([name for name, _ in found if name == COLUMN]) == 2


def test_a_loader_of_before_is_replaced(tmp_path: Path) -> None:
    """It did not say who disturbs whom, so nobody was named for that."""
    path = tmp_path / "segment"
    store = Store(str(path), clock=time.monotonic_ns, resolver=standalone)
    old = table("cpu", 1, [column("t_total")])
    Segment(schema(old), slots(), [Row(0, 1, [1])], stale_after_ns=10**15).write(path)
    assert store.refresh() == "live"
    made([Row(0, 1, [word(2), SECOND])], generation=2).write(path)
    assert store.refresh() == "live"
    assert store.snapshot
    assert b'culprit_unit="b.service"' in b"".join(store.snapshot.render(TEXT))


def test_limits_count_the_names(tmp_path: Path) -> None:
    """A page that would be too long without the culprit's labels is too long with them."""
    long = [HOST_SLOT, *(Slot(i, f"/{'x' * 240}{i}.service", UNIT) for i in range(1, 40))]
    rows = [Row(0, v, [word(c), SECOND]) for v in range(1, 40) for c in range(1, 40) if v != c]
    limits = Limits(page=200_000)
    text = scrapes(tmp_path, made(rows, long, ring_capacity=1 << 20), limits=limits)[TEXT]
    assert 150_000 <= len(text) <= 200_000


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ([{"label": "x", "values": [], "words": 0}, KEY], "is not its first"),
        ([KEY | {"words": 2}], "is not its first, a number"),
        ([KEY, {"label": "culprit_pod", "values": [], "words": 0}], "begins with culprit_"),
    ],
)
def test_schema_refuses(tmp_path: Path, keys: list[dict[str, Any]], says: str) -> None:
    path = tmp_path / "segment"
    made_ = table("t", 1, [column("t_total")], keys=keys)
    Segment(schema(made_), [HOST_SLOT], [], stale_after_ns=10**15).write(path)
    store = Store(str(path), clock=time.monotonic_ns, resolver=standalone)
    assert store.refresh() == "incompatible"
    assert says in store.cause


def test_push_names_both(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    made([Row(0, 1, [word(2), SECOND]), Row(0, 1, [OTHER, SECOND])]).write(path)
    store = Store(str(path), clock=time.monotonic_ns, resolver=standalone)
    store.refresh()
    assert store.snapshot
    body = b"".join(requests(store.snapshot))
    for pair in key_values([("culprit_unit", "b.service"), ("culprit_scope", "other")]):
        assert pair.SerializeToString() in body


def asked(rows: list[list[Row]], path: Path, every: list[Slot] | None = None) -> tuple[str, Any]:
    """The page and the API after these snapshots, 20 s apart, the last of them now."""
    store = Store(str(path / "segment"), clock=time.monotonic_ns, resolver=standalone)
    app = Application(store)
    now = time.monotonic_ns()
    for i, each in enumerate(rows):
        at = now - (len(rows) - 1 - i) * 20 * SECOND
        made(each, every, sequence=1 + i, heartbeat=at).write(path / "segment")
        assert store.refresh() == "live"
    answer = get(app, "/api/v1/pairs")
    assert answer[0] == 200
    return get(app, "/")[2], json.loads(answer[2])


def test_page_and_api_have_rates_the_worst_first(tmp_path: Path) -> None:
    assert STEP_NS < 20 * SECOND
    rows = [
        [
            Row(0, 1, [word(2), (1 + 2 * i) * SECOND]),
            Row(0, 1, [word(3), 7 * SECOND]),  # not since
            Row(0, 2, [word(3), 8 * i * SECOND]),
            Row(0, 3, [OTHER, i * SECOND]),
            Row(0, 3, [EARLIER, 9 * i * SECOND]),
        ]
        for i in range(3)
    ]
    body, answer = asked(rows, tmp_path)
    assert answer["seconds"] == 40
    got = [(p["victim"]["name"], p["culprit"]["name"], p["cpu_wait"]) for p in answer["pairs"]]
    assert got == [
        ("b.service", "c.service", 0.4),
        ("a.service", "b.service", 0.1),
        ("c.service", "others, together", 0.05),
    ]
    assert answer["pairs"][2]["culprit"]["scope"] == "other"
    part = body[body.index("Who disturbs whom") :]
    assert part.index("400 ms/s") < part.index("100 ms/s") < part.index("50 ms/s")
    assert part.index("b.service") < part.index("c.service") < part.index("400 ms/s")


def test_containers_of_a_pod_are_one(tmp_path: Path) -> None:
    """And what they do to one another is their own affair."""
    pod = "/kubepods/pod11111111-1111-1111-1111-11111111111"
    every = [
        HOST_SLOT,
        *(Slot(1 + i, f"{pod}{i // 2}/{i:064x}", POD_CONTAINER) for i in range(4)),
    ]
    rows = [
        [
            Row(0, 1, [word(2), i * SECOND]),
            Row(0, 1, [word(3), i * SECOND]),
            Row(0, 2, [word(4), i * SECOND]),
        ]
        for i in range(2)
    ]
    _, answer = asked(rows, tmp_path, every)
    (pair,) = answer["pairs"]
    assert pair["cpu_wait"] == 0.1
    assert (pair["victim"]["id"], pair["culprit"]["id"]) == (f"pod:{pod[13:]}0", f"pod:{pod[13:]}1")


def test_page_of_a_loader_that_does_not_tell(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    Segment(schema(table("t", 1, [column("t_total")])), slots(), [], stale_after_ns=10**15).write(
        path
    )
    app = Application(Store(str(path), clock=time.monotonic_ns, resolver=standalone))
    assert "disturbs" not in get(app, "/")[2]
    assert json.loads(get(app, "/api/v1/pairs")[2])["pairs"] == []
    made([], generation=2).write(path)
    assert "Nobody, as far as is known" in get(app, "/")[2]
