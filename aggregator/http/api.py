"""What the page at / shows, as JSON for scripts: /api/v1/…, described in docs/api.md. Within v1,
fields are added and none is changed or taken away."""

from collections.abc import Iterable
from typing import Any

import msgspec

from aggregator.http.edges import Edge
from aggregator.http.edges import graph as nodegraph
from aggregator.http.pairs import Pair
from aggregator.http.rows import Row, Who
from aggregator.http.state import State
from aggregator.segment.history import QUANTITIES, History, known

CONTENT_TYPE = "application/json"

_encode = msgspec.json.Encoder().encode


def status(state: State, rows: list[Row], node: str) -> bytes:
    cost = state.cost
    return _encode(
        {
            "node": node,
            "ready": not state.problems,
            "segment": state.segment,
            "names": state.names,
            "problems": [{"what": p.what, "cause": p.cause, "do": p.do} for p in state.problems],
            "snapshot": {"age_seconds": state.age, "timestamp_seconds": state.taken},
            "pods": sum(row.who.scope == "pod" for row in rows),
            "containers": sum(row.containers for row in rows),
            "series": state.series,
            "cost": {
                "loader_cpu_ratio": cost.loader_cpu,
                "bpf_cpu_ratio": cost.bpf_share,
                "aggregator_cpu_ratio": cost.aggregator_cpu,
                "aggregator_resident_bytes": cost.aggregator_bytes,
            },
            "versions": {
                "aggregator": state.version,
                "loader": state.loader_version or None,
                "kernel": state.kernel or None,
            },
            "collectors": [
                {
                    "name": c.name,
                    "help": c.help,
                    "up": c.up,
                    "attach": c.attach if c.up else None,
                    "has_nothing": c.has_nothing,
                    "reason": None if c.up and not c.has_nothing else c.reason,
                }
                for c in state.collectors
            ],
        }
    )


def _row(row: Row, last: list[float]) -> dict[str, Any]:
    who = row.who
    values = zip(QUANTITIES, last, strict=True)
    return {
        "id": who.id,
        "scope": who.scope,
        "name": who.name,
        "namespace": who.namespace or None,
        "containers": row.containers,
        **{quantity.key: known(value) for quantity, value in values},
    }


def _snapshot(state: State) -> dict[str, float | None]:
    return {"age_seconds": state.age, "timestamp_seconds": state.taken}


def pods(state: State, rows: list[Row], history: History, node: str) -> bytes:
    return _encode(
        {
            "node": node,
            "snapshot": _snapshot(state),
            "units": {q.key: q.unit for q in QUANTITIES},
            "pods": [_row(row, history.last(row.tracks)) for row in rows],
        }
    )


def pod(
    state: State, row: Row, history: History, node: str, facts: Iterable[tuple[str, str]]
) -> bytes:
    times = history.times()
    last = times[-1] if times else 0
    return _encode(
        {
            "node": node,
            "snapshot": _snapshot(state),
            "units": {q.key: q.unit for q in QUANTITIES},
            "pod": {**_row(row, history.last(row.tracks)), "facts": dict(facts)},
            "members": [
                {
                    "labels": who.labels,
                    **{
                        q.key: known(value)
                        for q, value in zip(QUANTITIES, history.last([track]), strict=True)
                    },
                }
                for who, track in zip(row.members, row.tracks, strict=True)
            ],
            "history": {
                "seconds": [(at - last) / 1e9 for at in times],
                **{
                    q.key: [known(v) for v in history.series(row.tracks, i)]
                    for i, q in enumerate(QUANTITIES)
                },
            },
        }
    )


def _who(who: Who) -> dict[str, str | None]:
    return {
        "id": who.id or None,
        "scope": who.scope,
        "name": who.name,
        "namespace": who.namespace or None,
    }


def pairs(state: State, found: list[Pair], seconds: float, node: str) -> bytes:
    return _encode(
        {
            "node": node,
            "snapshot": _snapshot(state),
            "seconds": seconds,
            "units": {"cpu_wait": "seconds per second"},
            "pairs": [
                {"victim": _who(p.victim), "culprit": _who(p.culprit), "cpu_wait": p.wait}
                for p in found
            ],
        }
    )


def edges(state: State, found: list[Edge], seconds: float, node: str) -> bytes:
    return _encode(
        {
            "node": node,
            "snapshot": _snapshot(state),
            "seconds": seconds,
            "units": {"sent": "bytes", "received": "bytes"},
            "edges": [
                {
                    "who": _who(e.who),
                    "side": e.side,
                    "port": e.port or None,
                    "peer": {
                        "id": f"pod:{e.peer.uid}" if e.peer.uid else None,
                        "scope": e.peer.kind,
                        "name": e.peer.name or None,
                        "namespace": e.peer.namespace or None,
                        "address": e.address or None,
                    },
                    "sent": e.sent,
                    "received": e.received,
                    "opened": e.opened,
                    "open": e.open,
                }
                for e in found
            ],
        }
    )


def graph(found: list[Edge], seconds: float) -> bytes:
    return _encode(nodegraph(found, seconds))


def error(text: str) -> bytes:
    return _encode({"error": text})
