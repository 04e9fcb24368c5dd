"""Pods out of JSON, and the table over time."""

import json
from pathlib import Path
from typing import Any

import pytest

from aggregator.pods.kinds import POD_CONTAINER
from aggregator.pods.resolver import parse_path
from aggregator.pods.table import KEEP_NS, MIRROR, Container, PodTable, decode_pod

FIXTURES = Path(__file__).parent.parent / "fixtures"
ID = [f"{i:064x}" for i in range(10)]
HASH = "4d66c26f839ed16d7f2bc67063389b92"


STATEFUL = {"kind": "StatefulSet", "name": "db", "controller": True}


def podlist(name: str) -> dict[str, dict[str, Any]]:
    items = json.loads((FIXTURES / name).read_text())["items"]
    return {item["metadata"]["name"]: item for item in items}


def raw(
    uid: str, name: str = "p", ids: dict[str, str] | None = None, **more: Any
) -> dict[str, Any]:
    """A pod with containers name -> id."""
    return {
        "metadata": {"uid": uid, "name": name, "namespace": "n", **more},
        "status": {
            "containerStatuses": [
                {"name": name, "containerID": f"containerd://{cid}"}
                for name, cid in (ids or {}).items()
            ]
        },
    }


def pod(*args: Any, **more: Any) -> Any:
    return decode_pod(json.dumps(raw(*args, **more)).encode())


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


def test_recorded_pods() -> None:
    pods = {
        name: decode_pod(json.dumps(item).encode())
        for name, item in podlist("podlist.json").items()
    }
    web = pods["frontend-6f54c57889-nmgsq"]
    assert (web.namespace, web.node, web.ip, web.host_ip, web.qos) == (
        *("shop", "node-a", "10.88.0.4", "10.99.0.1"),
        "Burstable",
    )
    assert (web.owner_kind, web.owner_name) == ("Deployment", "frontend")
    assert web.labels["app.kubernetes.io/component"] == "web"
    assert [c.name for c in web.containers] == ["migrate", "proxy", "sidecar", "web"]
    assert all(len(c.id) == 64 and c.image for c in web.containers)
    assert web.uid == web.cgroup_uid
    owners = {name: (p.owner_kind, p.owner_name) for name, p in pods.items()}
    assert owners["db-0"] == ("StatefulSet", "db")
    assert owners["agent-2mbhz"] == ("DaemonSet", "agent")
    assert owners["oneshot"] == ("", "")
    static = pods["static-web-node-a"]
    assert (static.cgroup_uid, static.owner_kind, static.owner_name) == (HASH, "Node", "node-a")
    crasher = pods["crasher"]
    assert crasher.containers[0].restarts == 1
    assert list(crasher.ended.values()) == ["boom"]


def test_recorded_names_that_no_other_pod_has() -> None:
    """Those that the API server made up; a StatefulSet's have a generateName too."""
    found = {
        name: decode_pod(json.dumps(p).encode()) for name, p in podlist("podlist.json").items()
    }
    generated = {name for name, p in found.items() if p.generated}
    assert generated >= {"frontend-6f54c57889-nmgsq", "agent-2mbhz"}
    assert not generated & {"db-0", "crasher", "oneshot", "static-web-node-a"}
    for name, more, expected in (
        ("web-bcdfg", {"generateName": "web-"}, True),
        ("web-bcdfg", {}, False),
        ("web-other", {"generateName": "web-"}, False),  # no vowels
        ("bcdfg", {"generateName": ""}, False),
        ("api-bcdfg", {"generateName": "web-"}, False),
        (f"{'n' * 58}bcdfg", {"generateName": "n" * 70}, True),
        ("web-bcdfg", {"generateName": "web-", "annotations": {MIRROR: HASH}}, False),
        ("db-24567", {"generateName": "db-", "ownerReferences": [STATEFUL]}, False),
    ):
        assert pod("u", name, **more).generated == expected, name


