"""From a cgroup to the names that Kubernetes has for it."""

import re
from collections import Counter
from collections.abc import Callable, Set

from aggregator.pods.kinds import POD, POD_CONTAINER
from aggregator.pods.policy import Policy, cut
from aggregator.pods.resolver import CgroupName, container_ids, name_of, standalone
from aggregator.pods.table import Pod, PodTable
from aggregator.segment.exposition import Labels
from aggregator.segment.owner import Owner

# A container's id is in the API 0.04 to 0.19 s after its cgroup is there, with older kubelets 1 s.
GRACE_NS = 3 * 10**9
# For one that is a container for sure, as something of its pod is older than it.
SURE_GRACES = 10

# What became of the cgroups of pods.
NAMED, UNNAMED, WAITING, FILTERED = STATES = ("named", "unnamed", "waiting", "filtered")

# On each row of a family that has them, also where they are empty: Prometheus, told to
# honor_labels, else takes the scraped pod's own for them.
NOBODY: Labels = (("namespace", ""), ("pod", ""), ("container", ""))

_ID = re.compile(r"[0-9a-f]{64}\Z")


class Names:
    """The resolver of a store on a Kubernetes node.

    Nothing of a pod is shown before the source has answered once, but what was remembered. Then
    what has no name yet waits for it, but no longer than the grace; then its uid and id have to
    do, until the name comes. Sandboxes (pause) and conmon belong to a pod, but have no container
    name. A pod's own cgroup has the pod's name and no container.

    clock: CLOCK_MONOTONIC in ns. all_ids: pod_uid and container_id on all rows of pods, also where
    the names are no other's. save: called before a snapshot is shown that has new names.
    """

    def __init__(
        self,
        table: PodTable,
        *,
        clock: Callable[[], int],
        policy: Policy = Policy(),  # noqa: B008 (it is frozen)
        grace_ns: int = GRACE_NS,
        all_ids: bool = False,
        save: Callable[[], None] = lambda: None,
    ) -> None:
        self._table = table
        self._clock = clock
        self._policy = policy
        self._grace_ns = grace_ns
        self._all_ids = all_ids
        self._save = save
        self._none = policy.pod_labels(None)
        self._owners: dict[int, tuple[CgroupName, str]] = {}  # by cgroup id; with a state
        # By pod uid: when its first cgroup's life began, and which that is, or may be. A loader
        # started anew gives one time to all that it finds: who was the first is so still.
        self._oldest: dict[str, tuple[int, set[int]]] = {}

    def __call__(self, owner: Owner) -> Labels | None:
        if owner.kind not in (POD, POD_CONTAINER):
            scope, *rest = standalone(owner)
            return (scope, *NOBODY, *rest, *self._none)
        name = name_of(owner)
        if owner.kind == POD_CONTAINER:
            born, first = self._oldest.get(name.pod_uid, (owner.born_ns, set()))
            if owner.born_ns <= born:
                first = first | {owner.cgroup_id} if owner.born_ns == born else {owner.cgroup_id}
                self._oldest[name.pod_uid] = owner.born_ns, first
        state, labels = self._name(owner, name)
        self._owners[owner.cgroup_id] = name, state
        self._table.in_use.update(id_ for id_ in (name.pod_uid, name.container_id) if id_)
        return labels

    def _name(self, owner: Owner, name: CgroupName) -> tuple[str, Labels | None]:
        found = self._table.find(name.pod_uid, name.container_id)
        pod, container, again = found or (None, "", False)
        if pod and not self._policy.shows(pod):
            return FILTERED, None
        known = pod if owner.kind == POD else container
        if not known and self._waits(owner, name, pod):
            return WAITING, None
        # What tells this one from others that have, had or may have the same names: a random name
        # of a pod is no other pod's, and a container that was not started again is the only one.
        ids = container_ids(owner, name)
        if owner.kind == POD:
            ids = (("pod_uid", name.pod_uid or f"cgroup:{owner.cgroup_id}"),)
        if pod and not self._all_ids:
            needed = (not pod.generated, again or not container)
            ids = tuple(id_ for id_, wanted in zip(ids, needed, strict=False) if wanted)
        return NAMED if pod else UNNAMED, (
            ("scope", "pod" if owner.kind == POD else "container"),
            ("namespace", cut(pod.namespace) if pod else ""),
            ("pod", cut(pod.name) if pod else ""),
            ("container", cut(container)),
            *ids,
            *self._policy.pod_labels(pod),
        )

    def _waits(self, owner: Owner, name: CgroupName, pod: Pod | None) -> bool:
        """Whether a name may still come for a cgroup that has none, or not all of it."""
        # Of its pod's cgroups all that there are have been seen when it is asked for again.
        seen = owner.cgroup_id in self._owners
        first = seen and owner.cgroup_id in self._oldest.get(name.pod_uid, (0, set()))[1]
        if pod and first and pod.containers and pod.complete:
            return False  # the sandbox, as all others have names
        if self._table.synced_ns is None:
            return True
        age = self._clock() - max(owner.born_ns, self._table.synced_ns)
        if not pod:
            return age < self._grace_ns
        if not _ID.match(name.container_id):
            return False  # conmon or the like
        return age < self._grace_ns * (1 if first else SURE_GRACES)

    def changed(self, present: Set[int]) -> Set[int]:
        """Those of a snapshot's cgroups whose labels are out of date. To be asked once a snapshot.

        The table keeps the pods that the snapshot has.
        """
        for gone in self._owners.keys() - present:
            del self._owners[gone]
        uids = self._table.take_changed()
        if uids:
            self._save()
        used: set[str] = set()
        stale: set[int] = set()
        for cgroup_id, (name, _) in self._owners.items():
            used.update(id_ for id_ in (name.pod_uid, name.container_id) if id_)
            if name.pod_uid in uids:
                stale.add(cgroup_id)
        self._table.in_use = used
        for uid in self._oldest.keys() - used:
            del self._oldest[uid]
        return stale

    def states(self) -> dict[str, int]:
        """How many cgroups of pods are in each of STATES."""
        counts = Counter(state for _, state in self._owners.values())
        return {state: counts[state] for state in STATES}
