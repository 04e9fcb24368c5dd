"""Labels, info series and filters, as Prometheus sees them."""

import asyncio
import json
import random
import re
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from aggregator._native import lib
from aggregator.cli import arguments
from aggregator.http.server import Application
from aggregator.pods.claims import Claims
from aggregator.pods.kinds import CONTAINER, MACHINE, POD, POD_CONTAINER, UNIT
from aggregator.pods.memory import Memory
from aggregator.pods.names import GRACE_NS, NOBODY, Names
from aggregator.pods.podinfo import PodInfo, Pods
from aggregator.pods.policy import Policy, parse_selector
from aggregator.pods.source import SourceError
from aggregator.pods.table import KEEP_NS, PodTable, decode_pod
from aggregator.pods.watch import Watcher
from aggregator.segment.formats import FORMATS
from aggregator.segment.owner import Owner
from aggregator.segment.store import NAMED_AT_ONCE, Limits, Store
from tests.aggregator.test_pods import HASH, ID, pod, raw, static
from tests.aggregator.test_server import get, get_bytes
from tests.scrape import (
    Samples,
    openmetrics_samples,
    protobuf_families,
    protobuf_samples,
    safe,
    text_samples,
)
from tests.segment import HOST_SLOT, Row, Segment, Slot, begin, column, schema, table

PROMTOOL = Path(__file__).parent.parent.parent / ".cache/prometheus/usr/bin/promtool"
UID = [f"{i:08x}-1111-2222-3333-444444444444" for i in range(10)]
SECOND = 10**9


def path(uid: str, cid: str) -> str:
    return f"/kubepods/burstable/pod{uid}/{cid}"


def comparable(samples: Samples) -> Samples:
    """What does not move from one scrape to the next, and is not only in some of the formats."""
    return {
        series: value
        for series, value in samples.items()
        if series[0].startswith(("t_total", "kpod_pod", "kpod_container"))
    }


class World:
    """A store over pods and cgroups of our own."""

    def __init__(
        self,
        directory: Path,
        policy: Policy = Policy(),  # noqa: B008
        all_ids: bool = True,
        limits: Limits = Limits(ended_per_pod=1000),  # noqa: B008 (many that ended are one pod's)
    ) -> None:
        self.now = 1000 * SECOND
        self.directory = directory
        self.table = PodTable(lambda: self.now)
        self.table.synced_ns = self.now  # the source has answered
        self.names = Names(self.table, clock=lambda: self.now, policy=policy, all_ids=all_ids)
        self.source = Watcher("n1", lambda: httpx.AsyncClient(), self.table)
        self.info = PodInfo(self.table, policy, "n1")
        self.claims = Claims()
        self.store = Store(
            str(directory / "segment"),
            clock=time.monotonic_ns,
            resolver=self.names,
            changed=self.names.changed,
            claims=self.claims,
            node="n1",
            others=self.info.limit,
            limits=limits,
            node_labels=NOBODY,
        )
        self.app = Application(self.store, Pods(self.source, self.names, self.info))
        self.slots: list[Slot] = [HOST_SLOT]
        self.segment: Segment | None = None

    def cgroup(self, uid: str, cid: str, **more: int) -> None:
        at = len(self.slots)
        self.slots.append(Slot(at, path(uid, cid), POD_CONTAINER, **more))

    def snapshot(self) -> None:
        rows = [Row(0, s.slot, [100 + s.slot], s.generation) for s in self.slots]
        if not self.segment:
            document = schema(table("t", 1, [column("t_total")]))
            self.segment = Segment(
                document,
                self.slots,
                rows,
                ring_capacity=1 << 20,
                stale_after_ns=10**15,  # a test may take longer than a heartbeat on a busy machine
            )
        else:
            self.segment.start, self.segment.sequence = self.segment.end, self.segment.sequence + 1
            records = [begin(self.segment.sequence, 1)]
            records += [s.encode() for s in self.slots] + [r.encode() for r in rows]
            self.segment.write_snapshot(records)
        target = self.directory / "segment"
        if target.exists():
            with target.open("r+b") as f:
                f.write(self.segment.bytes)
        else:
            self.segment.write(target)

    def scrape(self) -> str:
        """After another snapshot. All formats are parsed, agree, and have no series twice."""
        self.snapshot()
        bodies = []
        for format_ in FORMATS:
            accept = format_.content_type.replace(", ", ",")
            status, answered, body = get_bytes(self.app, "/metrics", accept=accept)
            assert (status, answered["content-type"]) == (200, format_.content_type)
            bodies.append(body)
        text, openmetrics, protobuf = bodies
        found = comparable(text_samples(text.decode()))
        assert found
        assert comparable(openmetrics_samples(openmetrics.decode())) == found
        assert comparable(protobuf_samples(protobuf)) == found
        return text.decode()

    def series(self, name: str = "t_total") -> list[tuple[dict[str, str], float]]:
        return [
            (s.labels, s.value)
            for family in text_string_to_metric_families(self.scrape())
            for s in family.samples
            if s.name == name
        ]

    def of_pods(self) -> list[tuple[dict[str, str], float]]:
        return [(labels, value) for labels, value in self.series() if labels.get("pod_uid")]


