"""Pods as Kubernetes describes them, and the table of those that are or lately were."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from dataclasses import field as member
from datetime import datetime
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Struct, field

# Longer than the loader's default --tombstone: what it still shows has a name still.
KEEP_NS = 600 * 10**9

FINISHED = ("Succeeded", "Failed")  # phases

# Of a static pod the API has a mirror with a uid of its own; the cgroup has this hash.
MIRROR = "kubernetes.io/config.mirror"
# Usually 32 hex digits; or what the manifest says, but never the form of the API's own.
_STATIC = re.compile(r"(?!.{8}-.{4}-.{4}-.{4}-.{12}\Z)[A-Za-z0-9._-]{1,253}\Z")
# A CronJob names its jobs by the minute they were due, counted from 1970.
_CRON = re.compile(r"(.+)-(\d{7,10})\Z")
_LATE = 7 * 24 * 60
# What an API server puts behind generateName: k8s.io/apimachinery's rand.String(5), after at most
# 58 characters (apiserver's SimpleNameGenerator).
_RANDOM = re.compile(r"[bcdfghjklmnpqrstvwxz2456789]{5}\Z")
_GENERATED_BASE = 58


@dataclass(frozen=True, slots=True)
class Container:
    """As a pod's status has it; id is empty until it was made. restarts: before this id."""

    name: str
    id: str
    image: str
    image_id: str
    restarts: int


@dataclass(frozen=True, slots=True)
class Pod:
    uid: str
    cgroup_uid: str  # in the names of its cgroups
    namespace: str
    name: str
    version: str  # resourceVersion
    node: str
    ip: str
    host_ip: str
    qos: str
    priority_class: str
    owner_kind: str
    owner_name: str
    labels: Mapping[str, str]
    containers: tuple[Container, ...]  # init, sidecar and ephemeral ones too
    ended: Mapping[str, str]  # id -> name of those that a restart replaced
    finished: bool = False  # all of its containers have ended for good
    generated: bool = False  # its name is random: no other pod has it, before or after
    ips: tuple[str, ...] = ()  # all that it has, of both families; ip is the first

    @property
    def complete(self) -> bool:
        """Whether each container of the status has been made."""
        return all(container.id for container in self.containers)


# The parts of the API's JSON that are looked at; msgspec skips the rest without building it.
class _Ended(Struct, frozen=True):
    id: str = field(name="containerID", default="")


class _State(Struct, frozen=True):
    terminated: _Ended | None = None


class _Status(Struct, frozen=True):
    name: str
    id: str = field(name="containerID", default="")
    image: str = ""
    image_id: str = field(name="imageID", default="")
    restarts: int = field(name="restartCount", default=0)
    last: _State = field(name="lastState", default=_State())


class _Owner(Struct, frozen=True):
    kind: str
    name: str
    controller: bool | None = None


_Name = Annotated[str, msgspec.Meta(min_length=1)]


class _Metadata(Struct, frozen=True):
    uid: _Name
    name: _Name
    namespace: _Name
    generate_name: str = field(name="generateName", default="")
    version: str = field(name="resourceVersion", default="")
    created: str | None = field(name="creationTimestamp", default=None)
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owners: tuple[_Owner, ...] | None = field(name="ownerReferences", default=None)


class _Spec(Struct, frozen=True):
    node: str = field(name="nodeName", default="")
    priority_class: str = field(name="priorityClassName", default="")


class _IP(Struct, frozen=True):
    ip: str = ""


class _PodStatus(Struct, frozen=True):
    phase: str = ""
    ip: str = field(name="podIP", default="")
    ips: tuple[_IP, ...] | None = field(name="podIPs", default=None)
    host_ip: str = field(name="hostIP", default="")
    qos: str = field(name="qosClass", default="")
    init: tuple[_Status, ...] | None = field(name="initContainerStatuses", default=None)
    containers: tuple[_Status, ...] | None = field(name="containerStatuses", default=None)
    ephemeral: tuple[_Status, ...] | None = field(name="ephemeralContainerStatuses", default=None)


