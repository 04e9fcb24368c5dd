"""Who talks to whom: on the page, in /api/v1/edges and as a graph. Nobody is named wrongly."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from aggregator.http.edges import BYTES, OPEN, OPENED, Edge, Edges, graph
from aggregator.http.pairs import STEP_NS
from aggregator.http.rows import Rows
from aggregator.http.server import Application
from aggregator.pods.addresses import holder, holders
from aggregator.pods.resolver import standalone
from aggregator.pods.table import Pod, decode_pod
from aggregator.segment.history import History
from aggregator.segment.store import Store
from tests.aggregator.test_server import get
from tests.segment import HOST_SLOT, POD_CONTAINER, UNIT, Row, Segment, Slot, column, schema, table

SECOND = 10**9
CLIENT, SERVER = 0, 1
COLUMNS = [
    column(BYTES, labels={"direction": "sent"}),
    column(BYTES, word=1, labels={"direction": "received"}),
    column(OPENED, word=2),
    column(OPEN, "gauge", word=3),
]
KEYS = [
    {"label": "side", "values": ["client", "server"], "words": 0},
    {"label": "peer_address", "values": [], "words": 5},
    {"label": "server_port", "values": [""], "words": 0},
]
PEERS = table("tcp_peers", 4, [{**c, "help": "Help."} for c in COLUMNS], keys=KEYS)


def row(slot: int, side: int, address: str, port: int, *values: int, generation: int = 1) -> Row:
    text = address.encode().ljust(40, b"\0")
    words = [int.from_bytes(text[i : i + 8], "little") for i in range(0, 40, 8)]
    return Row(0, slot, [side, *words, port, *values], generation)


def uid(number: int) -> str:
    return f"11111111-1111-1111-1111-{number:012}"


def pod(number: int, *ips: str, host: str = "192.0.2.1", phase: str = "Running") -> Pod:
    status = {"phase": phase, "hostIP": host, "podIP": ips[0], "podIPs": [{"ip": i} for i in ips]}
    meta = {"uid": uid(number), "name": f"pod-{number}", "namespace": "default"}
    return decode_pod(json.dumps({"metadata": meta, "status": status}).encode())


def slots(*numbers: int) -> list[Slot]:
    """A container of each pod, in the slot of its number."""
    kinds = (Slot(n, f"/kubepods/pod{uid(n)}/{n:064x}", POD_CONTAINER) for n in numbers)
    return [HOST_SLOT, *kinds]


class Node:
    """Snapshots 20 s apart, and the pods that are there when they are taken."""

    def __init__(self, path: Path) -> None:
        assert STEP_NS < 20 * SECOND
        self.path = path / "segment"
        self.store = Store(str(self.path), clock=time.monotonic_ns, resolver=standalone)
        self.pods: list[Pod] = []
        self.edges = Edges(Rows(History(time.monotonic_ns)), lambda: self.pods)
        self.start, self.sequence = time.monotonic_ns() - 3600 * SECOND, 0

    def take(self, rows: list[Row], every: list[Slot], pods: list[Pod]) -> None:
        self.pods = pods
        self.sequence += 1
        at = self.start + self.sequence * 20 * SECOND
        made = Segment(
            schema(PEERS), every, rows, stale_after_ns=10**15, sequence=self.sequence, heartbeat=at
        )
        made.write(self.path)
        assert self.store.refresh() == "live"
        assert self.store.snapshot
        self.edges.offer(self.store.snapshot)

    def told(self) -> list[Edge]:
        found = self.edges.of(self.store.snapshot)
        assert found is not None
        return found

    def sent(self) -> dict[tuple[str, str, str], int]:
        """By who, the scope of the other end and its name or address."""
        return {
            (e.who.name, e.peer.kind, e.peer.name or e.address): e.sent
            for e in self.told()
            if e.moved
        }


def test_both_ends_name_each_other(tmp_path: Path) -> None:
    node, both = Node(tmp_path), [pod(1, "10.0.0.1", "fd00::1"), pod(2, "10.0.0.2", "fd00::2")]
    for i in range(3):
        rows = [
            row(1, CLIENT, "10.0.0.2", 80, 100 * i, 900 * i, i, 1),
            row(2, SERVER, "10.0.0.1", 80, 900 * i, 100 * i, i, 1),
            row(1, CLIENT, "fd00::2", 81, 7 * i, 0, 0, 0),
            row(1, CLIENT, "127.0.0.1", 82, 5 * i, 0, 0, 0),
            row(1, CLIENT, "192.0.2.1", 83, 4 * i, 0, 0, 0),
            row(1, CLIENT, "10.96.0.10", 84, 3 * i, 0, 0, 0),
            row(1, CLIENT, "other", 0, 2 * i, 0, 0, 0),
        ]
        node.take(rows, slots(1, 2), both)
    assert node.edges.seconds == 40
    first, second, *_ = node.told()
    assert (first.who.name, first.side, first.port, first.peer.name) == (
        f"pod {uid(1)}", "client", 80, "pod-2",
    )  # fmt: skip
    assert (first.sent, first.received, first.opened, first.open) == (200, 1800, 2, 1)
    assert (second.side, second.peer.name, second.sent) == ("server", "pod-1", 1800)
    a, b = f"pod {uid(1)}", f"pod {uid(2)}"
    found = {(e.who.name, e.peer.kind, e.port, e.sent) for e in node.told()}
    assert found == {
        (a, "pod", 80, 200),
        (b, "pod", 80, 1800),
        (a, "pod", 81, 14),
        (a, "loopback", 82, 10),
        (a, "node", 83, 8),
        (a, "outside", 84, 6),
        (a, "other", 0, 4),
    }


def test_address_that_another_pod_gets_names_neither_wrongly(tmp_path: Path) -> None:
    """What was moved in between is nobody's for sure; the old pod's flows stay the old pod's."""
    node, one = Node(tmp_path), pod(1, "10.0.0.1")
    old, new = pod(2, "10.0.0.2"), pod(3, "10.0.0.2")

    def take(sent: int, number: int, *pods: Pod) -> None:
        node.take([row(1, CLIENT, "10.0.0.2", 80, sent, 0, 1, 1)], slots(1, number), [one, *pods])

    take(0, 2, old)
    take(100, 2, old)
    take(1100, 3, new)  # of this nobody knows which had it
    take(11_100, 3, new)
    who = f"pod {uid(1)}"
    assert node.sent() == {
        (who, "pod", "pod-2"): 100,
        (who, "unsure", "10.0.0.2"): 1000,
        (who, "pod", "pod-3"): 10_000,
    }


