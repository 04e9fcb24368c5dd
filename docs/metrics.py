"""docs/metrics.md: `kpod-loader schema | python -m docs.metrics`.

The loader's metrics are those of its schema. The aggregator's are collected from its own
collectors, each with the least that it asks for.
"""

import json
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from aggregator._native import lib
from aggregator.pods.claims import Claims, ClaimsCollector
from aggregator.pods.names import STATES as NAMED
from aggregator.pods.podinfo import PodInfo, SourceCollector
from aggregator.pods.policy import Policy
from aggregator.pods.table import Container, Pod, PodTable
from aggregator.push.otlp import Endpoint, Exporter
from aggregator.segment.store import STATES
from aggregator.selfmetrics import SelfMetrics

HEAD = """# Metrics

Made by `make docs` from the schema (`kpod-loader schema`): do not edit. Tables of scope *slot* have
a series for each container (and one for the host: all that belongs to none) with the labels
of its owner; tables of scope *node* have one for the node. What a collector costs is in
[performance.md](performance.md). What the [aggregator](#aggregator) adds is at the end.
"""

# The value of a label whose values are not listed.
ANY = "any"


def families(table: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """(name, kind, labels, help) of each family of a table."""
    by_name: dict[str, list[dict[str, Any]]] = {}
    for column in table["columns"]:
        by_name.setdefault(column["name"], []).append(column)
    # Of a key that names an owner: that one's labels, each with the key's own before it.
    keys = [f"`{key['label']}{'_…' if key['owner'] else ''}`" for key in table["keys"]]
    for name, columns in by_name.items():
        values: dict[str, list[str]] = {}
        for column in columns:
            for label, value in column["labels"].items():
                values.setdefault(label, []).append(value)
        constant = [f"`{label}`: {', '.join(v)}" for label, v in values.items()]
        yield name, columns[0]["kind"], "; ".join(keys + constant), columns[0]["help"]


def render(schema: dict[str, Any]) -> Iterator[str]:
    yield HEAD
    own = {"name": "loader", "help": "the loader itself", "profile": "minimal", "attachments": []}
    for collector in [*schema["collectors"], own]:
        tables = [t for t in schema["tables"] if t["collector"] == collector["name"]]
        yield f"## {collector['name']}\n{collector['help'][0].upper()}{collector['help'][1:]}.\n"
        yield f"- Profile: {collector['profile']} and larger."
        if "owner" in collector:
            yield f"- Owner of an event: {collector['owner']}."
            yield f"- Complete since kernel {collector['since']}."
        for attachment in collector["attachments"]:
            hooks = ", ".join(f"`{hook}`" for hook in attachment["hooks"])
            yield f"- Attached by {attachment['name']}: {hooks}."
        for table in tables:
            yield f"\nTable `{table['name']}`, scope {table['scope']}:\n"
            yield "| metric | type | labels | |\n|---|---|---|---|"
            for name, kind, labels, text in families(table):
                yield f"| `{name}` | {kind} | {labels} | {text} |"
        yield ""


def own_metrics() -> Iterator[Metric]:
    """What the aggregator says of itself, with pods and OTLP; of pods, from one of them."""
    collector = SimpleNamespace(name=ANY, up=True, has_nothing=False, attach=ANY, reason=ANY)
    native = SimpleNamespace(realtime_ns=0, orphans=0, hidden=0, ended=0, waiting=0)
    store: Any = SimpleNamespace(
        state=STATES[0],
        laps=0,
        served_old={"timeout": 0, "no_doorbell": 0},
        schema=SimpleNamespace(
            loader_version=ANY, kernel=ANY, min_interval_ns=0, collectors=[collector]
        ),
        header=SimpleNamespace(start_realtime_ns=0, interval_ns=0),
        snapshot=SimpleNamespace(native=native, cut={ANY: 0}),
        age_ns=0,
    )
    counts = {ANY: 0}
    source: Any = SimpleNamespace(
        table=(), synced=False, last_sync=0, requests=counts, events=counts, errors=counts
    )
    names: Any = SimpleNamespace(states=lambda: dict.fromkeys(NAMED, 0))
    history: Any = SimpleNamespace(untracked=0)
    own = SelfMetrics(store)
    own.watch_history(history)
    own.register(SourceCollector(source, names))
    own.register(ClaimsCollector(Claims()))
    Exporter(store, own, Endpoint("http://localhost", {}, False), interval=1)
    yield from own.collect()

    table = PodTable(lambda: 0)
    table.in_use.add(ANY)
    table.put(
        Pod(
            uid=ANY,
            cgroup_uid=ANY,
            namespace=ANY,
            name=ANY,
            version=ANY,
            node=ANY,
            ip=ANY,
            host_ip=ANY,
            qos=ANY,
            priority_class=ANY,
            owner_kind=ANY,
            owner_name=ANY,
            labels={},
            containers=(Container(ANY, ANY, ANY, ANY, 0),),
            ended={},
        )
    )
    info = PodInfo(table, Policy(), ANY).render(lib.KPOD_TEXT)
    yield from text_string_to_metric_families(b"".join(info).decode())


def own_labels(metric: Metric) -> str:
    values: dict[str, set[str]] = {}
    for sample in metric.samples:
        for label, value in sample.labels.items():
            values.setdefault(label, set()).add(ANY if metric.type == "info" else value)
    found = {f"`{k}`": ", ".join(sorted(v - {ANY})) for k, v in values.items()}
    return "; ".join(f"{label}: {v}" if v else label for label, v in found.items())


def render_own() -> Iterator[str]:
    yield "## aggregator\nWhat it says of itself, of the segment, and of the node's pods.\n"
    yield "| metric | type | labels | |\n|---|---|---|---|"
    for metric in own_metrics():
        name, kind = metric.samples[0].name, "gauge" if metric.type == "info" else metric.type
        yield f"| `{name}` | {kind} | {own_labels(metric)} | {metric.documentation} |"


if __name__ == "__main__":
    print("\n".join([*render(json.load(sys.stdin)), *render_own()]))
