"""Who talks to whom: TCP connections of rows of the page, by other end and server's port."""

import struct
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from aggregator._native import ffi
from aggregator.http.pairs import POINTS, STEP_NS
from aggregator.http.rows import Rows, Who
from aggregator.pods.addresses import POD, Holder, holder, holders
from aggregator.pods.table import Pod
from aggregator.segment.exposition import Plan
from aggregator.segment.store import Snapshot

BYTES = "kpod_tcp_peer_bytes_total"
OPENED = "kpod_tcp_peer_connections_opened_total"
OPEN = "kpod_tcp_peer_connections"
SHOWN = 10  # edges on the page

SIDES = ("client", "server")
OTHER, EARLIER = "other", "earlier"
SEVERAL = Holder(OTHER)

Owner = tuple[int, int]  # slot and generation
Key = tuple[Owner, int, str, int]  # the owner, its side, the address, the server's port
Moved = tuple[int, int, int]  # bytes sent and received, connections opened


@dataclass(frozen=True, slots=True)
class Edge:
    """peer: the other end; empty id: no row of the page. address: empty of several."""

    who: Who
    side: str
    port: int
    peer: Holder
    address: str
    sent: int
    received: int
    opened: int
    open: int

    @property
    def moved(self) -> int:
        return self.sent + self.received


@dataclass(frozen=True, slots=True)
class _Place:
    """Where it is in a row: the table, its words, and those of the columns."""

    table: int
    words: struct.Struct
    values: tuple[int, int, int, int]  # sent, received, opened, open


def _place(plan: Plan) -> _Place | None:
    """None: the loader does not have it."""
    for index, table in enumerate(plan.schema.tables):
        at = {
            (column.name, dict(column.labels).get("direction", "")): column.word
            for column in table.columns
        }
        if (BYTES, "sent") not in at:
            continue
        values = at[BYTES, "sent"], at[BYTES, "received"], at[OPENED, ""], at[OPEN, ""]
        text = table.keys[1].text_words
        return _Place(index, struct.Struct(f"<Q{8 * text}sQ{table.words}Q"), values)
    return None


def _totals(snapshot: Snapshot, place: _Place) -> dict[Key, tuple[int, int, int, int]]:
    native, words = snapshot.native, place.words
    found: dict[Key, tuple[int, int, int, int]] = {}
    a, b, c, d = place.values
    for index in range(native.first_row[place.table], native.first_row[place.table + 1]):
        row = native.rows[index]
        owner = row.owner
        if not owner:
            continue
        side, address, port, *value = words.unpack(ffi.buffer(row.words, words.size))
        text = address.rstrip(b"\0").decode("ascii", "replace")
        key = (owner.slot, owner.generation), side, text, port
        found[key] = value[a], value[b], value[c], value[d]
    return found


@dataclass(frozen=True, slots=True)
class _Point:
    at: int
    totals: dict[Key, tuple[int, int, int, int]]
    holders: dict[str, Holder]
    moved: dict[tuple[Owner, int, str, int, Holder], Moved]  # since the point before


def _since(before: _Point, totals: dict[Key, Any], names: dict[str, Holder]) -> dict[Any, Moved]:
    """What was moved since then, by who had the address all the time.

    What a row has counted that has made room is in `earlier` from then on. What these grew by
    before they did is all that `earlier` has more than that, and belongs to several.
    """
    moved: dict[Any, Moved] = {}
    several: dict[tuple[Owner, int], list[int]] = {}

    def add(owner: Owner, side: int, values: Iterable[int], sign: int) -> None:
        rest = several.setdefault((owner, side), [0, 0, 0])
        for i, value in enumerate(values):
            rest[i] += sign * value

    for key, total in totals.items():
        owner, side, address, _ = key
        known = before.totals.get(key, (0, 0, 0, 0))
        if address in (OTHER, EARLIER):
            add(owner, side, total[:3], 1)
            add(owner, side, known[:3], -1)
            continue
        if any(now < then for now, then in zip(total[:3], known[:3], strict=True)):
            add(owner, side, known[:3], -1)  # it had made room, and has a row again
            known = (0, 0, 0, 0)
        grown = (total[0] - known[0], total[1] - known[1], total[2] - known[2])
        if any(grown):
            moved[(*key, holder(address, before.holders, names))] = grown
    for key in before.totals.keys() - totals.keys():
        add(key[0], key[1], before.totals[key][:3], -1)
    for (owner, side), rest in several.items():
        if any(value > 0 for value in rest):
            moved[owner, side, "", 0, SEVERAL] = (
                max(rest[0], 0),
                max(rest[1], 0),
                max(rest[2], 0),
            )
    return moved


