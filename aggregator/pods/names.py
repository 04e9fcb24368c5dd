"""From a cgroup to the names that Kubernetes has for it."""

from collections import Counter
from collections.abc import Callable, Set

from aggregator.pods.policy import Policy, cut
from aggregator.pods.resolver import POD_CONTAINER, CgroupName, parse_path, pod_ids, standalone
from aggregator.pods.table import PodTable
from aggregator.segment.exposition import Labels
from aggregator.segment.owner import Owner

GRACE_NS = 30 * 10**9

# What became of the cgroups of pods.
NAMED, UNNAMED, WAITING, FILTERED = STATES = ("named", "unnamed", "waiting", "filtered")


class Names:
    """The resolver of a store on a Kubernetes node.

    What has no name yet waits for it, but no longer than the grace, and not at all once it is
    dead: it may be gone the next time somebody looks. Then its uid and id have to do, until the
    name comes. Sandboxes (pause) and conmon belong to a pod, but have no container name.

    clock: CLOCK_MONOTONIC in ns.
    """

    def __init__(
        self,
        table: PodTable,
        *,
        clock: Callable[[], int],
        policy: Policy = Policy(),  # noqa: B008 (it is frozen)
        grace_ns: int = GRACE_NS,
    ) -> None:
        self._table = table
        self._clock = clock
        self._policy = policy
        self._grace_ns = grace_ns
        self._start = clock()
        self._none = policy.pod_labels(None)
        self._owners: dict[int, tuple[CgroupName, str]] = {}  # by cgroup id; with a state

    def __call__(self, owner: Owner) -> Labels | None:
        if owner.kind != POD_CONTAINER:
            return (*standalone(owner), *self._none)
        name = parse_path(owner.path)
        state, labels = self._name(owner, name)
        self._owners[owner.cgroup_id] = name, state
        self._table.in_use.update((name.pod_uid, name.container_id))
        return labels

    def _name(self, owner: Owner, name: CgroupName) -> tuple[str, Labels | None]:
        found = self._table.find(name.pod_uid, name.container_id)
        pod, container = found or (None, "")
        if pod and not self._policy.shows(pod):
            return FILTERED, None
        since = max(owner.born_ns, self._start)
        if not container and not owner.dead and self._clock() - since < self._grace_ns:
            return WAITING, None
        return NAMED if pod else UNNAMED, (
            ("scope", "pod"),
            ("namespace", cut(pod.namespace) if pod else ""),
            ("pod", cut(pod.name) if pod else ""),
            ("container", cut(container)),
            *pod_ids(owner, name),
            *self._policy.pod_labels(pod),
        )

    def changed(self, present: Set[int]) -> Set[int]:
        """Those of a snapshot's cgroups whose labels are out of date. To be asked once a snapshot.

        The table keeps the pods that the snapshot has.
        """
        for gone in self._owners.keys() - present:
            del self._owners[gone]
        uids = self._table.take_changed()
        used: set[str] = set()
        stale: set[int] = set()
        for cgroup_id, (name, _) in self._owners.items():
            used.update((name.pod_uid, name.container_id))
            if name.pod_uid in uids:
                stale.add(cgroup_id)
        self._table.in_use = used
        return stale

    def states(self) -> dict[str, int]:
        """How many cgroups of pods are in each of STATES."""
        counts = Counter(state for _, state in self._owners.values())
        return {state: counts[state] for state in STATES}
