"""From a cgroup path to the labels of its series."""

import re
from dataclasses import dataclass

from aggregator.segment.exposition import Labels
from aggregator.segment.owner import Owner

# bpf/classify.h
HOST, UNIT, CONTAINER, POD, POD_CONTAINER = range(5)

# The kubelet's systemd driver writes the uid with underscores; a static pod's "uid" is a hash.
_POD = re.compile(
    r"(?:.*-)?pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}"
    r"|[0-9a-f]{32})(?:\.slice)?\Z"
)
# CRI-O's conmon has the id of its container, which it is not.
_CONTAINER = re.compile(r"(?:(?!crio-conmon-)[\w.-]*-)?(?P<id>[0-9a-f]{64})(?:\.scope)?\Z")
# What a runtime makes of a systemd path when it was told to use cgroupfs.
_COLONS = re.compile(r"(?P<slice>[^:]*):(?:cri-containerd|crio|docker):(?P<id>[0-9a-f]{64})\Z")


@dataclass(frozen=True, slots=True)
class CgroupName:
    """What a cgroup path says of itself; empty where it says nothing."""

    pod_uid: str = ""
    container_id: str = ""
    unit: str = ""


def parse_path(path: str) -> CgroupName:
    """Pod uid and container id of a container's cgroup, or the unit's name. Never raises.

    The first pod on the way down counts, as in bpf/classify.h: what runs inside a pod's container
    is that container's.
    """
    parts = path.rstrip("/").split("/")
    for at, part in enumerate(parts):
        if pod := _POD.match(part):
            child = parts[at + 1] if at + 1 < len(parts) else ""
            found = _CONTAINER.match(child)
            return CgroupName(pod[1].replace("_", "-"), found["id"] if found else child)
        if ":" in part and (colons := _COLONS.match(part)) and (pod := _POD.match(colons["slice"])):
            return CgroupName(pod[1].replace("_", "-"), colons["id"])
    if found := _CONTAINER.match(parts[-1]) or _COLONS.match(parts[-1]):
        return CgroupName(container_id=found["id"])
    return CgroupName(unit=parts[-1])


def pod_ids(owner: Owner, name: CgroupName) -> Labels:
    """What tells a pod's container from all others, with or without a name."""
    return (
        ("pod_uid", name.pod_uid),
        ("container_id", name.container_id or f"cgroup:{owner.cgroup_id}"),
    )


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
        return (("scope", "pod"), *pod_ids(owner, name))
    if owner.kind == CONTAINER:
        return (
            ("scope", "container"),
            ("container_id", name.container_id),
            ("cgroup_id", cgroup_id),
        )
    return (("scope", "unit"), ("container", name.unit), ("cgroup_id", cgroup_id))