class _Pod(Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec = _Spec()
    status: _PodStatus = _PodStatus()


_decoder = msgspec.json.Decoder(_Pod)


def decode_pod(raw: bytes | msgspec.Raw) -> Pod:
    """A pod from the API's or the kubelet's JSON. Raises ValueError if it is none."""
    try:
        pod = _decoder.decode(raw)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    meta, status = pod.metadata, pod.status
    statuses = (*(status.init or ()), *(status.containers or ()), *(status.ephemeral or ()))
    labels = meta.labels or {}
    mirrored = (meta.annotations or {}).get(MIRROR, "")
    owner_kind, owner_name = _owner(meta, labels)
    return Pod(
        uid=meta.uid,
        # Cgroups have - for _, as systemd's driver writes both alike.
        cgroup_uid=mirrored.replace("_", "-") if _STATIC.match(mirrored) else meta.uid,
        namespace=meta.namespace,
        name=meta.name,
        version=meta.version,
        node=pod.spec.node,
        ip=status.ip,
        ips=tuple(each.ip for each in status.ips or () if each.ip)
        or tuple(filter(None, [status.ip])),
        host_ip=status.host_ip,
        qos=status.qos,
        priority_class=pod.spec.priority_class,
        owner_kind=owner_kind,
        owner_name=owner_name,
        labels=labels,
        containers=tuple(
            Container(s.name, _bare(s.id), s.image, s.image_id, s.restarts) for s in statuses
        ),
        ended={
            _bare(s.last.terminated.id): s.name
            for s in statuses
            if s.last.terminated and s.last.terminated.id
        },
        finished=status.phase in FINISHED,
        # A StatefulSet has a generateName, and numbers.
        generated=owner_kind != "StatefulSet"
        and not mirrored
        and meta.name[:-5] == meta.generate_name[:_GENERATED_BASE] != ""
        and bool(_RANDOM.match(meta.name[-5:])),
    )


def _bare(container_id: str) -> str:
    """containerd://ID -> ID."""
    return container_id.rpartition("://")[2]


def _owner(meta: _Metadata, labels: Mapping[str, str]) -> tuple[str, str]:
    """Kind and name of what the user made: what a ReplicaSet or Job was made for, by its name."""
    owner = next((o for o in meta.owners or () if o.controller), None)
    if not owner:
        return "", ""
    if owner.kind == "ReplicaSet":
        suffix = f"-{labels.get('pod-template-hash')}"
        if owner.name.endswith(suffix):
            return "Deployment", owner.name.removesuffix(suffix)
    elif owner.kind == "Job" and (due := _CRON.match(owner.name)):
        try:
            created = int(datetime.fromisoformat(meta.created or "").timestamp()) // 60
        except ValueError:
            created = 0
        # A job that somebody named by a date is not a CronJob's.
        if 0 <= created - int(due[2]) <= _LATE:
            return "CronJob", due[1]
    return owner.kind, owner.name


@dataclass(slots=True)
class Known:
    """A pod with all containers it had."""

    pod: Pod
    names: dict[str, str]  # by container id
    gone_at: int | None = None  # when it was deleted
    again: set[str] = member(default_factory=set)  # ids that are not the first of their name


class Found(NamedTuple):
    """Whose a cgroup is."""

    pod: Pod
    container: str  # empty if that is not known
    again: bool  # another container of the pod had this name before


class PodTable:
    """Pods by what their cgroups say. Deleted ones stay for a while and as long as they are used.

    clock: CLOCK_MONOTONIC in ns.
    """

    def __init__(self, clock: Callable[[], int], keep_ns: int = KEEP_NS) -> None:
        self.in_use: set[str] = set()  # pod uids and container ids of the last snapshot's cgroups
        self.synced_ns: int | None = None  # when it was equal to what the source says, first
        self._clock = clock
        self._keep_ns = keep_ns
        self._known: dict[str, Known] = {}  # by the API's uid
        self._by_hash: dict[str, set[str]] = {}  # static pods: hash -> the API's uids
        self._leaving: deque[tuple[int, str, str]] = deque()  # when, uid, container id or ""
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self.present())

    def present(self) -> list[Pod]:
        """Pods that are, without those that were."""
        return [known.pod for known in self._known.values() if known.gone_at is None]

    def find(self, cgroup_uid: str, container_id: str) -> Found | None:
        known = self._known.get(cgroup_uid)
        if known:
            return _found(known, container_id)
        # A static pod may have had several mirrors, and anybody can write that annotation: whose
        # container it is comes first.
        claims = [self._known[uid] for uid in self._by_hash.get(cgroup_uid, ())]
        live = [known for known in claims if known.gone_at is None]
        for known in (*live, *claims):
            if container_id in known.names:
                return _found(known, container_id)
        only = live or claims
        return _found(only[0], "") if len(only) == 1 else None

    def shown(self) -> list[Pod]:
        """Pods that have series: those that are, and those that were."""
        pods = [pod for pod in self.present() if pod.cgroup_uid in self.in_use]
        seen = {pod.cgroup_uid for pod in pods}
        for known in reversed(self._known.values()):
            uid = known.pod.cgroup_uid
            if uid in self.in_use and uid not in seen:
                seen.add(uid)
                pods.append(known.pod)
        return pods

    def put(self, pod: Pod) -> None:
        """A pod was made or changed."""
        names = _ids(pod)
        known = self._known.get(pod.uid)
        if not known:
            self._known[pod.uid] = Known(pod, names, again=_again(pod))
            if pod.cgroup_uid != pod.uid:
                self._by_hash.setdefault(pod.cgroup_uid, set()).add(pod.uid)
            self._changed.add(pod.cgroup_uid)
            return
        old = known.pod
        if (
            not names.items() <= known.names.items()
            or old.labels != pod.labels
            or old.name != pod.name
        ):
            self._changed.add(pod.cgroup_uid)
        now = self._clock()
        self._leaving.extend((now, pod.uid, cid) for cid in _ids(old).keys() - names.keys())
        known.again |= _again(pod) - known.names.keys()
        known.names |= names
        # The index goes by the first: nobody may take another pod's place by an annotation.
        known.pod = (
            pod if pod.cgroup_uid == old.cgroup_uid else replace(pod, cgroup_uid=old.cgroup_uid)
        )
        known.gone_at = None

    def remove(self, uid: str) -> None:
        """A pod was deleted."""
        known = self._known.get(uid)
        if known and known.gone_at is None:
            known.gone_at = self._clock()
            self._leaving.append((known.gone_at, uid, ""))

    def replace(self, pods: Iterable[Pod]) -> None:
        """These are all pods there are."""
        fresh = {pod.uid: pod for pod in pods}
        for uid in self._known.keys() - fresh.keys():
            self.remove(uid)
        for pod in fresh.values():
            self.put(pod)
        if self.synced_ns is None:
            self.synced_ns = self._clock()

    def known(self) -> Iterable[Known]:
        """To be remembered, until it is forgotten."""
        return self._known.values()

    def restore(self, remembered: Iterable[Known]) -> None:
        """What was known to an earlier table. All of it is gone until the source says otherwise:
        since then, or since it left the earlier table, if the machine still runs since.
        """
        now = self._clock()
        gone: list[tuple[int, str, str]] = []
        for known in remembered:
            uid = known.pod.uid
            self.put(known.pod)
            kept = self._known[uid]
            kept.again = known.again | (kept.again - known.names.keys())
            kept.names = known.names | kept.names
            at = known.gone_at if known.gone_at is not None else now
            kept.gone_at = min(at, now)
            gone.append((kept.gone_at, uid, ""))
            gone += [(now, uid, cid) for cid in kept.names.keys() - _ids(known.pod).keys()]
        self._leaving.extend(sorted(gone))

    def take_changed(self) -> set[str]:
        """Pods, by their cgroups' uid, whose names or labels changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def expire(self) -> None:
        """Forgets what left long ago and has no cgroup any more."""
        now = self._clock()
        while self._leaving and self._leaving[0][0] + self._keep_ns <= now:
            when, uid, container_id = self._leaving.popleft()
            known = self._known.get(uid)
            if not known:
                continue
            pod = known.pod
            if container_id:
                if container_id in self.in_use:
                    self._leaving.append((now, uid, container_id))
                elif container_id not in _ids(pod):
                    known.names.pop(container_id, None)
                    known.again.discard(container_id)
            elif known.gone_at == when:
                if pod.cgroup_uid in self.in_use:
                    known.gone_at = now
                    self._leaving.append((now, uid, ""))
                else:
                    del self._known[uid]
                    self._changed.discard(pod.cgroup_uid)
                    self._by_hash.get(pod.cgroup_uid, set()).discard(uid)
                    if not self._by_hash.get(pod.cgroup_uid, True):
                        del self._by_hash[pod.cgroup_uid]


def _ids(pod: Pod) -> dict[str, str]:
    """Names of the containers that the pod's status has, by id."""
    return {c.id: c.name for c in pod.containers if c.id} | dict(pod.ended)


def _again(pod: Pod) -> set[str]:
    """Ids of containers that were not the first of their name. What the status counts as restarts
    is the number of its container's attempt; a replaced one's was one less."""
    restarts = {c.name: c.restarts for c in pod.containers}
    now = {c.id for c in pod.containers if c.id and c.restarts}
    current = {c.id for c in pod.containers}
    before = {cid for cid, name in pod.ended.items() if restarts[name] > 1}
    return now | (before - current)


def _found(known: Known, container_id: str) -> Found:
    return Found(known.pod, known.names.get(container_id, ""), container_id in known.again)
