"""Names out of cgroup paths."""

import ctypes
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.pods.resolver import (
    CONTAINER,
    HOST,
    POD,
    POD_CONTAINER,
    UNIT,
    CgroupName,
    parse_path,
    standalone,
)
from aggregator.segment.owner import Owner
from tests.aggregator.paths import ID, PATHS, UID

ROOT = Path(__file__).parent.parent.parent
TAIL = 80  # KPOD_NAME_TAIL

Classify = Callable[[int, bytes], int]


@pytest.fixture(scope="module")
def classify(tmp_path_factory: pytest.TempPathFactory) -> Classify:
    """The rule that kernel program and loader have."""
    directory = tmp_path_factory.mktemp("classify")
    (directory / "c.c").write_text(
        f'#include "{ROOT}/bpf/classify.h"\n'
        "int kind(int above, const char *tail) { return kpod_classify(above, tail); }\n"
    )
    library = directory / "c.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, directory / "c.c"], check=True)
    return ctypes.CDLL(str(library)).kind


def slot(classify: Classify, path: str) -> tuple[int, str]:
    """Kind and path of the cgroup whose slot this one's events go to."""
    above, kind, owner, at = HOST, HOST, "", ""
    for part in path.strip("/").split("/"):
        at += f"/{part}"
        found = classify(above, part.encode()[-TAIL:].rjust(TAIL, b"\0"))
        above = found or above
        if found not in (HOST, POD):
            kind, owner = found, at
    return kind, owner


@pytest.mark.parametrize(
    ("path", "kind", "uid", "name"), [row[1:] for row in PATHS], ids=[row[0] for row in PATHS]
)
def test_paths(classify: Classify, path: str, kind: int, uid: str, name: str) -> None:
    """Who has the slot is the kernel's decision, what it is called is ours: they agree."""
    assert len(PATHS) >= 40
    found, owner = slot(classify, path)
    assert found == kind
    if kind == UNIT:
        assert parse_path(owner) == CgroupName(unit=name)
    elif kind != HOST:
        assert parse_path(owner) == CgroupName(uid, name)
        if kind == POD_CONTAINER:
            assert parse_path(path) == CgroupName(uid, name), "from deeper down too"


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


PIECES = [part for row in PATHS for part in row[1].split("/")]


@given(
    st.text(max_size=200)
    | st.binary(max_size=512).map(lambda raw: raw.decode(errors="replace"))
    | st.lists(st.sampled_from(PIECES) | st.text(max_size=9), max_size=9).map("/".join)
)
def test_any_path_has_an_answer(path: str) -> None:
    parse_path(path)
    for kind in (HOST, UNIT, CONTAINER, POD_CONTAINER):
        labels = standalone(Owner(kind, 7, path))
        assert labels
        assert labels[0][0] == "scope"


def test_standalone_labels() -> None:
    assert standalone(Owner(HOST, 1, "/")) == (("scope", "host"),)
    assert dict(standalone(Owner(POD_CONTAINER, 7, PATHS[0][1]))) == {
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