def test_labels(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.table.put(pod(UID[1], "a-1", {"c": ID[1]}))
    world.cgroup(UID[1], ID[1])
    assert world.of_pods() == [
        (
            {
                "scope": "container",
                "namespace": "n",
                "pod": "a-1",
                "container": "c",
                "pod_uid": UID[1],
                "container_id": ID[1],
                "node": "n1",
            },
            101,
        )
    ]


def test_ids_are_where_names_are_not_enough(tmp_path: Path) -> None:
    """A random name of a pod, and a container that is the first, need none. All rows of one page
    are different, and stay what they are when a container or a pod gets a successor.
    """
    world = World(tmp_path, all_ids=False)

    def ids() -> dict[int, tuple[str, str]]:
        return {
            int(value): (labels.get("pod_uid", ""), labels.get("container_id", ""))
            for labels, value in world.series()
            if labels["scope"] in ("container", "pod")
        }

    def status(cid: str, restarts: int, before: str = "") -> Any:
        found = raw(UID[1], "web-bcdfg", {"c": cid}, generateName="web-")
        (container,) = found["status"]["containerStatuses"]
        container["restartCount"] = restarts
        if before:
            container["lastState"] = {"terminated": {"containerID": f"containerd://{before}"}}
        return decode_pod(json.dumps(found).encode())

    world.table.put(status(ID[1], 0))
    world.cgroup(UID[1], ID[1], born_ns=2)
    world.cgroup(UID[1], ID[9], born_ns=1)  # the sandbox
    world.table.put(pod(UID[2], "db-0", {"c": ID[2]}))
    world.cgroup(UID[2], ID[2])
    world.scrape()
    expected = {101: ("", ""), 102: ("", ID[9]), 103: (UID[2], "")}
    assert ids() == expected
    # Restarted, and replaced under the same name; the old ones are still shown.
    world.table.put(status(ID[3], 1, ID[1]))
    world.cgroup(UID[1], ID[3])
    world.table.remove(UID[2])
    world.table.put(pod(UID[3], "db-0", {"c": ID[4]}))
    world.cgroup(UID[3], ID[4])
    expected |= {104: ("", ID[3]), 105: (UID[3], "")}
    assert ids() == expected
    # What has no name, and what the API never said, has all there is.
    world.cgroup(UID[4], ID[5])
    world.cgroup(UID[3], ID[6])
    world.now += 60 * SECOND
    expected |= {106: (UID[4], ID[5]), 107: (UID[3], ID[6])}
    assert ids() == expected
    names = [labels["pod"] for labels, _ in world.series()]
    assert sorted(names)[-3:] == ["web-bcdfg"] * 3
    assert len({frozenset(labels.items()) for labels, _ in world.series()}) == 8


def test_the_first_of_a_name_is_remembered(tmp_path: Path) -> None:
    """An aggregator that is started anew gives each row the labels that it had."""
    table, clock = PodTable(lambda: 0), lambda: 0
    for cid, restarts in ((ID[1], 0), (ID[2], 1)):
        found = raw(UID[1], "web-bcdfg", {"c": cid}, generateName="web-")
        found["status"]["containerStatuses"][0]["restartCount"] = restarts
        table.put(decode_pod(json.dumps(found).encode()))
    Memory(tmp_path / "names", table).save()
    again = PodTable(lambda: 0)
    Memory(tmp_path / "names", again).load()
    for known in (table, again):
        names = Names(known, clock=clock)
        shown = [dict(names(Owner(POD_CONTAINER, i, path(UID[1], ID[i]))) or ()) for i in (1, 2)]
        assert [labels.get("container_id") for labels in shown] == [None, ID[2]]
        assert not any("pod_uid" in labels for labels in shown)


def test_an_unknown_pod_waits_and_is_never_lost(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cgroup(UID[1], ID[1], born_ns=world.now)
    world.cgroup(UID[2], ID[2], born_ns=world.now, died_ns=world.now + 1)
    assert world.of_pods() == [], "nor is a dead one, that is there for as long"
    assert world.series("kpod_pods_cgroups") == [
        ({"state": "named"}, 0),
        ({"state": "unnamed"}, 0),
        ({"state": "waiting"}, 2),
        ({"state": "filtered"}, 0),
    ]
    assert world.series("kpod_snapshot_hidden_rows") == [({}, 2)]
    world.now += GRACE_NS
    unnamed = {
        "scope": "container",
        "namespace": "",
        "pod": "",
        "container": "",
        "pod_uid": UID[2],
        "container_id": ID[2],
        "node": "n1",
    }
    assert [labels["pod_uid"] for labels, _ in world.of_pods()] == [UID[1], UID[2]]
    assert world.of_pods()[1] == (unnamed, 102)
    # The events come late.
    world.table.put(pod(UID[1], "late", {"c": ID[1]}))
    world.table.put(pod(UID[2], "dead", {"c": ID[2]}))
    world.table.remove(UID[2])
    found = [(labels["pod"], labels["container"], v) for labels, v in world.of_pods()]
    assert found == [("late", "c", 101), ("dead", "c", 102)]


def test_nothing_of_a_pod_is_shown_before_the_source_has_answered(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.table.synced_ns = None
    world.cgroup(UID[1], ID[1], born_ns=world.now)
    world.cgroup(UID[2], ID[2], born_ns=world.now, died_ns=world.now + 1)
    world.now += 100 * GRACE_NS
    assert world.of_pods() == []
    world.table.replace([pod(UID[2], "dead", {"c": ID[2]})])
    assert [labels["pod"] for labels, _ in world.of_pods()] == ["dead"]
    world.now += GRACE_NS
    assert [labels["pod"] for labels, _ in world.of_pods()] == ["", "dead"]


def test_a_container_waits_for_its_own_name(tmp_path: Path) -> None:
    """The pod is known before the ids of its containers are; its sandbox's never is, but it is the
    oldest, and known for what it is as soon as all others have their names.
    """
    world = World(tmp_path)
    world.table.put(pod(UID[1], "a", {"c": "", "d": ""}))
    for i in range(1, 4):
        world.cgroup(UID[1], ID[i], born_ns=world.now + i)
    assert world.of_pods() == []
    world.table.put(pod(UID[1], "a", {"c": ID[2], "d": ""}))
    assert [labels["container"] for labels, _ in world.of_pods()] == ["c"]
    world.table.put(pod(UID[1], "a", {"c": ID[2], "d": ID[3]}))
    assert [labels["container"] for labels, _ in world.of_pods()] == ["", "c", "d"]
    # One that was started again, and whose id the API does not say yet, is no sandbox.
    world.cgroup(UID[1], ID[4], born_ns=world.now + 9)
    world.now += 2 * GRACE_NS
    assert [labels["container"] for labels, _ in world.of_pods()] == ["", "c", "d"]
    world.table.put(pod(UID[1], "a", {"c": ID[4], "d": ID[3]}))
    assert [labels["container"] for labels, _ in world.of_pods()] == ["", "c", "d", "c"]


def test_a_sandbox_is_known_after_a_restart_of_the_loader() -> None:
    """A loader that is started anew gives all cgroups that it finds one time of birth, a later one:
    what was known as the oldest of its pod is so still, and keeps its rows.
    """
    now = 1000 * SECOND
    found = PodTable(lambda: now)
    found.synced_ns = now
    found.put(pod(UID[1], "a", {"c": ID[1]}))
    names = Names(found, clock=lambda: now)

    def shown(sandbox: int, container: int) -> list[bool]:
        cgroups = ((10, ID[9], sandbox), (11, ID[1], container))
        owners = [Owner(POD_CONTAINER, i, path(UID[1], cid), at) for i, cid, at in cgroups]
        labels = [names(owner) for owner in owners]
        names.changed({10, 11})
        return [bool(one) for one in labels]

    shown(now, now + 1)
    assert shown(now, now + 1) == [True, True]
    now += 100 * SECOND
    again = now
    assert shown(again, again) == [True, True]
    now += SECOND
    assert shown(again, again) == [True, True]


def test_whose_a_series_is_is_always_said(tmp_path: Path) -> None:
    """Else Prometheus, told to honor_labels, says that the host's are the agent's."""
    world = World(tmp_path)
    world.table.put(pod(UID[1], "a-1", {"c": ID[1]}))
    world.cgroup(UID[1], ID[1])
    world.slots += [
        Slot(2, f"/kubepods/pod{UID[1]}", POD),
        Slot(3, "/system.slice/cron.service", UNIT),
        Slot(4, f"/docker/{ID[2]}", CONTAINER),
        Slot(5, "/lxc.payload.web", MACHINE),
    ]
    found = {labels["scope"]: labels for labels, _ in world.series()}
    nobody = {"namespace": "", "pod": "", "container": "", "node": "n1"}
    assert found["host"] == {"scope": "host", **nobody}
    assert found["unit"].items() >= {**nobody, "unit": "cron.service"}.items()
    assert found["machine"].items() >= {**nobody, "machine": "web"}.items()
    assert found["pod"] == {
        "scope": "pod",
        "namespace": "n",
        "pod": "a-1",
        "container": "",
        "pod_uid": UID[1],
        "node": "n1",
    }
    assert all(labels["container"] == "" for labels, _ in world.series("kpod_pod_info"))


def test_names_outlive_the_aggregator(tmp_path: Path) -> None:
    """The API is away: what was known has its names, at once, and what is new waits."""
    first = World(tmp_path)
    memory = Memory(tmp_path / "names", first.table)
    first.table.put(pod(UID[1], "a-1", {"c": ID[1]}))
    first.table.put(pod(UID[1], "a-1", {"c": ID[2]}))
    first.table.put(static("api-1", "web", {"w": ID[3]}))
    memory.save()
    assert (tmp_path / "names").stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["names"]

    (tmp_path / "other").mkdir()
    world = World(tmp_path / "other")
    world.table.synced_ns = None
    Memory(tmp_path / "names", world.table).load()
    assert len(world.table) == 0, "nobody has said that they are"
    world.cgroup(UID[1], ID[1], died_ns=5)
    world.cgroup(UID[1], ID[2])
    world.cgroup(HASH, ID[3])
    world.cgroup(UID[2], ID[4])
    names = [(labels["pod"], labels["container"]) for labels, _ in world.of_pods()]
    assert names == [("a-1", "c"), ("a-1", "c"), ("web", "w")]
    # However often, also if nobody has looked.
    for _ in range(2):
        table = PodTable(lambda: world.now)
        memory = Memory(tmp_path / "names", table)
        memory.load()
        memory.save()
        assert table.find(UID[1], ID[1])
    world.now += KEEP_NS
    table.expire()
    assert not table.find(UID[1], ID[1]), "but not for ever"


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"version":7,"pods":[]}', b'{"version":1,"pods":[{}]}', b"[" * 100_000]
)
def test_a_spoiled_memory_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "names").write_bytes(content)
    table = PodTable(lambda: 0)
    memory = Memory(tmp_path / "names", table)
    memory.load()
    assert (memory.failures, len(table)) == (1, 0)
    memory.save()
    memory.load()
    assert memory.failures == 1


