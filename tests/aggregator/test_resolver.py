"""Names out of cgroup paths."""

import ctypes
import json
import os
import re
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.pods.kinds import CONTAINER, HOST, MACHINE, POD, POD_CONTAINER, UNIT
from aggregator.pods.resolver import CgroupName, parse_path, standalone
from aggregator.segment.owner import Owner
from tests.aggregator.paths import FORGED, ID, NODES, PATHS, SERVICES, UID
from tests.aggregator.paths import USER as USER_PATH

ROOT = Path(__file__).parent.parent.parent
NODE, LIBPOD, LXC, INNER = 1, 2, 4, 8  # KPOD_PLACE_…
KUBELET, USER = 6, 7
LEVELS = 16  # KPOD_LEVELS_MAX


class Rule:
    """The rule that kernel program and loader have, and how both go down a path by it."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def classify(self, above: int, flags: int, name: bytes) -> int:
        return int(self._library.kind(above, flags, name))

    def group(self, name: bytes) -> int:
        return int(self._library.group(name))

    def slot(self, path: str, nodes: Collection[str] = ()) -> tuple[int, str]:
        """Kind and path of the cgroup whose slot this one's events go to."""
        above, kind, owner, at = HOST, HOST, "", ""
        node, parent = True, ""
        for level, part in enumerate(path.strip("/").split("/"), 1):
            raw = os.fsencode(part)
            at += f"/{part}"
            flags = (NODE if node else 0) | (INNER if owner else 0)
            flags |= (LIBPOD if parent == "libpod_parent" else 0) | (
                LXC if parent in ("lxc", "lxc.payload") else 0
            )
            found = self.classify(above, flags, raw) if level <= LEVELS else HOST
            node = at in nodes or at in SERVICES
            parent, above = part, found or above
            if found not in (HOST, KUBELET):
                kind, owner = (UNIT if found == USER else found), at
                if found == UNIT and (size := self.group(raw)):
                    owner = at[: len(at) - len(part)] + os.fsdecode(raw[:size])
        return kind, owner


@pytest.fixture(scope="module")
def rule(tmp_path_factory: pytest.TempPathFactory) -> Rule:
    directory = tmp_path_factory.mktemp("classify")
    (directory / "c.c").write_text(
        "#include <string.h>\n"
        f'#include "{ROOT}/bpf/classify.h"\n'
        "static struct kpod_name name(const char *s)\n"
        "{\n"
        "\tsize_t size = strlen(s), kept = size < KPOD_NAME_TAIL ? size : KPOD_NAME_TAIL;\n"
        "\tstruct kpod_name n = {0};\n"
        "\tmemcpy(n.tail + KPOD_NAME_TAIL - kept, s + size - kept, kept);\n"
        "\tstrncpy(n.head, s, KPOD_NAME_HEAD - 1);\n"
        "\treturn n;\n"
        "}\n"
        "int kind(int above, int flags, const char *s)\n"
        "{\n"
        "\tstruct kpod_name n = name(s);\n"
        "\treturn kpod_classify(above, flags, &n);\n"
        "}\n"
        "int group(const char *s)\n"
        "{\n"
        "\tstruct kpod_name n = name(s);\n"
        "\tstruct kpod_group g;\n"
        "\treturn kpod_group_of(&n, &g);\n"
        "}\n"
    )
    library = directory / "c.so"
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, directory / "c.c"], check=True)
    return Rule(ctypes.CDLL(str(library)))


@pytest.mark.parametrize(
    ("path", "kind", "uid", "name"), [row[1:] for row in PATHS], ids=[row[0] for row in PATHS]
)
def test_paths(rule: Rule, path: str, kind: int, uid: str, name: str) -> None:
    """Who has the slot is the kernel's decision, what it is called is ours: they agree."""
    assert len(PATHS) >= 80
    found, owner = rule.slot(path, NODES)
    assert found == kind
    said = parse_path(kind, owner)
    if kind == UNIT:
        assert said == CgroupName(unit=name)
    elif kind == MACHINE:
        assert said == CgroupName(machine=name)
    elif kind != HOST:
        assert (said.pod_uid, said.container_id) == (uid, name)


@pytest.mark.parametrize(
    ("path", "kind"), [row[1:] for row in FORGED], ids=[row[0] for row in FORGED]
)
def test_nobody_else_is_a_pod(rule: Rule, path: str, kind: int) -> None:
    found, owner = rule.slot(path)
    assert found == kind
    labels = dict(standalone(Owner(found, 7, owner)))
    assert labels["scope"] != "pod"
    assert "pod_uid" not in labels


