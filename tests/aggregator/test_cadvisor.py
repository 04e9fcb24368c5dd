"""/metrics/cadvisor against a list made by hand: names, labels and units of the kubelet's cAdvisor.

That the values are the kernel's is tested where the columns are read (tests/vm/guest,
tests/kernel); here it is which column comes under which name.
"""

import json
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from aggregator.compat.cadvisor import MISSING, PREFIXES, TABLE, namer, translate
from aggregator.http.server import Application
from aggregator.pods.names import Names
from aggregator.pods.resolver import standalone
from aggregator.pods.table import PodTable
from aggregator.segment.formats import PROTOBUF_TYPE
from aggregator.segment.labels import Labels
from aggregator.segment.owner import Owner
from aggregator.segment.store import Compat, Store
from tests.aggregator.test_http import program
from tests.aggregator.test_server import get, get_bytes
from tests.live import LOADER
from tests.scrape import Samples, openmetrics_samples, protobuf_samples, text_samples
from tests.segment import (
    CONTAINER,
    HOST_SLOT,
    POD,
    POD_CONTAINER,
    UNIT,
    Row,
    Segment,
    Slot,
    schema,
)

NO_VALUE = 2**64 - 1
UID = "11111111-2222-3333-4444-555555555555"
ID, PAUSE, DOCKER = "a" * 64, "b" * 64, "c" * 64
SLICE = f"kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice"

# What kubernetes-mixin's rules, alerts and dashboards ask of job="cadvisor".
MIXIN = {
    "container_cpu_cfs_periods_total",
    "container_cpu_cfs_throttled_periods_total",
    "container_cpu_usage_seconds_total",
    "container_fs_reads_bytes_total",
    "container_fs_reads_total",
    "container_fs_writes_bytes_total",
    "container_fs_writes_total",
    "container_memory_cache",
    "container_memory_rss",
    "container_memory_swap",
    "container_memory_usage_bytes",
    "container_memory_working_set_bytes",
    "container_network_receive_bytes_total",
    "container_network_receive_packets_dropped_total",
    "container_network_receive_packets_total",
    "container_network_transmit_bytes_total",
    "container_network_transmit_packets_dropped_total",
    "container_network_transmit_packets_total",
}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The loader's own schema, in the form that segments have."""
    command = [str(LOADER), "schema", "--profile", "comprehensive"]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    tables = [
        table | {"keys": [{"values": []} | key for key in table["keys"]]}
        for table in found["tables"]
    ]
    return schema(*tables)


def resolver(owner: Owner) -> Labels:
    """As aggregator.pods.names on a node that knows the pod."""
    if owner.kind not in (POD, POD_CONTAINER):
        return standalone(owner)
    container = "server" if ID in owner.path else ""
    return (
        ("scope", "pod"),
        ("namespace", "shop"),
        ("pod", "cart-0"),
        ("container", container),
        ("container_id", owner.path[-70:]),
    )


def words(text: str, count: int) -> list[int]:
    raw = text.encode().ljust(8 * count, b"\0")
    return [int.from_bytes(raw[i : i + 8], "little") for i in range(0, len(raw), 8)]


def pages(
    path: Path, document: dict[str, Any], slots: list[Slot], rows: list[Row]
) -> list[Samples]:
    Segment(document, slots, rows, ring_capacity=1 << 18).write(path / "segment")
    image = {(UID, ID): "registry/cart:1"}
    compat = Compat(translate, namer(lambda *who: image.get(who, "")), PREFIXES)
    store = Store(
        str(path / "segment"), clock=time.monotonic_ns, resolver=resolver, node="n1", compat=compat
    )
    app = Application(store)
    where = "/metrics/cadvisor"
    protobuf = protobuf_samples(get_bytes(app, where, accept=PROTOBUF_TYPE)[2])
    return [
        text_samples(get(app, where)[2]),
        openmetrics_samples(get(app, where, accept="application/openmetrics-text")[2]),
        {key: v for key, v in protobuf.items() if not key[0].endswith("_created")},
    ]


