"""Whose a row is, and who names it."""

from collections.abc import Callable
from dataclasses import dataclass

from aggregator.segment.exposition import Labels


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose slot it is. path: below the cgroup2 root; empty if it was too long for the kernel."""

    kind: int
    cgroup_id: int
    path: str
    born_ns: int = 0  # CLOCK_MONOTONIC
    dead: bool = False


# None: not to be shown (yet).
Resolver = Callable[[Owner], Labels | None]
