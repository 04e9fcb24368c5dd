"""Names out of cgroup paths."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.resolver import (
    CONTAINER,
    HOST,
    POD_CONTAINER,
    UNIT,
    CgroupName,
    Owner,
    parse_path,
    standalone,
)

ID = "0123456789abcdef" * 4
UID = "12345678-1234-1234-1234-1234567890ab"
UID_ = UID.replace("-", "_")
HASH = ID[:32]

PATHS = [
    (
        f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice/"
        f"cri-containerd-{ID}.scope",
        CgroupName(UID, ID),
    ),
    (
        f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope",
        CgroupName(UID, ID),
    ),
    (f"/kubepods/besteffort/pod{UID}/{ID}", CgroupName(UID, ID)),
    (f"/kubelet/kubepods/pod{HASH}/{ID}", CgroupName(HASH, ID)),
    (f"/kubepods.slice/kubepods-pod{HASH}.slice/docker-{ID}.scope", CgroupName(HASH, ID)),
    (f"/kubepods/pod{UID}/crio-conmon-x.scope", CgroupName(UID, "crio-conmon-x.scope")),
    # kind: the node is a container itself
    (
        f"/system.slice/docker-{'f' * 64}.scope/kubelet.slice/kubelet-kubepods.slice/"
        f"kubelet-kubepods-pod{UID_}.slice/cri-containerd-{ID}.scope",
        CgroupName(UID, ID),
    ),
    (f"/system.slice/docker-{ID}.scope", CgroupName("", ID)),
    (f"/docker/{ID}", CgroupName("", ID)),
    (f"/machine.slice/libpod-{ID}.scope", CgroupName("", ID)),
    ("/system.slice/nginx.service", CgroupName("", "", "nginx.service")),
    ("/user.slice/user-0.slice/session-1.scope", CgroupName("", "", "session-1.scope")),
]


@pytest.mark.parametrize(("path", "name"), PATHS, ids=lambda p: p if isinstance(p, str) else "")
def test_paths(path: str, name: CgroupName) -> None:
    assert parse_path(path) == name


def test_recorded_paths_of_a_real_kubelet() -> None:
    """Each container directory names a pod, and every running container of the kubelet's is there.

    The others are the pods' sandboxes, which the kubelet does not list.
    """
    fixtures = Path(__file__).parent.parent / "fixtures"
    lines = (fixtures / "cgroup-paths.txt").read_text().splitlines()
    found = {parse_path("/" + path) for path in lines if re.search(r"/pod[^/]+/", path)}
    pods = json.loads((fixtures / "kubelet-pods.json").read_text())["items"]
    uids = set()
    for pod in pods:
        meta = pod["metadata"]
        # A static pod's cgroup has the hash of its manifest for an API uid.
        uid = meta.get("annotations", {}).get("kubernetes.io/config.hash", meta["uid"])
        uids.add(uid)
        for container in pod["status"].get("containerStatuses", []):
            if "running" in container["state"]:
                container_id = container["containerID"].removeprefix("containerd://")
                assert CgroupName(uid, container_id) in found
    assert {name.pod_uid for name in found} <= uids
    assert len(found) >= 10


@given(st.text(max_size=200))
def test_any_path_has_an_answer(path: str) -> None:
    parse_path(path)
    for kind in (HOST, UNIT, CONTAINER, POD_CONTAINER):
        labels = standalone(Owner(kind, 7, path))
        assert labels[0][0] == "scope"


def test_standalone_labels() -> None:
    assert standalone(Owner(HOST, 1, "/")) == (("scope", "host"),)
    assert dict(standalone(Owner(POD_CONTAINER, 7, PATHS[0][0]))) == {
        "scope": "pod",
        "pod_uid": UID,
        "container_id": ID,
    }
    assert dict(standalone(Owner(CONTAINER, 7, f"/docker/{ID}"))) == {
        "scope": "container",
        "container_id": ID,
        "cgroup_id": "7",
    }
    assert dict(standalone(Owner(UNIT, 7, "/a.service"))) == {
        "scope": "unit",
        "container": "a.service",
        "cgroup_id": "7",
    }
    # A path too long for the kernel program is empty; the series still has a name of its own.
    assert dict(standalone(Owner(POD_CONTAINER, 7, "")))["container_id"] == "cgroup:7"