def test_names_labels_and_units(tmp_path: Path, document: dict[str, Any]) -> None:
    tables = {table["name"]: (i, table) for i, table in enumerate(document["tables"])}
    server, sandbox, docker, unit, ended, own, gone = range(1, 8)

    def row(name: str, slot: int, values: dict[int, int], keys: list[int]) -> Row:
        index, table = tables[name]
        return Row(index, slot, [*keys, *(values.get(i, NO_VALUE) for i in range(table["words"]))])

    values = {i: 1000 + i for i in range(16)}
    slots = [
        HOST_SLOT,
        Slot(server, f"{SLICE}/cri-containerd-{ID}.scope", POD_CONTAINER),
        Slot(sandbox, f"{SLICE}/cri-containerd-{PAUSE}.scope", POD_CONTAINER),
        Slot(docker, f"system.slice/docker-{DOCKER}.scope", CONTAINER),
        Slot(unit, "system.slice/cron.service", UNIT),
        Slot(ended, "system.slice/cron.service", UNIT, died_ns=5, cgroup_id=77),
        Slot(own, SLICE, POD),
        Slot(gone, SLICE, POD, died_ns=5, cgroup_id=78),  # a static pod's path can come again
    ]
    rows = [
        *(row("cgroup_cpu", slot, values, []) for slot in (0, server, unit, ended)),
        row("cgroup_cpu", docker, {0: 5_000_001}, []),
        *(row("cgroup_memory", slot, values, []) for slot in (0, server)),
        row("memory", server, dict.fromkeys(range(6), 3), []),
        row("cgroup_pids", server, {0: 7}, []),
        row("cgroup_pressure", server, {i: 10**6 * (i + 1) for i in range(6)}, []),
        row("cgroup_io", server, {i: i + 1 for i in range(6)}, words("sda", 4)),
        row("interface", sandbox, {i: i + 1 for i in range(8)}, words("eth0", 2)),
        # Of pods' own cgroups, tables of their own; events are of what runs in it.
        row("pod_cpu", own, {0: 7_000_001}, []),
        row("pod_memory", own, {0: 8000, 3: 9000}, []),
        *(row("pod_pids", slot, {0: 9}, []) for slot in (own, gone)),
        row("pod_pressure", own, {0: 4 * 10**6}, []),
        row("pod_io", own, {0: 11}, words("sda", 4)),
        row("memory", own, dict.fromkeys(range(6), 2), []),
    ]
    rows.sort(key=lambda r: r.table)
    text, openmetrics, protobuf = pages(tmp_path, document, slots, rows)

    pod = {("namespace", "shop"), ("pod", "cart-0")}
    who = pod | {
        ("container", "server"),
        ("id", f"/{SLICE}/cri-containerd-{ID}.scope"),
        ("image", "registry/cart:1"),
        ("name", ID),
    }
    pause = pod | {("id", f"/{SLICE}/cri-containerd-{PAUSE}.scope"), ("name", PAUSE)}
    wanted: Samples = {}

    def add(labels: set[tuple[str, str]], **series: float) -> None:
        for name, value in series.items():
            wanted[f"container_{name}", frozenset(labels)] = value

    cron = {("id", "/system.slice/cron.service")}
    for labels in (who, cron):
        add(labels | {("cpu", "total")}, cpu_usage_seconds_total=0.001)
        add(
            labels,
            cpu_user_seconds_total=0.001001,
            cpu_system_seconds_total=0.001002,
            cpu_cfs_periods_total=1003,
            cpu_cfs_throttled_periods_total=1004,
            cpu_cfs_throttled_seconds_total=0.001005,
            spec_cpu_quota=1006,  # in microseconds
            spec_cpu_period=1007,
        )
    of_docker = {("id", f"/system.slice/docker-{DOCKER}.scope"), ("name", DOCKER)}
    add(of_docker | {("cpu", "total")}, cpu_usage_seconds_total=5.000001)
    add(
        who,
        memory_usage_bytes=1000,
        memory_working_set_bytes=1001,
        memory_max_usage_bytes=1002,
        spec_memory_limit_bytes=1003,
        memory_swap=1004,
        memory_rss=1005,
        memory_cache=1006,
        oom_events_total=3,
        threads=7,  # without a limit: no threads_max
        pressure_cpu_waiting_seconds_total=1,
        pressure_cpu_stalled_seconds_total=2,
        pressure_memory_waiting_seconds_total=3,
        pressure_memory_stalled_seconds_total=4,
        pressure_io_waiting_seconds_total=5,
        pressure_io_stalled_seconds_total=6,
    )
    add(
        who | {("device", "/dev/sda")},
        fs_reads_bytes_total=1,
        fs_writes_bytes_total=2,
        fs_reads_total=4,
        fs_writes_total=5,
    )
    add(
        pause | {("interface", "eth0")},
        network_receive_bytes_total=1,
        network_receive_packets_total=2,
        network_receive_errors_total=3,
        network_receive_packets_dropped_total=4,
        network_transmit_bytes_total=5,
        network_transmit_packets_total=6,
        network_transmit_errors_total=7,
        network_transmit_packets_dropped_total=8,
    )
    of_pod = pod | {("id", f"/{SLICE}")}
    add(of_pod | {("cpu", "total")}, cpu_usage_seconds_total=7.000001)
    add(
        of_pod,
        memory_usage_bytes=8000,
        spec_memory_limit_bytes=9000,
        threads=9,
        pressure_cpu_waiting_seconds_total=4,
        oom_events_total=2,
    )
    add(of_pod | {("device", "/dev/sda")}, fs_reads_bytes_total=11)
    assert text == wanted
    assert openmetrics == wanted
    assert protobuf == wanted


