"""Who disturbs whom: which row of the page held the CPU while which other waited for it."""

from collections import deque
from dataclasses import dataclass

from aggregator.http.rows import Rows, Who
from aggregator.segment.exposition import Plan
from aggregator.segment.store import Snapshot

COLUMN = "kpod_cpu_runqueue_wait_by_culprit_seconds_total"
# Points are at least so far apart, and so many are kept: what is told is of the last minute.
STEP_NS = 14_900_000_000
POINTS = 5
SHOWN = 10  # pairs on the page

OTHERS = Who("", "other", "others, together", "", {})  # that have no row of their own

Key = tuple[int, int, int]  # the victim's slot and generation, the word that names the culprit


@dataclass(frozen=True, slots=True)
class Pair:
    """wait: seconds per second that the victim's tasks waited while the culprit's had the CPU."""

    victim: Who
    culprit: Who
    wait: float


def _place(plan: Plan) -> tuple[int, int, int] | None:
    """Table, word and decimals of the column; None: the loader does not have it."""
    for index, table in enumerate(plan.schema.tables):
        for column in table.columns:
            if column.name == COLUMN and table.keys and table.keys[0].names_owner:
                return index, len(table.keys) + column.word, column.decimals
    return None


class Pairs:
    """A few snapshots' totals; offered every new snapshot, it takes those that are due."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._plan: Plan | None = None
        self._points: deque[tuple[int, dict[Key, int]]] = deque(maxlen=POINTS)

    def offer(self, snapshot: Snapshot) -> None:
        if snapshot.plan is not self._plan:  # another loader, or other collectors
            self._plan = snapshot.plan
            self._points.clear()
        at = snapshot.native.monotonic_ns
        if not self._points or at - self._points[-1][0] >= STEP_NS:
            self._points.append((at, self._totals(snapshot)))

    def _totals(self, snapshot: Snapshot) -> dict[Key, int]:
        found: dict[Key, int] = {}
        place = _place(snapshot.plan)
        if place:
            table, word, _ = place
            native = snapshot.native
            for index in range(native.first_row[table], native.first_row[table + 1]):
                row = native.rows[index]
                owner = row.owner
                found[owner.slot, owner.generation, row.words[0]] = row.words[word]
        return found

    @property
    def seconds(self) -> float:
        """Between the points that rates are of; 0: there is only one yet."""
        return (self._points[-1][0] - self._points[0][0]) / 1e9 if self._points else 0.0

    def of(self, snapshot: Snapshot | None) -> list[Pair] | None:
        """Those that still are there, the worst first; None: the loader does not tell."""
        place = _place(snapshot.plan) if snapshot else None
        if not snapshot or not place:
            return None
        if not self.seconds:
            return []
        key = snapshot.plan.schema.tables[place[0]].keys[0]
        first, last = self._points[0][1], self._points[-1][1]
        waits: dict[tuple[str, str], int] = {}
        known = {OTHERS.id: OTHERS}
        for (slot, generation, word), total in last.items():
            waited = total - first.get((slot, generation, word), 0)
            if waited <= 0:
                continue
            victim = self._rows.named(snapshot, slot | generation << 32)
            if (several := key.several(word)) is not None:
                culprit = OTHERS if several == OTHERS.scope else None
            else:
                culprit = self._rows.named(snapshot, word)
            # What disturbs a pod from within is not told: containers of one pod.
            if not victim or not culprit or victim.id == culprit.id:
                continue
            known.update({victim.id: victim, culprit.id: culprit})
            both = victim.id, culprit.id
            waits[both] = waits.get(both, 0) + waited
        scale = 10 ** place[2] * self.seconds
        pairs = [Pair(known[v], known[c], waited / scale) for (v, c), waited in waits.items()]
        return sorted(pairs, key=lambda pair: (-pair.wait, pair.victim.id, pair.culprit.id))
