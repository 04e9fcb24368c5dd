"""From a cgroup path to the labels of its series."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from aggregator.pods.kinds import CONTAINER, HOST, MACHINE, POD, POD_CONTAINER
from aggregator.segment.exposition import Labels
from aggregator.segment.owner import Owner

_ID = re.compile(r"(?P<id>[0-9a-f]{64})(?:\.scope)?\Z")
# CRI-O's conmon has the id of its container, which it is not.
_CONTAINER = re.compile(r"(?:(?!crio-conmon-)[\w.-]*-)?(?P<id>[0-9a-f]{64})(?:\.scope)?\Z")
# What a runtime makes of a systemd path when it was told to use cgroupfs.
_COLONS = re.compile(r"(?P<slice>[^:]*\.slice):[\w-]+:(?P<id>[0-9a-f]{64})\Z")
_USER = re.compile(r"user-[0-9]+\.slice\Z")
_MACHINE = re.compile(
    r"lxc\.payload\.(?P<lxc>.+)|machine-(?P<scope>.+)\.scope|systemd-nspawn@(?P<nspawn>.+)\.service"
)
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


@dataclass(frozen=True, slots=True)
class CgroupName:
    """What a cgroup path says of itself; empty where it says nothing."""

    pod_uid: str = ""
    container_id: str = ""
    unit: str = ""
    machine: str = ""


def _pod_uid(name: str) -> str:
    """Of a pod's cgroup. The kubelet's systemd driver writes the names of the parents before it,
    and each - of the uid as _; a static pod's uid is a hash, or what its manifest says.
    """
    if name.endswith(".slice"):
        name = name.removesuffix(".slice").rpartition("-")[2]
    return name.removeprefix("pod").replace("_", "-")


def _user(parts: Iterable[str]) -> str:
    """The slice of the login user below whose slice a path is; empty: it is nobody's."""
    return next((part for part in parts if _USER.match(part)), "")


def is_users(path: str) -> bool:
    """Whether a login user may have made what is at this path."""
    return bool(_user(path.split("/")))


def _unescape(name: str) -> str:
    """systemd's escaping: a - is \\x2d."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)


def _unit(name: str) -> str:
    """Of units that are summed the path ends with what their names have in common."""
    if name.endswith("@"):
        return f"{name}.service"
    return f"{name}*" if name.endswith("-") else name


def parse_path(kind: int, path: str) -> CgroupName:
    """What a cgroup of this kind is called. Never raises."""
    *above, last = path.rstrip("/").split("/")
    if kind == POD:
        return CgroupName(pod_uid=_pod_uid(last))
    if kind == POD_CONTAINER:
        if colons := _COLONS.match(last):
            return CgroupName(_pod_uid(colons["slice"]), colons["id"])
        found = _CONTAINER.match(last)
        return CgroupName(_pod_uid(above[-1]) if above else "", found["id"] if found else last)
    if kind == CONTAINER:
        found = _ID.search(last)
        return CgroupName(container_id=found["id"] if found else last, unit=_user(above))
    if kind == MACHINE:
        name = _MACHINE.match(last)
        return CgroupName(machine=_unescape(name[name.lastgroup or 0] if name else last))
    return CgroupName(unit=_unit(last))


def name_of(owner: Owner) -> CgroupName:
    """What a cgroup is called: what its path says, or the path where that is another's name."""
    name = parse_path(owner.kind, owner.path)
    if not owner.outdone:
        return name
    if owner.kind == POD:
        return replace(name, pod_uid=owner.path)
    if owner.kind == POD_CONTAINER:
        above, _, last = owner.path.rpartition("/")
        colons = _COLONS.match(last)
        pod = f"{above}/{colons['slice']}" if colons else above
        return replace(name, pod_uid=pod, container_id=owner.path)
    return replace(name, container_id=owner.path)


def container_ids(owner: Owner, name: CgroupName) -> Labels:
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
    name = name_of(owner)
    cgroup_id = ("cgroup_id", str(owner.cgroup_id))
    if owner.kind == POD:
        return (("scope", "pod"), ("pod_uid", name.pod_uid or f"cgroup:{owner.cgroup_id}"))
    if owner.kind == POD_CONTAINER:
        return (("scope", "container"), *container_ids(owner, name))
    if owner.kind == CONTAINER:
        ids = (("container_id", name.container_id), ("unit", name.unit))
        return (("scope", "container"), *ids, cgroup_id)
    if owner.kind == MACHINE:
        return (("scope", "machine"), ("machine", name.machine), cgroup_id)
    return (("scope", "unit"), ("unit", name.unit), cgroup_id)
