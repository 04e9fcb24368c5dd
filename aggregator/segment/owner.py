"""Whose a row is, and who names it."""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass

from aggregator.segment.exposition import Labels


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose slot it is. path: below the cgroup2 root; empty if it was too long for the kernel.
    outdone: its name claims an id that is another cgroup's, so it is known by its path.
    """

    kind: int
    cgroup_id: int
    path: str
    born_ns: int = 0  # CLOCK_MONOTONIC
    dead: bool = False
    outdone: bool = False


# None: not to be shown (yet).
Resolver = Callable[[Owner], Labels | None]

# From the cgroups of a snapshot, and those of them that were not in the one before: which are
# outdone.
Claims = Callable[[Set[int], Sequence[Owner]], Set[int]]