@pytest.mark.parametrize("case", ["cgroup", "finished", "two", "late"])
def test_who_may_have_given_its_address_back_is_not_named(tmp_path: Path, case: str) -> None:
    """The API tells late: a pod is listed whose sandbox, and so whose address, is gone."""
    node, one, old = Node(tmp_path), pod(1, "10.0.0.1"), pod(2, "10.0.0.2")
    ended = pod(2, "10.0.0.2", phase="Succeeded")
    rows = [[row(1, CLIENT, "10.0.0.2", 80, sent, 0, 1, 1)] for sent in (0, 100)]
    node.take(rows[0], slots(1, 2), [one, old] if case != "late" else [one])
    every = slots(1) if case == "cgroup" else slots(1, 2, 3) if case == "two" else slots(1, 2)
    after = {"cgroup": [old], "finished": [ended], "two": [old, pod(3, "10.0.0.2")], "late": [old]}
    node.take(rows[1], every, [one, *after[case]])
    assert node.sent() == {(f"pod {uid(1)}", "unsure", "10.0.0.2"): 100}


def test_pods_of_the_nodes_network_are_the_node() -> None:
    names = holders([pod(1, "192.0.2.1", "2001:db8::1"), pod(2, "10.0.0.2")], {uid(1), uid(2)})
    assert {ip: one.kind for ip, one in names.items()} == {
        "192.0.2.1": "node",
        "2001:db8::1": "node",
        "10.0.0.2": "pod",
    }
    assert holder("198.51.100.7", names, names).kind == "outside"
    assert holder("::1", names, names).kind == "loopback"


def test_what_made_room_is_in_the_sum_once(tmp_path: Path) -> None:
    """Its past is `earlier` from then on; only what it grew by since the last look is told."""
    node = Node(tmp_path)
    node.take([row(1, CLIENT, "10.0.0.9", 80, 5000, 0, 7, 1)], slots(1), [])
    rows = [
        row(1, CLIENT, "earlier", 0, 5030, 0, 8, 0),
        row(1, CLIENT, "10.0.0.8", 80, 11, 0, 1, 1),
    ]
    node.take(rows, slots(1), [])
    # And back again, with less than it had.
    rows = [
        row(1, CLIENT, "earlier", 0, 5041, 0, 9, 0),
        row(1, CLIENT, "10.0.0.8", 80, 2, 0, 0, 1),
    ]
    node.take(rows, slots(1), [])
    who = f"pod {uid(1)}"
    assert node.sent() == {(who, "other", ""): 30, (who, "outside", "10.0.0.8"): 13}