def test_a_users_container_says_whose_it_is() -> None:
    labels = standalone(Owner(CONTAINER, 7, f"{USER_PATH}/user.slice/libpod-{ID}.scope"))
    assert dict(labels) == {
        "scope": "container",
        "container_id": ID,
        "unit": "user-1000.slice",
        "cgroup_id": "7",
    }


TEXTS = [row[1] for row in PATHS] + [row[1] for row in FORGED]
PIECES = sorted({part for text in TEXTS for part in text.split("/") if part})
# What the kernel allows (cgroup_mkdir(), kernfs): any bytes but these, also such as are no UTF-8.
BYTES = st.binary(min_size=1, max_size=255).map(
    lambda raw: os.fsdecode(raw.translate(None, b"/\0\n") or b"x")
)
PARTS = (
    st.sampled_from(PIECES)
    | BYTES
    | st.tuples(st.sampled_from(PIECES), BYTES).map("".join)
    | st.tuples(BYTES, st.sampled_from(PIECES)).map("".join)
).filter(lambda part: part not in (".", "..") and len(os.fsencode(part)) < 256)


@settings(max_examples=500)
@given(st.lists(PARTS, min_size=1, max_size=12), st.data())
def test_nothing_outside_the_kubelets_root_is_ever_a_pod(
    rule: Rule, parts: list[str], data: st.DataObject
) -> None:
    """Whatever the cgroups on the way are called, with any bytes that the kernel allows."""
    cuts = data.draw(st.lists(st.integers(1, len(parts)), max_size=2))
    nodes = {"/" + "/".join(parts[:cut]) for cut in cuts}
    path = "/" + "/".join(parts)
    kind, _ = rule.slot(path, nodes)
    roots = [0] + [
        level for level in range(1, len(parts)) if "/" + "/".join(parts[:level]) in nodes | SERVICES
    ]
    below = any(
        parts[level] in ("kubepods", "kubepods.slice", "kubelet", "kubelet.slice")
        or parts[level].startswith("kubepods-")
        for level in roots
    )
    if kind in (POD, POD_CONTAINER):
        assert below, "a pod without a kubelet"


def test_the_services_are_the_loaders() -> None:
    text = (ROOT / "loader/cgroups/slots.c").read_text()
    listed = text[text.index("services[] = {") :].partition("};")[0]
    assert set(re.findall(r'"([^"]+)"', listed)) == SERVICES


def test_recorded_paths_of_a_real_kubelet(rule: Rule) -> None:
    """Each container directory names a pod, and every running container of the kubelet's is there.

    The others are the pods' sandboxes, which the kubelet does not list.
    """
    fixtures = Path(__file__).parent.parent / "fixtures"
    lines = (fixtures / "cgroup-paths.txt").read_text().splitlines()
    found = {
        parse_path(POD_CONTAINER, "/" + path)
        for path in lines
        if rule.slot(path) == (POD_CONTAINER, f"/{path}")
    }
    assert len(found) == sum(bool(re.search(r"/pod[^/]+/", path)) for path in lines)
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


@given(
    st.text(max_size=200)
    | st.binary(max_size=512).map(lambda raw: raw.decode(errors="replace"))
    | st.lists(st.sampled_from(PIECES) | st.text(max_size=9), max_size=9).map("/".join)
)
def test_any_path_has_an_answer(path: str) -> None:
    for kind in (HOST, UNIT, CONTAINER, POD, POD_CONTAINER, MACHINE):
        parse_path(kind, path)
        labels = standalone(Owner(kind, 7, path))
        assert labels
        assert labels[0][0] == "scope"


def test_standalone_labels() -> None:
    assert standalone(Owner(HOST, 1, "/")) == (("scope", "host"),)
    assert dict(standalone(Owner(POD_CONTAINER, 7, PATHS[0][1]))) == {
        "scope": "container",
        "pod_uid": UID,
        "container_id": ID,
    }
    assert dict(standalone(Owner(CONTAINER, 7, f"/docker/{ID}"))) == {
        "scope": "container",
        "container_id": ID,
        "unit": "",
        "cgroup_id": "7",
    }
    assert dict(standalone(Owner(POD, 7, f"/kubepods/pod{UID}"))) == {
        "scope": "pod",
        "pod_uid": UID,
    }
    assert dict(standalone(Owner(MACHINE, 7, "/lxc.payload.web"))) == {
        "scope": "machine",
        "machine": "web",
        "cgroup_id": "7",
    }
    assert dict(standalone(Owner(UNIT, 7, "/a.service"))) == {
        "scope": "unit",
        "unit": "a.service",
        "cgroup_id": "7",
    }
    # A path too long for the kernel program is empty; the series still has a name of its own.
    assert dict(standalone(Owner(POD_CONTAINER, 7, "")))["container_id"] == "cgroup:7"