class Edges:
    """What was moved between a few snapshots; offered every new one, it takes those that are due.

    pods: that are there now.
    """

    def __init__(self, rows: Rows, pods: Callable[[], list[Pod]]) -> None:
        self._rows = rows
        self._pods = pods
        self._plan: Plan | None = None
        self._place: _Place | None = None
        self._points: deque[_Point] = deque(maxlen=POINTS)
        self._told: tuple[int, list[Edge]] = 0, []  # as of the last point

    def offer(self, snapshot: Snapshot) -> None:
        if snapshot.plan is not self._plan:  # another loader, or other collectors
            self._plan = snapshot.plan
            self._place = _place(snapshot.plan)
            self._points.clear()
            self._told = 0, []
        at = snapshot.native.monotonic_ns
        if not self._place or (self._points and at - self._points[-1].at < STEP_NS):
            return
        totals = _totals(snapshot, self._place)
        pods = self._pods()
        rows = self._rows.of(snapshot) if pods else []
        names = holders(pods, {row.who.pod_uid for row in rows})
        moved = _since(self._points[-1], totals, names) if self._points else {}
        self._points.append(_Point(at, totals, names, moved))

    @property
    def seconds(self) -> float:
        """That the edges are of; 0: there is only one point yet."""
        return (self._points[-1].at - self._points[0].at) / 1e9 if self._points else 0.0

    def of(self, snapshot: Snapshot | None) -> list[Edge] | None:
        """Of those that still are there, the busiest first; None: the loader does not tell."""
        if not snapshot or not self._place:
            return None
        at = self._points[-1].at if self._points else 0
        if self._told[0] != at:
            self._told = at, self._tell(snapshot)
        return self._told[1]

    def _tell(self, snapshot: Snapshot) -> list[Edge]:
        found: dict[Any, list[int]] = {}
        known: dict[str, Who] = {}
        ids: dict[Owner, str] = {}

        def add(owner: Owner, rest: tuple[Any, ...], values: tuple[int, int, int, int]) -> None:
            if owner not in ids:
                who = self._rows.named(snapshot, owner[0] | owner[1] << 32)
                ids[owner] = who.id if who else ""
                if who:
                    known[who.id] = who
            if ids[owner]:
                sums = found.setdefault((ids[owner], *rest), [0, 0, 0, 0])
                for i, value in enumerate(values):
                    sums[i] += value

        points = list(self._points)
        for point in points[1:]:
            for (owner, side, address, port, peer), moved in point.moved.items():
                add(owner, (side, port, peer, address), (*moved, 0))
        for (owner, side, address, port), total in points[-1].totals.items() if points else ():
            if address in (OTHER, EARLIER):
                add(owner, (side, 0, SEVERAL, ""), (0, 0, 0, total[3]))
                continue
            names = points[-1].holders
            add(owner, (side, port, holder(address, names, names), address), (0, 0, 0, total[3]))
        edges = [
            Edge(known[who], SIDES[side], port, peer, address, *values)
            for (who, side, port, peer, address), values in found.items()
            if any(values)
        ]
        return sorted(
            edges, key=lambda e: (-e.moved, e.who.id, e.side, e.port, e.address, e.peer.kind)
        )


def _end(edge: Edge) -> tuple[str, str, str]:
    """Id, name and namespace of the other end, in a graph."""
    if edge.peer.kind == POD:
        return f"pod:{edge.peer.uid}", edge.peer.name, edge.peer.namespace
    if edge.peer.kind == "loopback":
        return edge.who.id, edge.who.name, edge.who.namespace
    where = edge.address or edge.peer.kind
    return f"{edge.peer.kind}:{where}", where, edge.peer.kind


def graph(edges: Iterable[Edge], seconds: float) -> dict[str, list[dict[str, Any]]]:
    """As Grafana's node graph has it. Arrows go from the client to the server. What both ends tell
    is told once, as the server has it: its socket is the one that has the true addresses."""
    nodes: dict[str, dict[str, Any]] = {}
    arrows: dict[tuple[str, str, int], tuple[bool, list[int]]] = {}
    for edge in edges:
        other, name, namespace = _end(edge)
        own = edge.who.id
        nodes[own] = {"id": own, "title": edge.who.name, "subtitle": edge.who.namespace}
        nodes.setdefault(other, {"id": other, "title": name, "subtitle": namespace})
        serves = edge.side == "server"
        key = (other, own, edge.port) if serves else (own, other, edge.port)
        told, sums = arrows.get(key, (serves, [0, 0, 0, 0]))
        if told != serves:
            if not serves:
                continue
            sums = [0, 0, 0, 0]
        asked = (edge.received, edge.sent) if serves else (edge.sent, edge.received)
        for i, value in enumerate((*asked, edge.opened, edge.open)):
            sums[i] += value
        arrows[key] = serves, sums
    return {
        "nodes": list(nodes.values()),
        "edges": [
            {
                "id": f"{client}>{server}:{port}",
                "source": client,
                "target": server,
                "mainstat": (sums[0] + sums[1]) / seconds if seconds else 0,
                "secondarystat": sums[3],
                "detail__port": port,
                "detail__to_server_bytes": sums[0],
                "detail__to_client_bytes": sums[1],
                "detail__opened": sums[2],
            }
            for (client, server, port), (_, sums) in arrows.items()
        ],
    }