def test_nobody_is_nobody(tmp_path: Path, document: dict[str, Any]) -> None:
    """On a node with pods each row says whose it is, also if it is nobody's: a Prometheus that is
    told to honour labels else takes the namespace, pod and container of this agent's own pod.
    """
    index = next(i for i, t in enumerate(document["tables"]) if t["name"] == "cgroup_pids")
    slots = [
        HOST_SLOT,
        Slot(1, f"{SLICE}/cri-containerd-{PAUSE}.scope", POD_CONTAINER),
        Slot(2, f"system.slice/docker-{DOCKER}.scope", CONTAINER),
        Slot(3, "system.slice/cron.service", UNIT),
        Slot(4, SLICE, POD),
    ]
    rows = [Row(index, slot, [7, NO_VALUE, 0]) for slot in range(1, 5)]
    Segment(document, slots, rows, ring_capacity=1 << 18).write(tmp_path / "segment")
    clock = time.monotonic_ns
    names = Names(PodTable(clock), clock=clock, grace_ns=0)
    names._table.synced_ns = 1
    compat = Compat(translate, namer(lambda *_: ""), PREFIXES)
    store = Store(str(tmp_path / "segment"), clock=clock, resolver=names, compat=compat)
    page = get(Application(store), "/metrics/cadvisor")[2]
    lines = [line for line in page.splitlines() if line.startswith("container_threads{")]
    assert len(lines) == 4
    for line in lines:
        for label in ("namespace", "pod", "container"):
            assert f'{label}=""' in line


def test_each_rule_has_its_column(document: dict[str, Any]) -> None:
    ours = {
        (c["name"], tuple(sorted(c["labels"].items())))
        for table in document["tables"]
        for c in table["columns"]
    }
    assert {(rule.ours, rule.labels) for rule in TABLE} <= ours
    names = [rule.name for rule in TABLE]
    assert len(set(names)) == len(names)


def test_the_mixin_finds_all_it_asks_for() -> None:
    assert {rule.name for rule in TABLE} >= MIXIN
    assert not {name for names, _ in MISSING for name in names.split(", ")} & MIXIN


def test_the_page_is_there_if_it_is_asked_for(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "segment"), clock=time.monotonic_ns, resolver=standalone)
    assert get(Application(store), "/metrics/cadvisor")[0] == 404
    store.compat = Compat(translate, namer(lambda *_: ""), PREFIXES)
    status, _, body = get(
        Application(store), "/metrics/cadvisor", accept="application/openmetrics-text"
    )
    assert (status, body) == (200, "# EOF\n")


def test_the_program_serves_it(tmp_path: Path, document: dict[str, Any]) -> None:
    """With the option, without Kubernetes, confined as it always is."""
    index = next(i for i, t in enumerate(document["tables"]) if t["name"] == "cgroup_pids")
    slots = [HOST_SLOT, Slot(1, f"system.slice/docker-{DOCKER}.scope", CONTAINER)]
    Segment(document, slots, [Row(index, 1, [7, 9, 0])], stale_after_ns=10**15).write(
        tmp_path / "segment"
    )
    options = ("--segment", str(tmp_path / "segment"), "--compat", "cadvisor", "--node", "n1")
    with program(*options) as url, urllib.request.urlopen(f"{url}/metrics/cadvisor") as answer:
        lines = answer.read().decode().splitlines()
    labels = f'{{id="/system.slice/docker-{DOCKER}.scope",name="{DOCKER}"}}'
    assert [line for line in lines if line[0] != "#"] == [
        f"container_threads{labels} 7",
        f"container_threads_max{labels} 9",
    ]
