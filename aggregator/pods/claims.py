"""Which cgroup has an identity that several claim by their names.

A container's id and a pod's uid stand in the names of cgroups, and whoever may make cgroups may
write another's. The cgroup below the kubelet's root keeps the identity, before a container of
root's, before a pod of a node that is itself in a container, before all of a login user's; of two
alike the older one does. The other is outdone, for as long as it lives: it is known by its path.
"""

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from aggregator.pods.kinds import CONTAINER, POD, POD_CONTAINER
from aggregator.pods.resolver import is_users, parse_path
from aggregator.segment.owner import Owner

# Who keeps an identity against all that come after it here.
HOSTS_POD, ROOTS_CONTAINER, INNER_POD, USERS_POD, USERS_CONTAINER = range(5)

_ID = re.compile(r"[0-9a-f]{64}\Z")
# The child of a node's root below which its kubelet has pods, as kpod_is_kubelet() and
# kpod_is_colon_pod() of bpf/classify.h have it.
_KUBELET = re.compile(r"(?:kubepods|kubelet)(?:\.slice)?\Z|kubepods-")
# What a node in a container or machine has in its path.
_INNER = re.compile(
    r".*[0-9a-f]{64}(?:\.scope)?\Z|lxc(?:\.payload(?:\..+)?)?\Z|machine-.+\.scope\Z|systemd-nspawn@"
)


@dataclass(slots=True)
class _Place:
    """Where an identity is claimed, by one cgroup or by several of one owner."""

    rank: int
    cgroups: set[int] = field(default_factory=set)
    outdone: bool = False


def _place(owner: Owner) -> tuple[int, str]:
    """Rank and place. All pods of one kubelet are in one place: it does not borrow names."""
    if owner.kind == CONTAINER:
        return USERS_CONTAINER if is_users(owner.path) else ROOTS_CONTAINER, owner.path
    parts = owner.path.strip("/").split("/")
    depth = next((i for i, part in enumerate(parts) if _KUBELET.match(part)), 0)
    node = "/".join(parts[:depth])
    if is_users(node):
        return USERS_POD, f"node {node}"
    if any(_INNER.match(part) for part in parts[:depth]):
        return INNER_POD, f"node {node}"
    return HOSTS_POD, "node"


def _identities(owner: Owner) -> Iterator[str]:
    name = parse_path(owner.kind, owner.path)
    if name.pod_uid:
        yield f"pod {name.pod_uid}"
    if _ID.match(name.container_id):
        yield f"container {name.container_id}"


class Claims:
    """Of the cgroups of one node, from snapshot to snapshot."""

    def __init__(self) -> None:
        self.refused = 0  # cgroups that were outdone, ever
        self._claims: dict[int, list[tuple[str, str]]] = {}  # by cgroup: identity, place
        self._places: dict[str, dict[str, _Place]] = {}  # by identity and name of the place
        self._outdone: set[int] = set()

    def __call__(self, present: Set[int], new: Sequence[Owner]) -> Set[int]:
        """The cgroups that are outdone, of those in a snapshot; new: those that were not in the
        one before."""
        for gone in self._claims.keys() - present:
            self._forget(gone)
        claims = [(*_place(owner), owner) for owner in new if owner.path and _is_claimant(owner)]
        # The numbers of cgroups grow.
        for rank, place, owner in sorted(claims, key=lambda claim: (claim[0], claim[2].cgroup_id)):
            self._forget(owner.cgroup_id)
            self._claims[owner.cgroup_id] = [(one, place) for one in _identities(owner)]
            for identity in _identities(owner):
                self._claim(identity, rank, place, owner.cgroup_id)
        return frozenset(self._outdone)

    def _claim(self, identity: str, rank: int, place: str, cgroup: int) -> None:
        places = self._places.setdefault(identity, {})
        mine = places.setdefault(place, _Place(rank))
        mine.cgroups.add(cgroup)
        for other in places.values():
            if other is not mine and not other.outdone:
                loser = mine if other.rank <= rank else other
                loser.outdone = True
        for each in places.values():
            if each.outdone:
                self.refused += len(each.cgroups - self._outdone)
                self._outdone |= each.cgroups

    def _forget(self, cgroup: int) -> None:
        self._outdone.discard(cgroup)
        for identity, place in self._claims.pop(cgroup, ()):
            places = self._places[identity]
            places[place].cgroups.discard(cgroup)
            if not places[place].cgroups:
                del places[place]
            if not places:
                del self._places[identity]


def _is_claimant(owner: Owner) -> bool:
    return owner.kind in (CONTAINER, POD, POD_CONTAINER)


class ClaimsCollector(Collector):
    """How many were outdone."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims

    def describe(self) -> list[Metric]:
        return []  # so that registering does not call collect()

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "kpod_identity_claims_refused",
            "Cgroups whose name has the id of another cgroup's container or pod: their rows have "
            "their own path in place of container_id and pod_uid.",
            value=self._claims.refused,
        )