def test_a_memory_that_cannot_be_kept_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    memory = Memory(tmp_path / "away" / "names", PodTable(lambda: 0))
    memory.load()
    memory.save()
    memory.save()
    assert memory.failures == 2
    assert len(caplog.messages) == 1


def test_a_replaced_pod_and_a_restarted_container_are_series_of_their_own(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.table.put(pod(UID[1], "db-0", {"db": ID[1]}))
    world.cgroup(UID[1], ID[1])
    assert len(world.of_pods()) == 1
    world.table.put(pod(UID[1], "db-0", {"db": ID[2]}))
    world.cgroup(UID[1], ID[2])
    world.table.remove(UID[1])
    world.table.put(pod(UID[2], "db-0", {"db": ID[3]}))
    world.cgroup(UID[2], ID[3])
    found = {labels["container_id"]: (labels, value) for labels, value in world.of_pods()}
    assert [found[ID[i]][1] for i in (1, 2, 3)] == [101, 102, 103]
    assert {found[i][0]["pod"] for i in found} == {"db-0"}
    assert {found[i][0]["container"] for i in found} == {"db"}
    assert [found[ID[i]][0]["pod_uid"] for i in (1, 2, 3)] == [UID[1], UID[1], UID[2]]
    assert [labels["pod_uid"] for labels, _ in world.series("kpod_pod_info")] == [UID[2], UID[1]]


def test_a_pod_that_was_gone_before_its_first_snapshot_has_its_info(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.table.put(pod(UID[1], "a", {"c": ID[1]}))
    world.table.remove(UID[1])
    world.table.put(pod(UID[2], "without a cgroup"))
    assert world.series("kpod_pod_info") == []
    world.cgroup(UID[1], ID[1], died_ns=5)
    assert [labels["pod"] for labels, _ in world.series("kpod_pod_info")] == ["a"]


def test_a_reused_cgroup_path_is_not_mixed(tmp_path: Path) -> None:
    """One container id in two cgroups, which no runtime does: two series all the same."""
    world = World(tmp_path)
    world.table.put(pod(UID[1], "a", {"c": ID[1]}))
    world.cgroup(UID[1], ID[1], died_ns=5)
    world.cgroup(UID[1], ID[1])
    assert sorted(value for _, value in world.of_pods()) == [101, 102]


def test_pod_labels_are_on_every_series(tmp_path: Path) -> None:
    policy = Policy(("app", "tier.x/y"), re.compile("[0-9]{4,}"))
    world = World(tmp_path, policy)
    world.table.put(pod(UID[1], "a", {"c": ID[1]}, labels={"app": "card 12345 x", "no": "1"}))
    world.table.put(pod(UID[2], "b", {"c": ID[2]}, labels={"tier.x/y": "t"}))
    world.cgroup(UID[1], ID[1])
    world.cgroup(UID[2], ID[2])
    world.cgroup(UID[3], ID[3])  # nobody's
    for name in ("t_total", "kpod_pod_info", "kpod_container_info", "kpod_container_restarts"):
        found = world.series(name)
        assert len(found) >= 2
        for labels, _ in found:
            assert {k for k in labels if k.startswith("label_")} == {"label_app", "label_tier_x_y"}
    accept = FORMATS[lib.KPOD_PROTOBUF].content_type
    for family in protobuf_families(get_bytes(world.app, "/metrics", accept=accept)[2]):
        if family.name.startswith(("kpod_pod_", "kpod_container_")):
            for metric in family.metric:
                assert {"label_app", "label_tier_x_y"} <= {label.name for label in metric.label}
    apps = [labels["label_app"] for labels, _ in world.of_pods()]
    assert apps == ["card <scrubbed> x", ""]
    # A label that changes is changed with the next snapshot.
    world.table.put(pod(UID[1], "a", {"c": ID[1]}, labels={"app": "new"}))
    assert [labels["label_app"] for labels, _ in world.of_pods()] == ["new", ""]


def test_filters(tmp_path: Path) -> None:
    world = World(tmp_path, Policy(selector=parse_selector("show=yes")))
    world.table.put(pod(UID[1], "a", {"c": ID[1]}, labels={"show": "yes"}))
    world.table.put(pod(UID[2], "b", {"c": ID[2]}))
    world.cgroup(UID[1], ID[1])
    world.cgroup(UID[2], ID[2], died_ns=4)
    assert [labels["pod"] for labels, _ in world.of_pods()] == ["a"]
    assert [labels["pod"] for labels, _ in world.series("kpod_pod_info")] == ["a"]
    world.table.put(pod(UID[1], "a", {"c": ID[1]}))
    assert world.of_pods() == []
    assert ({"state": "filtered"}, 2) in world.series("kpod_pods_cgroups")
    world.table.put(pod(UID[1], "a", {"c": ID[1]}, labels={"show": "yes"}))
    assert [labels["pod"] for labels, _ in world.of_pods()] == ["a"]


@pytest.mark.parametrize(
    ("namespaces", "exclude", "shown"),
    [((), (), True), (("n",), (), True), (("m",), (), False), ((), ("n",), False)],
)
def test_namespaces(namespaces: Sequence[str], exclude: Sequence[str], shown: bool) -> None:
    policy = Policy(namespaces=frozenset(namespaces), exclude_namespaces=frozenset(exclude))
    assert policy.shows(pod(UID[1])) == shown


@pytest.mark.parametrize(
    ("selector", "shown"),
    [
        ("", True),
        ("a=1", True),
        ("a==1,b", True),
        ("a=2", False),
        ("a!=2", True),
        ("c!=2", True),
        ("a in (1, 2),b notin (1)", True),
        ("a in (2)", False),
        ("c notin (2)", True),
        ("!c", True),
        ("!a", False),
        ("c", False),
        ("x.y/z-w=", False),
        (" ", True),
        ("b in ()", True),
        ("b notin (x,,y)", False),
        ("a in (2,),c notin ( )", False),
        ("b in(,)", True),
        ("a in (in, 1)", True),
        ("a>0", True),
        ("a > 1", False),
        ("a<2,a>0", True),
        ("a<1", False),
        ("b<1", False),
        ("c<1", False),
        ("big>0", False),
    ],
)
def test_selectors(selector: str, shown: bool) -> None:
    policy = Policy(selector=parse_selector(selector))
    assert policy.shows(pod(UID[1], labels={"a": "1", "b": "", "big": str(2**63)})) == shown


# What apimachinery's labels.Parse refuses, too.
NO_SELECTORS = ["a=ü", "ü", "a in (1 2)", "a=-x", "a=x.", "a-", "x/y/z", "X/y", "/y", "!a<1"]
NO_SELECTORS += ["a=1,,b", "a=1, ", "a>", "a>x", "a>-1", f"a={'x' * 64}", "x" * 64, "a in 1)", "!"]


@pytest.mark.parametrize(
    "selector", ["=", "a=1,", ",a", "a b", "a in 1", "!a=1", "a in (1", "a=1 b=2", *NO_SELECTORS]
)
def test_bad_selectors(selector: str) -> None:
    with pytest.raises(ValueError, match="label selector"):
        parse_selector(selector)


@given(st.text(max_size=30))
def test_any_selector_is_one_or_an_error(text: str) -> None:
    with suppress(ValueError):
        parse_selector(text)


HOSTILE = [
    'quotes " and \\ and \n newlines',
    "ünïcödé 猫 🐈",
    "x" * 4096,
    "\n" * 4096,
    "猫" * 4000,
    "\\n",
    "\r\t\x00\x7f\x85\x9f\u2028\u2029\x0b\x1c",
    '"} 1\nt_total{scope="host"} 666',
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_parse_back(tmp_path: Path, value: str) -> None:
    """With prometheus-client and promtool: the value without what would end a line, cut at 4096
    bytes as documented."""
    world = World(tmp_path, Policy(("l",)))
    document = pod(UID[1], "a", {"c": ID[1]}, labels={"l": value})
    world.table.put(document)
    world.cgroup(UID[1], ID[1])
    wanted = safe(value.encode()[:4096].decode(errors="ignore"))
    ((labels, number),) = world.of_pods()
    assert (labels["label_l"], number) == (wanted, 101)
    assert [labels["label_l"] for labels, _ in world.series("kpod_pod_info")] == [wanted]
    if not PROMTOOL.exists():
        pytest.fail(f"{PROMTOOL} is missing: make setup-test")
    body = world.scrape().encode()
    checked = subprocess.run([PROMTOOL, "check", "metrics"], input=body, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_too_many_long_labels_are_shown_empty(tmp_path: Path) -> None:
    """The line has an end; which value goes is the order of the list."""
    keys = tuple(f"k{i}" for i in range(5))
    world = World(tmp_path, Policy(keys))
    world.table.put(pod(UID[1], "a", {"c": ID[1]}, labels=dict.fromkeys(keys, "\n" * 2000)))
    world.cgroup(UID[1], ID[1])
    ((labels, _),) = world.of_pods()
    assert [len(labels[f"label_{k}"]) for k in keys] == [2000, 2000, 0, 0, 0]


def test_hostile_names(tmp_path: Path) -> None:
    """The API does not allow them. Whoever is there instead of it cannot break the scrape."""
    world = World(tmp_path)
    huge = pod(UID[1], '"\\\n' * 9000, {"\n" * 9000: ID[1]}, resourceVersion="\n" * 9000)
    world.table.put(huge)
    world.cgroup(UID[1], ID[1])
    ((labels, value),) = world.of_pods()
    assert (labels["pod"], value) == (('"\\_' * 171)[:512], 101)


def test_info(tmp_path: Path) -> None:
    world = World(tmp_path)
    fixtures = Path(__file__).parent.parent / "fixtures"
    for item in json.loads((fixtures / "podlist.json").read_text())["items"]:
        known = decode_pod(json.dumps(item).encode())
        world.table.put(known)
        world.cgroup(known.cgroup_uid, ID[9])
    infos = {labels["pod"]: labels for labels, value in world.series("kpod_pod_info") if value == 1}
    assert len(infos) == 7
    assert infos["frontend-6f54c57889-nmgsq"] == {
        "namespace": "shop",
        "pod": "frontend-6f54c57889-nmgsq",
        "container": "",
        "pod_uid": "b6f92885-55cf-4dcd-a70e-b4a4eab6165a",
        "uid": "b6f92885-55cf-4dcd-a70e-b4a4eab6165a",
        "node": "n1",
        "ip": "10.88.0.4",
        "host_ip": "10.99.0.1",
        "qos": "Burstable",
        "owner_kind": "Deployment",
        "owner_name": "frontend",
    }
    web = infos["static-web-node-a"]
    assert (web["pod_uid"], web["uid"]) == (HASH, "14eb4fe1-85d5-4468-b050-cb2de3eaf58d")
    containers = {
        (labels["pod"], labels["container"]): labels
        for labels, _ in world.series("kpod_container_info")
    }
    assert containers["static-web-node-a", "web"]["container_id"].startswith("5a7edd41f5b8f319")
    assert containers["static-web-node-a", "web"]["image"]
    restarts = {
        (labels["pod"], labels["container"]): value
        for labels, value in world.series("kpod_container_restarts")
    }
    assert restarts["crasher", "boom"] == 1
    assert restarts["db-0", "db"] == 0
    assert len(restarts) == len(containers) == 13


@pytest.mark.parametrize(
    ("limits", "shown", "rows"),
    [
        # Series of pods themselves come last, so they are what is cut first.
        (Limits(per_family=7), (7, 6, 6), 7),
        (Limits(per_family=5), (5, 4, 4), 5),
        (Limits(total=21), (10, 0, 0), 11),
        (Limits(total=27), (10, 6, 0), 11),
        (Limits(total=11), (0, 0, 0), 11),
        (Limits(total=4), (0, 0, 0), 4),
        (Limits(page=0), (0, 0, 0), 0),
        (Limits(), (10, 20, 20), 11),
    ],
)
def test_series_of_pods_are_within_the_limits(
    tmp_path: Path, limits: Limits, shown: tuple[int, ...], rows: int
) -> None:
    """A pod's whole or not at all in a family; the first pods; and what is cut is said."""
    world = World(tmp_path, limits=limits)
    world.info.reserve = 0
    for i in range(10):
        uid = f"{i:08x}-5555-2222-3333-444444444444"
        ids = {"a": f"{2 * i:064x}", "b": f"{2 * i + 1:064x}"}
        world.table.put(pod(uid, f"p-{i}", ids))
        world.cgroup(uid, ids["a"])
    text = world.scrape()
    found = Counter(name for name, _ in text_samples(text))
    families = ("kpod_pod_info", "kpod_container_info", "kpod_container_restarts")
    assert tuple(found[name] for name in families) == shown
    assert found["t_total"] == rows
    there = {"t_total": 11, **dict(zip(families, (10, 20, 20), strict=True))}
    cut = {
        dict(labels)["family"]: v
        for (name, labels), v in text_samples(text).items()
        if name == "kpod_series_cut"
    }
    assert cut == {name: n - found[name] for name, n in there.items() if n > found[name]}
    names = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert set(families) & set(names) == {name for name in families if found[name]}


def test_lines_of_pods_that_went_are_forgotten_by_scrapes_that_end_early(tmp_path: Path) -> None:
    world = World(tmp_path)
    for i in range(100):
        world.table.put(pod(f"u{i}", f"p{i}"))
        world.table.in_use = {f"u{i}"}
        next(world.info.render(lib.KPOD_TEXT))
        world.table.remove(f"u{i}")
    assert sum(map(len, world.info._made.values())) <= 1


def test_mirrors_are_no_series_twice(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cgroup(HASH, ID[1])
    world.table.put(static("api-1", "web", {"w": ID[1]}))
    assert len(world.of_pods()) == 1
    world.table.remove("api-1")
    assert len(world.series("kpod_pod_info")) == 1, "as long as its series are"
    world.table.put(static("api-2", "web", {"w": ID[1]}))
    assert [labels["uid"] for labels, _ in world.series("kpod_pod_info")] == ["api-2"]


def test_readiness_names_each_reason(tmp_path: Path) -> None:
    world = World(tmp_path)
    status, _, body = get(world.app, "/readyz")
    assert status == 503
    assert body == (
        f"not ready: segment {tmp_path}/segment is absent\n"
        "not ready: pods from the api: no pods known yet\n"
    )
    world.snapshot()
    world.source.fail(SourceError("403", "/api/v1/pods answers Forbidden"))
    assert get(world.app, "/readyz")[::2] == (
        503,
        "not ready: pods from the api: no pods known yet (403: /api/v1/pods answers Forbidden)\n",
    )
    world.source.in_sync()
    assert get(world.app, "/readyz")[::2] == (200, "ready\n")
    assert "pods from the api: 0 pods known (403" in get(world.app, "/")[2]
    (tmp_path / "segment").unlink()
    (tmp_path / "segment").write_bytes(bytes(5000))
    assert get(world.app, "/readyz")[::2] == (
        503,
        f"not ready: segment {tmp_path}/segment is incompatible (not a kpod segment)\n",
    )


def test_source_metrics(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.source.fail(SourceError("429", "no"))
    world.source.requests["list"] += 2
    world.table.put(pod(UID[1], "a"))
    assert world.series("kpod_pods_errors_total") == [({"reason": "429"}, 1)]
    assert world.series("kpod_pods_requests_total") == [({"verb": "list"}, 2)]
    assert world.series("kpod_pods_known") == [({}, 1)]
    assert world.series("kpod_pods_synced") == [({}, 0)]
    world.source.in_sync()
    ((_, when),) = world.series("kpod_pods_last_sync_timestamp_seconds")
    assert abs(when - time.time()) < 60


def test_modes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("NODE_NAME", raising=False)
    assert arguments([]).pods == "none"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert arguments(["--node", "n"]).pods == "api"
    assert arguments(["--pods", "none"]).pods == "none"
    policy = arguments(["--node", "n", "--pod-labels", "a, b", "--namespaces", "x"]).policy
    assert (policy.labels, policy.namespaces) == (("a", "b"), {"x"})
    for bad, why in (
        ([], "needs the node's name"),
        (["--node=n", "--scrub=("], "'(' is no regular expression"),
        (["--node=n", "--pod-selector=a b"], "'a b' is not a label selector"),
        (["--node=n", "--pod-labels=a-b,a.b"], "two pod labels would both be label_a_b"),
        (["--node=n", "--name-grace=x"], "'x' is not a number of seconds"),
        (["--node=n", "--kubelet=10.0.0.1:10250"], "'10.0.0.1:10250' is not http(s)://"),
        (["--node=n", "--kubelet=https://h:99999"], "'https://h:99999' is not http(s)://"),
        (["--node=n", "--kubelet=https://[::1"], "'https://[::1' is not http(s)://"),
    ):
        with pytest.raises(SystemExit):
            arguments(bad)
        assert why in capsys.readouterr().err


def shown(world: World) -> dict[str, tuple[str, float]]:
    """Pod and value by container id of what the store has now; no series is there twice."""
    assert world.store.snapshot
    text = b"".join(world.store.snapshot.render(lib.KPOD_TEXT)).decode()
    found = [
        (s.labels["container_id"], s.labels.get("pod", ""), s.value)
        for family in text_string_to_metric_families(text)
        for s in family.samples
        if s.labels["scope"] == "container"
    ]
    assert len({cid for cid, _, _ in found}) == len(found)
    return {cid: (name, value) for cid, name, value in found}


MANY = 3 * NAMED_AT_ONCE


def many(directory: Path) -> World:
    """More containers than are named at once; they have waited long enough."""
    world = World(directory)
    world.now += 100 * GRACE_NS
    for i in range(MANY):
        world.cgroup(UID[i % 10], f"{i:064x}", died_ns=5)
    world.snapshot()
    return world


def test_a_snapshot_whose_naming_was_cut_off_is_named_by_the_next(tmp_path: Path) -> None:
    async def run() -> None:
        world = many(tmp_path)
        first = asyncio.create_task(world.store.update())
        waiting = asyncio.create_task(world.store.update())
        await asyncio.sleep(0)
        first.cancel()
        assert await waiting == "live"
        assert first.cancelled()
        assert len(shown(world)) == MANY

    asyncio.run(run())


def test_a_snapshot_that_could_not_be_named_is_not_taken_for_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        world = many(tmp_path)
        with monkeypatch.context() as patch:
            patch.setattr(world.table, "find", lambda *_: 1 // 0)
            for _ in range(2):
                with pytest.raises(ZeroDivisionError):
                    await world.store.update()
        await world.store.update()
        assert len(shown(world)) == MANY

    asyncio.run(run())


@pytest.mark.parametrize("seed", range(4))
def test_anything_between_the_turns_of_naming(tmp_path: Path, seed: int) -> None:
    """Events, snapshots, other loaders and scrapes that end: at last every row has its name."""
    rng = random.Random(seed)

    async def run() -> None:
        world = many(tmp_path)
        segment = world.segment
        assert segment
        scrapes = [asyncio.create_task(world.store.update())]
        for step in range(40):
            at = rng.randrange(MANY)
            match rng.randrange(5):
                case 0:
                    world.table.put(pod(UID[at % 10], f"{step}", {"c": f"{at:064x}"}))
                case 1:
                    world.table.remove(UID[at % 10])
                case 2:
                    rng.choice(scrapes).cancel()
                case 3:
                    world.snapshot()
                case 4:
                    segment.generation += 1
                    segment.set("generation", segment.generation)
                    segment.seal()
                    segment.write(tmp_path / "segment")
            scrapes.append(asyncio.create_task(world.store.update()))
            await asyncio.sleep(0)
            if world.store.snapshot:
                shown(world)
        for error in await asyncio.gather(*scrapes, return_exceptions=True):
            assert error == "live" or isinstance(error, asyncio.CancelledError)
        for i in range(10):
            world.table.put(pod(UID[i], f"end-{i}", {"c": f"{i:064x}"}))
        world.snapshot()
        await world.store.update()
        wanted = {f"{i:064x}": (f"end-{i % 10}", 101 + i) for i in range(MANY)}
        assert shown(world) == wanted

    asyncio.run(run())


@given(st.text(max_size=100), st.text(min_size=1, max_size=100))
def test_any_path_and_name_have_labels(where: str, value: str) -> None:
    found = PodTable(lambda: 0)
    found.synced_ns = 0
    found.put(pod(UID[1], value.encode(errors="replace").decode(), {"c": ID[1]}))
    names = Names(found, clock=lambda: 0, grace_ns=0)
    for text in (where, path(UID[1], ID[1]), path(UID[1], where)):
        labels = names(Owner(POD_CONTAINER, 7, text))
        assert labels
        assert labels[0] == ("scope", "container")
    dict_: dict[str, Any] = dict(names(Owner(POD_CONTAINER, 7, path(UID[1], ID[1]))) or ())
    assert dict_["container"] == "c"


def test_page_has_the_same_names_and_the_same_filter(tmp_path: Path) -> None:
    """At / and /api/v1: nothing of a pod that is filtered out, and what is scrubbed is so there."""
    policy = Policy(scrub=re.compile("secret"), exclude_namespaces=frozenset({"hidden"}))
    world = World(tmp_path, policy, all_ids=False)
    # Of a random name: no series of it has a pod_uid, and two pods may have the same name.
    shown = raw(UID[1], "a-bcdfg", {"c": ID[1], "d": ID[2]}, generateName="a-")
    shown["status"]["containerStatuses"][0]["image"] = "registry/secret/image:1"
    world.table.put(decode_pod(json.dumps(shown).encode()))
    world.table.put(pod(UID[2], "b-1", {"c": ID[3]}, namespace="hidden"))
    for uid, cid in ((UID[1], ID[1]), (UID[1], ID[2]), (UID[2], ID[3])):
        world.cgroup(uid, cid)
    world.snapshot()
    body = get(world.app, "/")[2]
    assert re.findall(r'<tr><th scope="row"><a [^>]*>([^<]*)</a><small>([^<]*)', body) == [
        ("a-bcdfg", "n, 2 containers")
    ]
    assert [labels.get("pod_uid") for labels, _ in world.series() if labels.get("pod")] == [
        None
    ] * 2
    rows = json.loads(get(world.app, "/api/v1/pods")[2])["pods"]
    assert [(row["namespace"], row["name"], row["containers"]) for row in rows] == [
        (None, "host: all that is not listed", 0),
        ("n", "a-bcdfg", 2),
    ]
    assert [row["id"] for row in rows] == ["host", f"pod:{UID[1]}"]
    assert "b-1" not in body
    facts = world.app._facts(world.app._rows.of(world.store.snapshot)[1])
    assert dict(facts)["uid"] == UID[1]
    assert dict(facts)["images"] == "registry/<scrubbed>/image:1"
    assert world.info.facts(UID[2]) == ()
    assert world.info.images(UID[2]) == {}
