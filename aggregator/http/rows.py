"""Who is on the node, as people see it: pods, and what else has a slot. Each is a row of one
or more containers (owners in the snapshot)."""

from dataclasses import dataclass, field
from typing import Any

from aggregator._native import ffi, lib
from aggregator.pods.kinds import POD, POD_CONTAINER
from aggregator.pods.resolver import name_of
from aggregator.segment import protobuf
from aggregator.segment.history import History
from aggregator.segment.labels import clean
from aggregator.segment.owner import Owner
from aggregator.segment.store import Snapshot, owner_of

SHORT_ID = 12  # characters of a container's id, as docker ps shows it

Labels = dict[str, str]


@dataclass(frozen=True, slots=True)
class Who:
    """From the labels of an owner. id: stable as long as it lives; in ?id= and in JSON."""

    id: str
    scope: str  # of the row: pod, container, unit, machine or host
    name: str
    namespace: str
    labels: Labels
    pod_uid: str = ""  # as the cgroup has it: on series it is only where it is needed


@dataclass(slots=True)
class Row:
    who: Who
    tracks: list[int] = field(default_factory=list)
    members: list[Who] = field(default_factory=list)  # beside tracks

    @property
    def containers(self) -> int:
        """Without what a pod has beside its containers."""
        return sum(member.labels["scope"] == "container" for member in self.members)


def identify(owner: Owner, labels: Labels) -> Who:
    """From an owner and its labels."""
    scope = labels.get("scope", "")
    if owner.kind in (POD, POD_CONTAINER):
        uid = name_of(owner).pod_uid or f"cgroup:{owner.cgroup_id}"
        name = labels.get("pod") or f"pod {clean(uid)}"
        return Who(f"pod:{clean(uid)}", "pod", name, labels.get("namespace", ""), labels, uid)
    if scope == "container":
        name = labels.get("container_id", "")
        short = name if owner.outdone else name[:SHORT_ID]
        return Who(f"container:{name}", scope, short, labels.get("unit", ""), labels)
    if scope in ("unit", "machine"):
        return Who(f"{scope}:{labels.get(scope, '')}", scope, labels.get(scope, ""), "", labels)
    return Who("host", "host", "host: all that is not listed", "", labels)


class Rows:
    """Of one store. What the labels say is read once for each owner."""

    def __init__(self, history: History) -> None:
        self.history = history
        self._known: dict[tuple[int, bytes], Who] = {}

    def of(self, snapshot: Snapshot | None) -> list[Row]:
        """All that are there, in the order of their slots; none without a snapshot."""
        if not snapshot:
            return []
        native, tracks = snapshot.native, self.history.tracks(snapshot)
        owners = native.owners
        known: dict[tuple[int, bytes], Who] = {}
        rows: dict[str, Row] = {}
        for index in range(native.owner_count):
            owner = owners[index]
            if owner.died_ns or not (who := self._identify(snapshot, owner, known)):
                continue
            row = rows.get(who.id)
            if not row:
                row = rows[who.id] = Row(who)
            elif not row.who.namespace:
                row.who = who  # a pod's own cgroup may come without the pod's name
            row.tracks.append(tracks[index])
            row.members.append(who)
        self._known = known
        return list(rows.values())

    def named(self, snapshot: Snapshot, word: int) -> Who | None:
        """Who has the slot, with the generation above it; None: nobody that is shown, or lives."""
        owner = lib.kpod_snapshot_owner(snapshot.native, word)
        if not owner or owner.died_ns:
            return None
        return self._identify(snapshot, owner, self._known)

    def _identify(
        self, snapshot: Snapshot, owner: Any, known: dict[tuple[int, bytes], Who]
    ) -> Who | None:
        """None: the owner is not shown."""
        place = owner.labels[lib.KPOD_OWN][lib.KPOD_AS_PROTOBUF]
        if not place.size:
            return None
        text = ffi.unpack(snapshot.native.labels + place.at, place.size)
        key = owner.cgroup_id, text
        who = self._known.get(key) or identify(
            owner_of(owner, snapshot.outdone), dict(protobuf.labels(text))
        )
        known[key] = who
        return who