def test_slot_that_is_used_again_is_somebody_else(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.take([row(1, CLIENT, "10.0.0.9", 80, 5000, 0, 1, 1)], slots(1), [])
    again = [HOST_SLOT, Slot(1, f"/kubepods/pod{uid(4)}/{4:064x}", POD_CONTAINER, 2)]
    node.take([row(1, CLIENT, "10.0.0.9", 80, 30, 0, 1, 1, generation=2)], again, [])
    assert node.sent() == {(f"pod {uid(4)}", "outside", "10.0.0.9"): 30}


def test_graph_has_what_both_ends_tell_once(tmp_path: Path) -> None:
    node, both = Node(tmp_path), [pod(1, "10.0.0.1"), pod(2, "10.0.0.2")]
    for i in range(2):
        rows = [
            row(1, CLIENT, "10.0.0.2", 80, 100 * i, 900 * i, i, 1),
            row(2, SERVER, "10.0.0.1", 80, 900 * i, 100 * i, i, 1),
            row(2, CLIENT, "198.51.100.7", 443, 60 * i, 0, 0, 0),
        ]
        node.take(rows, slots(1, 2), both)
    made = graph(node.told(), node.edges.seconds)
    assert {n["id"] for n in made["nodes"]} == {
        f"pod:{uid(1)}", f"pod:{uid(2)}", "outside:198.51.100.7",
    }  # fmt: skip
    arrows = {(e["source"], e["target"]): e for e in made["edges"]}
    assert len(arrows) == 2
    one = arrows[f"pod:{uid(1)}", f"pod:{uid(2)}"]
    assert (one["detail__to_server_bytes"], one["detail__to_client_bytes"]) == (100, 900)
    assert (one["mainstat"], one["secondarystat"], one["detail__port"]) == (50, 1, 80)
    assert len({n["id"] for n in made["nodes"]}) == len(made["nodes"])


def test_page_and_api(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    app = Application(Store(str(path), clock=time.monotonic_ns, resolver=standalone))
    every = [HOST_SLOT, Slot(1, "/system.slice/a.service", UNIT)]
    now = time.monotonic_ns()
    for i in range(2):
        rows = [
            row(1, SERVER, "10.0.0.9", 80, 20 * 2048 * i, 20 * 512 * i, i, 3),
            row(1, CLIENT, "fd00::<b>", 443, 20 * i, 0, 0, 0),
        ]
        at = now - (1 - i) * 20 * SECOND
        made = Segment(
            schema(PEERS), every, rows, stale_after_ns=10**15, sequence=1 + i, heartbeat=at
        )
        made.write(path)
        assert app._store.refresh() == "live"
    answer: dict[str, Any] = json.loads(get(app, "/api/v1/edges")[2])
    assert answer["seconds"] == 20
    first, second = answer["edges"]
    assert first == {
        "who": {"id": "unit:a.service", "scope": "unit", "name": "a.service", "namespace": None},
        "side": "server",
        "port": 80,
        "peer": {
            "id": None, "scope": "outside", "name": None, "namespace": None,
            "address": "10.0.0.9",
        },
        "sent": 40960,
        "received": 10240,
        "opened": 1,
        "open": 3,
    }  # fmt: skip
    assert second["sent"] == 20
    body = get(app, "/")[2]
    part = body[body.index("Who talks to whom") :]
    assert part.index("10.0.0.9") < part.index("2 KiB/s") < part.index("512 B/s")
    assert "fd00::&lt;b&gt;" in part
    assert json.loads(get(app, "/api/v1/edges/graph")[2])["edges"]


def test_loader_that_does_not_tell(tmp_path: Path) -> None:
    path = tmp_path / "segment"
    Segment(
        schema(table("t", 1, [column("t_total")])), [HOST_SLOT], [], stale_after_ns=10**15
    ).write(path)
    app = Application(Store(str(path), clock=time.monotonic_ns, resolver=standalone))
    assert "talks" not in get(app, "/")[2]
    assert json.loads(get(app, "/api/v1/edges")[2])["edges"] == []
    assert json.loads(get(app, "/api/v1/edges/graph")[2]) == {"nodes": [], "edges": []}
