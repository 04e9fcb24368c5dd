"""From a cgroup path to the labels of its series."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from aggregator.exposition import Labels

# bpf/classify.h
HOST, UNIT, CONTAINER, POD, POD_CONTAINER = range(5)

# kubelet's systemd driver writes the uid with underscores; a static pod's "uid" is a hash.
_POD = re.compile(
    r"(?:.*-)?pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"
    r"|[0-9a-f]{32})(?:\.slice)?\Z"
)
_CONTAINER = re.compile(r"(?:(?P<prefix>[\w.-]*)-)?(?P<id>[0-9a-f]{64})(?:\.scope)?\Z")


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose slot it is. path: below the cgroup2 root; empty if it was too long for the kernel."""

    kind: int
    cgroup_id: int
    path: str


@dataclass(frozen=True, slots=True)
class CgroupName:
    """What a cgroup path says of itself; empty where it says nothing."""

    pod_uid: str = ""
    container_id: str = ""
    unit: str = ""


Resolver = Callable[[Owner], Labels]


def parse_path(path: str) -> CgroupName:
    """Pod uid and container id of a container's cgroup, or the unit's name. Never raises."""
    *above, last = path.rstrip("/").split("/")
    found = _CONTAINER.match(last)
    for name in reversed(above):
        if pod := _POD.match(name):
            return CgroupName(
                pod_uid=pod[1].replace("_", "-"), container_id=found["id"] if found else last
            )
    if found:
        return CgroupName(container_id=found["id"])
    return CgroupName(unit=last)


def standalone(owner: Owner) -> Labels:
    """Labels without any cluster: what the cgroup path says.

    Outside Kubernetes one id or unit name can have several cgroups after one another, the old one
    still shown while the new one lives: cgroup_id tells them apart.
    """
    if owner.kind == HOST:
        return (("scope", "host"),)
    name = parse_path(owner.path)
    cgroup_id = str(owner.cgroup_id)
    if owner.kind == POD_CONTAINER:
        return (
            ("scope", "pod"),
            ("pod_uid", name.pod_uid),
            ("container_id", name.container_id or f"cgroup:{cgroup_id}"),
        )
    if owner.kind == CONTAINER:
        return (
            ("scope", "container"),
            ("container_id", name.container_id),
            ("cgroup_id", cgroup_id),
        )
    return (("scope", "unit"), ("container", name.unit), ("cgroup_id", cgroup_id))