def test_recorded_restarts_say_which_container_was_the_first() -> None:
    """Whenever a table comes to know of it: an id's attempt is the same in each event."""
    events = [
        json.loads(line)["object"]
        for name in ("watch-start.ndjson", "watch-delete.ndjson")
        for line in (FIXTURES / name).read_text().splitlines()
    ]
    crasher = [e for e in events if e["metadata"].get("name") == "crasher"]
    uid = crasher[0]["metadata"]["uid"]
    attempts: dict[str, int] = {}
    for event in crasher:
        for status in event["status"].get("containerStatuses", ()):
            if cid := status.get("containerID", "").removeprefix("containerd://"):
                assert attempts.setdefault(cid, status["restartCount"]) == status["restartCount"]
    assert sorted(attempts.values())[:4] == [0, 1, 2, 3]
    for start in range(len(crasher)):
        table = PodTable(Clock())
        for event in crasher[start:]:
            table.put(decode_pod(json.dumps(event).encode()))
            for cid, attempt in attempts.items():
                found = table.find(uid, cid)
                assert found
                if found.container:
                    assert found.again == (attempt > 0)


def test_owner_of_a_job() -> None:
    def owner(name: str, created: str, kind: str = "Job") -> tuple[str, str]:
        found = pod(
            "u",
            creationTimestamp=created,
            ownerReferences=[{"kind": kind, "name": name, "controller": True}],
        )
        return found.owner_kind, found.owner_name

    # 29924673 minutes after 1970 is the minute before.
    assert owner("report-29924673", "2026-11-24T00:33:01Z") == ("CronJob", "report")
    assert owner("backup-20240101", "2026-11-24T00:33:01Z") == ("Job", "backup-20240101")
    assert owner("report-29924673", "no time") == ("Job", "report-29924673")
    assert owner("web-abc", "2026-11-24T00:33:01Z", "ReplicaSet") == ("ReplicaSet", "web-abc")


def test_all_kinds_of_containers() -> None:
    document = raw("u")
    document["status"] = {
        kind: [{"name": kind, "containerID": f"cri-o://{cid}", "image": "i", "restartCount": 2}]
        for kind, cid in zip(
            ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"),
            ID[:3],
            strict=True,
        )
    }
    found = decode_pod(json.dumps(document).encode())
    assert found.containers == tuple(
        Container(kind, cid, "i", "", 2)
        for kind, cid in zip(document["status"], ID[:3], strict=True)
    )


def find(table: PodTable, uid: str, cid: str = "") -> tuple[str, str] | None:
    found = table.find(uid, cid)
    return (found[0].name, found[1]) if found else None


def test_restarts_and_replacements_keep_their_names() -> None:
    table = PodTable(Clock())
    table.put(pod("u1", "db-0", {"db": ID[1]}))
    table.put(pod("u1", "db-0", {"db": ID[2]}))
    assert find(table, "u1", ID[1]) == find(table, "u1", ID[2]) == ("db-0", "db")
    assert find(table, "u1", ID[3]) == ("db-0", ""), "its sandbox"
    table.remove("u1")
    table.put(pod("u2", "db-0", {"db": ID[4]}))
    assert find(table, "u1", ID[1]) == ("db-0", "db")
    found = table.find("u2", ID[4])
    assert found
    assert found[0].uid == "u2"
    # An id belongs to the pod whose cgroup it is in.
    assert find(table, "u2", ID[1]) == ("db-0", "")
    assert find(table, "u3", ID[1]) is None
    assert len(table) == 1


def test_what_left_is_forgotten_when_nothing_uses_it() -> None:
    clock = Clock()
    table = PodTable(clock)
    table.put(pod("u1", "a", {"c": ID[1]}))
    table.put(pod("u1", "a", {"c": ID[2]}))
    table.put(pod("u2", "b", {"c": ID[3]}))
    table.remove("u2")
    clock.now = KEEP_NS - 1
    table.expire()
    assert find(table, "u1", ID[1]) == ("a", "c")
    assert find(table, "u2", ID[3]) == ("b", "c")
    table.in_use = {"u1", "u2", ID[1]}
    clock.now = KEEP_NS
    table.expire()
    assert find(table, "u1", ID[1]) == ("a", "c"), "the loader still shows it"
    assert find(table, "u2", ID[3]) == ("b", "c")
    assert {p.name for p in table.shown()} == {"a", "b"}
    table.in_use = set()
    assert table.shown() == []
    clock.now = 2 * KEEP_NS
    table.expire()
    assert find(table, "u1", ID[1]) == ("a", "")
    assert find(table, "u1", ID[2]) == ("a", "c"), "what is, stays"
    assert find(table, "u2") is None


def test_a_pod_that_comes_back_is_not_forgotten() -> None:
    """Gone from one list and in the next again: the first departure does not count any more."""
    clock = Clock()
    table = PodTable(clock)
    table.put(pod("u1", "a", {"c": ID[1]}))
    table.replace([])
    clock.now = KEEP_NS // 2
    table.replace([pod("u1", "a", {"c": ID[1]})])
    clock.now = 2 * KEEP_NS
    table.expire()
    assert find(table, "u1", ID[1]) == ("a", "c")
    table.remove("u1")
    clock.now += KEEP_NS
    table.expire()
    assert find(table, "u1") is None


def test_a_crash_loop_does_not_grow_for_ever() -> None:
    clock = Clock()
    table = PodTable(clock)
    for i in range(1000):
        clock.now = i * KEEP_NS // 10
        table.put(pod("u1", "a", {"c": f"{i:064x}"}))
        table.expire()
    assert sum(find(table, "u1", f"{i:064x}") == ("a", "c") for i in range(1000)) <= 12


def static(uid: str, name: str, ids: dict[str, str]) -> Any:
    return pod(uid, name, ids, annotations={"kubernetes.io/config.mirror": HASH})


def test_static_pods_and_their_mirrors() -> None:
    clock = Clock()
    table = PodTable(clock)
    table.put(static("api-1", "web", {"w": ID[1]}))
    assert find(table, HASH, ID[1]) == ("web", "w")
    # The mirror is made anew, the pod goes on.
    table.remove("api-1")
    table.put(static("api-2", "web", {"w": ID[1]}))
    found = table.find(HASH, ID[1])
    assert found
    assert found[0].uid == "api-2"
    assert find(table, HASH, ID[9]) == ("web", "")
    table.in_use = {HASH}
    assert [p.uid for p in table.shown()] == ["api-2"]
    # Somebody claims to be it: nothing is taken from it, and what is unclear has no name.
    table.put(static("evil", "evil", {"x": ID[5]}))
    assert find(table, HASH, ID[1]) == ("web", "w")
    assert find(table, HASH, ID[9]) is None
    # A uid of the API's cannot be claimed, nor a claim be made later.
    table.put(pod("u1", "mine", {"c": ID[2]}))
    table.put(pod("evil2", "evil", annotations={"kubernetes.io/config.mirror": "u1"}))
    assert find(table, "u1", ID[7]) == ("mine", "")
    table.put(static("u1", "mine", {"c": ID[2]}))
    assert find(table, "u1", ID[2]) == ("mine", "c")
    for uid in ("api-2", "evil", "evil2", "u1"):
        table.remove(uid)
    table.in_use = set()
    clock.now = 10 * KEEP_NS
    table.expire()
    assert find(table, HASH, ID[1]) is None
    assert not table._by_hash
    assert not table._known


@pytest.mark.parametrize("uid", ["my-static-uid", "my_static_uid", "1234"])
def test_a_static_pod_with_a_uid_of_its_own_has_its_name(uid: str) -> None:
    """What its manifest says is the mirror's annotation and the cgroup's name, of either driver."""
    table = PodTable(Clock())
    table.put(pod("api-1", "web", {"w": ID[1]}, annotations={MIRROR: uid}))
    for path in (
        f"/kubepods/burstable/pod{uid}/{ID[1]}",
        f"/kubepods.slice/kubepods-pod{uid.replace('-', '_')}.slice/crio-{ID[1]}.scope",
    ):
        name = parse_path(POD_CONTAINER, path)
        assert find(table, name.pod_uid, name.container_id) == ("web", "w")


def test_changed_says_what_matters_to_labels() -> None:
    table = PodTable(Clock())
    first = pod("u1", "a", {"c": ID[1]}, labels={"l": "1"})
    table.put(first)
    assert table.take_changed() == {"u1"}
    table.put(pod("u1", "a", {"c": ID[1]}, labels={"l": "1"}, resourceVersion="9"))
    assert table.take_changed() == set()
    table.put(pod("u1", "a", {"c": ID[1]}, labels={"l": "2"}))
    assert table.take_changed() == {"u1"}
    table.put(pod("u1", "a", {"c": ID[1], "d": ID[2]}, labels={"l": "2"}))
    assert table.take_changed() == {"u1"}


@pytest.mark.parametrize(
    "document",
    [
        *("", "{", "[]", "null", '{"metadata":{}}'),
        '{"metadata":{"uid":"","name":"a","namespace":"b"}}',
        '{"metadata":{"uid":1,"name":"a","namespace":"b"}}',
    ],
)
def test_no_pod(document: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_pod(document.encode())
