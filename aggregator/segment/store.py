"""The segment as Python sees it: its state, its schema and the last whole snapshot."""

import asyncio
import logging
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

from aggregator._native import ffi, lib
from aggregator.segment import protobuf
from aggregator.segment.exposition import (
    Labels,
    Plan,
    Presentation,
    named_labels,
    protobuf_labels,
    row_labels,
)
from aggregator.segment.owner import Claims, Owner, Resolver
from aggregator.segment.schema import Schema, SchemaError, decode

log = logging.getLogger("kpod")

STATES = ("absent", "incompatible", "live", "stale", "replaced", "closed")

# struct kpod_header, in the reader, has words on cache lines of their own; ffi.new() aligns to 16.
_new_aligned = ffi.new_allocator(lambda size: lib.aligned_alloc(64, -(-size // 64) * 64), lib.free)

# A file beside the segment. The loader is told when somebody opens it, and takes a snapshot.
DOORBELL = ".doorbell"
WAIT_NS = 250_000_000  # for the snapshot that was asked for

NO_VALUE = 2**64 - 1  # KPOD_NO_VALUE of shared/abi.h

NAMED_AT_ONCE = 100  # owners; they take about 3 ms

Changed = Callable[[Set[int]], Set[int]]
# Labels on another page, from the owner and its labels on ours; None: it is not on that page.
Other = Callable[[Owner, Labels], Labels | None]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many series are shown of a family, how many series and bytes of all, and how many
    containers of a pod that have ended.

    In text; protobuf has fewer and is smaller. vmagent refuses a page of more than 16 MiB before
    compression (-promscrape.maxScrapeSize); 1 MiB is left for pods and the aggregator itself.
    """

    per_family: int = 100_000
    total: int = 100_000
    page: int = 15 << 20
    ended_per_pod: int = 16


def owner_of(native: Any, outdone: Set[int] = frozenset()) -> Owner:
    """Of a struct kpod_owner. outdone: ids of cgroups."""
    path = ffi.unpack(native.path, native.path_size).decode(errors="replace")
    return Owner(
        native.kind,
        native.cgroup_id,
        path,
        native.born_ns,
        bool(native.died_ns),
        native.cgroup_id in outdone,
    )


class Snapshot:
    """One snapshot with the plan it is rendered by; usable as long as somebody holds it."""

    def __init__(
        self,
        native: Any,
        plans: Sequence[Plan],
        generation: int,
        outdone: Set[int] = frozenset(),
    ) -> None:
        """plans: by page. outdone: cgroups whose names are others' (see Claims)."""
        self.native = native
        self.outdone = outdone
        self.generation = generation  # of the loader that made it
        self.plans = plans
        self.plan = plans[lib.KPOD_OWN]
        self.cut: dict[str, int] = {}  # series that are not shown on our page, by family
        self.left = Limits()  # for what else is on our page
        self._shown = [ffi.new("uint32_t[]", max(len(plan.names), 1)) for plan in plans]

    def render(self, format_: int, page: int = lib.KPOD_OWN) -> Iterator[bytes]:
        """The samples in one of enum kpod_format, in pieces of at most KPOD_CHUNK_SIZE bytes."""
        cursor = ffi.new("struct kpod_cursor *")
        chunk = ffi.new("char[]", lib.KPOD_CHUNK_SIZE)
        plan, shown = self.plans[page].native, self._shown[page]
        while size := lib.kpod_render(cursor, plan, self.native, shown, format_, chunk):
            yield ffi.unpack(chunk, size)

    def shown(self) -> dict[str, int]:
        """How many rows of a family's table are on our page."""
        return {name: self._shown[lib.KPOD_OWN][i] for i, name in enumerate(self.plan.names)}

    def labels_of(self, owner: Any) -> Labels:
        """Of a struct kpod_owner; of NULL: those of the node."""
        if not owner:
            node: Labels = self.plan.node_labels
            return node
        labels = owner.labels[lib.KPOD_OWN]
        found: list[tuple[str, str]] = protobuf.labels(self._text(labels[lib.KPOD_AS_PROTOBUF]))
        return tuple(found)

    @property
    def series(self) -> int:
        """How many series are on our page: of optional values, as if all were there."""
        plan, shown = self.plan.native, self._shown[lib.KPOD_OWN]
        return sum(
            shown[i] * plan.families[i].views[lib.KPOD_TEXT].sample_count
            for i in range(len(self.plan.names))
        )

    def node_value(self, name: str) -> float | None:
        """The only value of this name, of a table of the node without keys; None: there is none."""
        for index, table in enumerate(self.plan.schema.tables):
            for column in table.columns:
                if column.name == name and not table.per_slot and not table.keys:
                    first = self.native.first_row[index]
                    if first == self.native.first_row[index + 1]:
                        return None
                    word = self.native.rows[first].words[column.word]
                    if column.optional and word == NO_VALUE:
                        return None
                    return float(word / 10**column.decimals)
        return None

    def _text(self, place: Any) -> bytes:
        """Of a struct kpod_text of an owner."""
        return bytes(ffi.unpack(self.native.labels + place.at, place.size))

    def limit(self, limits: Limits) -> None:
        """Leaves out rows that are too many: the last of a family, the last families."""
        wanted = ffi.new("struct kpod_limits *", (limits.per_family, limits.total, limits.page))
        left = ffi.new("struct kpod_limits *")
        for page, plan in enumerate(self.plans):
            cut = ffi.new("uint64_t[]", max(len(plan.names), 1))
            shown = self._shown[page]
            lib.kpod_snapshot_show(self.native, plan.native, wanted, shown, cut, left)
            if page == lib.KPOD_OWN:
                self.left = replace(limits, total=left.series, page=left.bytes)
                self.cut = {name: cut[i] for i, name in enumerate(plan.names) if cut[i]}

    def label(
        self,
        resolver: Resolver,
        stale: Set[int],
        seen: int = 0,
        other: Other | None = None,
        ended_per_pod: int = Limits().ended_per_pod,
    ) -> Iterator[None]:
        """Names the owners that have no name or are stale, by cgroup id, no two alike; then hides
        the nameless, who ended and has not changed since snapshot `seen`, and who ended where too
        many of a pod have. Others may have their turn wherever it yields."""
        if self.native.unlabelled or stale:
            yield from self._label(resolver, stale, other)
        if not lib.kpod_snapshot_hide(self.native, self.plan.native, seen, ended_per_pod):
            raise MemoryError("containers that have ended")

    def _label(self, resolver: Resolver, stale: Set[int], other: Other | None) -> Iterator[None]:
        owners = [self.native.owners + i for i in range(self.native.owner_count)]

        def texts(page: int) -> list[bytes]:
            """Of each owner; empty if it is to be named."""
            return [
                b""
                if owner.cgroup_id in stale
                else self._text(owner.labels[page][lib.KPOD_AS_TEXT])
                for owner in owners
            ]

        known = texts(lib.KPOD_OWN)
        taken, named = set(known) - {b""}, set(texts(lib.KPOD_NAMED)) - {b""}
        taken.add(row_labels(()).encode())  # a series of a container has a label
        nameless = [index for index, text in enumerate(known) if not text]
        for count, index in enumerate(nameless, 1):
            owner = owner_of(owners[index], self.outdone)
            labels = resolver(owner)
            text = row_labels(labels).encode() if labels is not None else b""
            if text in taken and labels is not None:
                # Prometheus refuses a whole scrape for one series that is there twice.
                labels = (*labels, ("cgroup_id", str(owner.cgroup_id)))
                text = row_labels(labels).encode()
            taken.add(text)
            self._set(index, lib.KPOD_OWN, text, labels)
            if self.plan.owner_label:
                self._name(index, owner, labels, named)
            if other:
                labels = other(owner, labels) if labels is not None else None
                text = row_labels(labels).encode() if labels is not None else b""
                self._set(index, lib.KPOD_CADVISOR, text, labels)
            if count % NAMED_AT_ONCE == 0:
                yield

    def _name(self, index: int, owner: Owner, labels: Labels | None, named: set[bytes]) -> None:
        """Sets what it is called on rows of others, by its labels there; no two alike."""
        if labels is not None:
            labels = tuple(
                (f"{self.plan.owner_label}_{name}", value)
                for name, value in labels
                if name != "node" and not name.startswith("label_")
            )
        text = named_labels(labels or ()).encode()
        if text in named and labels:
            labels = (*labels, (f"{self.plan.owner_label}_cgroup_id", str(owner.cgroup_id)))
            text = named_labels(labels).encode()
        named.add(text)
        self._set(index, lib.KPOD_NAMED, text, labels)

    def named(self, word: int) -> Labels:
        """The labels of the owner that a key's word names; empty if it is not there."""
        owner = lib.kpod_snapshot_owner(self.native, word)
        if not owner:
            return ()
        text = self._text(owner.labels[lib.KPOD_NAMED][lib.KPOD_AS_PROTOBUF])
        return tuple(protobuf.labels(text))

    def _set(self, owner: int, page: int, text: bytes, labels: Labels | None) -> None:
        encoded = protobuf_labels(labels or ())
        if not lib.kpod_snapshot_label(
            self.native, owner, page, text, len(text), encoded, len(encoded)
        ):
            raise MemoryError(f"labels of {owner_of(self.native.owners[owner]).path}")


@dataclass(frozen=True, slots=True)
class Compat:
    """The same rows on another page: under which names, with which labels."""

    translate: Callable[[Schema], Schema]
    labels: Other
    prefixes: Mapping[str, str]


class Store:
    """Follows one segment file. refresh(), or update() in an event loop, brings everything up to
    date, and fresh() has the loader take a snapshot for it; the rest only looks."""

    def __init__(
        self,
        path: str,
        *,
        clock: Callable[[], int],
        resolver: Resolver,
        changed: Changed = lambda _: frozenset(),
        node: str = "",
        node_labels: Labels = (),
        presentations: Sequence[Presentation] = (),
        created: str = "protobuf",
        limits: Limits = Limits(),
        seen: Callable[[int], int] = lambda _: 0,
        compat: Compat | None = None,
        claims: Claims = lambda _present, _new: frozenset(),
        others: Callable[[Limits], Mapping[str, int]] = lambda _: {},
    ) -> None:
        """clock: CLOCK_MONOTONIC in ns. The node's label comes after the resolver's, and after
        node_labels on what is of the node as a whole. seen: of a loader's generation, the snapshot
        that all readers have; what ended before is left out.

        A resolver is asked once for each owner; again for those that it says have `changed`, of
        the cgroups of a new snapshot, for those that are outdone since, and for those that it had
        no answer for. claims: says who is outdone. others: what else is on our page is told what a
        snapshot leaves of the limits, and says how many series it leaves out, by family.
        """
        self.path = path
        self.state = "absent"
        self.cause = ""  # why it is incompatible
        self.plan: Plan | None = None
        self.snapshot: Snapshot | None = None
        self.clock = self._clock = clock
        self.node = node
        self._node: Labels = (("node", node),)
        self._node_labels: Labels = (*node_labels, *self._node)
        self._resolver: Resolver = lambda owner: self._with_node(resolver(owner))
        self._changed = changed
        self._claims = claims
        self._others = others
        self._present: set[int] = set()  # cgroups of the last snapshot that claims were asked of
        self._outdone: Set[int] = frozenset()
        self._stale: set[int] = set()  # changed, and not named anew yet
        self._all_stale = False
        self._taken: Snapshot | None = None  # not named yet, or not to the end
        self._presentations = presentations
        self._created = created
        self._seen = seen
        self.compat = compat
        self.taken: Callable[[Snapshot], None] = lambda _: None  # called with each new snapshot
        self._plans: list[Plan] = []  # by page
        self._limits = limits
        self._cut: set[str] = set()  # families of which it has been said
        self._reader: Any = ffi.gc(_new_aligned("struct kpod_reader *"), lib.kpod_reader_close)
        self._generation = 0
        self._turn = asyncio.Lock()
        # Scrapes that were served an older snapshot than they asked for, by reason.
        self.served_old = {"timeout": 0, "no_doorbell": 0}
        self._asking: asyncio.Future[str] | None = None
        self._logged: tuple[str, str] | None = None
        lib.kpod_reader_init(self._reader, path.encode())

    def _with_node(self, labels: Labels | None) -> Labels | None:
        return labels if labels is None else (*labels, *self._node)

    @property
    def schema(self) -> Schema | None:
        return self.plan.schema if self.plan else None

    @property
    def header(self) -> Any:
        """struct kpod_header of the open segment; its fields mean nothing unless it is live."""
        return self._reader.header

    @property
    def laps(self) -> int:
        """How often a copy was thrown away because the loader was faster."""
        return int(self._reader.laps)

    def refresh(self) -> str:
        """Looks at the segment and takes a new snapshot if there is one. Returns the state."""
        for _ in self._steps():
            pass
        return self.state

    async def update(self) -> str:
        """refresh(), but no long turn of the event loop: naming many containers takes a while."""
        async with self._turn:
            for _ in self._steps():
                await asyncio.sleep(0)
            return self.state

    async def fresh(self) -> str:
        """update(), with a snapshot made for this call, unless the last one is younger than the
        loader's --min-interval. What does not come in time is counted, and the last one stays."""
        await self.update()
        if self._is_due():
            # Who asks while another waits, waits for the same snapshot.
            if not self._asking or self._asking.done():
                self._asking = asyncio.ensure_future(self._ask())
            if reason := await asyncio.shield(self._asking):
                self.served_old[reason] += 1
            await self.update()
        return self.state

    @property
    def age_ns(self) -> int | None:
        """Of the snapshot: nothing in it is older."""
        return self._clock() - int(self.snapshot.native.monotonic_ns) if self.snapshot else None

    def _is_due(self) -> bool:
        if self.state == "stale":
            return True  # it may only have been kept from the CPU: as this process may have been
        schema, age = self.schema, self.age_ns
        if self.state != "live" or not schema or not schema.min_interval_ns:
            return False
        return age is None or age >= schema.min_interval_ns

    async def _ask(self) -> str:
        """Rings and waits. Returns why there is nothing new, or an empty string."""
        before = self.snapshot
        try:
            os.close(os.open(self.path + DOORBELL, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
        except OSError as error:
            log.debug("doorbell %s: %s", self.path + DOORBELL, error)
            return "no_doorbell"
        end, pause = self._clock() + WAIT_NS, 0.0005
        while True:
            # Somebody else may have taken it already.
            if self.snapshot is not before or lib.kpod_reader_has_news(self._reader, self._clock()):
                return ""
            if self._clock() >= end:
                return "timeout"
            await asyncio.sleep(pause)
            pause = min(2 * pause, 0.004)

    def _steps(self) -> Iterator[None]:
        state = yield from self._look()
        if state == "replaced":
            state = yield from self._look()
        if state != "live":
            self.plan = self.snapshot = self._taken = None
            self._generation = 0
        self.state = state
        if self._logged != (state, self.cause):
            self._logged = (state, self.cause)
            log.info("segment %s: %s%s", self.path, state, f": {self.cause}" if self.cause else "")

    def _look(self) -> Generator[None, None, str]:
        reader = self._reader
        state = lib.kpod_reader_refresh(reader, self._clock())
        if state == lib.KPOD_LIVE:
            try:
                yield from self._take()
            except SchemaError as error:
                lib.kpod_reader_reject(reader, lib.KPOD_FAULT_SCHEMA)
                self.cause = str(error)
                return "incompatible"
            state = reader.state
        self.cause = ""
        if state == lib.KPOD_INCOMPATIBLE:
            self.cause = ffi.string(lib.kpod_fault_text(reader.fault)).decode()
        return str(ffi.string(lib.kpod_state_name(state)).decode())

    def _take(self) -> Iterator[None]:
        reader = self._reader
        if self.plan is None or self._generation != reader.header.generation:
            document = bytes(ffi.buffer(reader.schema, reader.header.schema_size))
            before = self.plan.owner_label if self.plan else ""
            self.plan = Plan(
                decode(document), self._node_labels, self._presentations, self._created
            )
            self._plans = [self.plan]
            self._all_stale = self.plan.owner_label != before
            if self.compat:
                self._plans.append(
                    Plan(
                        self.compat.translate(self.plan.schema),
                        (),
                        self._presentations,
                        self._created,
                        page=lib.KPOD_CADVISOR,
                        prefixes=self.compat.prefixes,
                    )
                )
            self._generation = reader.header.generation
        if reader.end and reader.data:
            previous = self.snapshot.native if self.snapshot else ffi.NULL
            native = lib.kpod_snapshot_new(reader, self.plan.native, previous)
            if not native:
                return
            native = ffi.gc(native, lib.kpod_snapshot_free)
            owners = [native.owners + i for i in range(native.owner_count)]
            present = {owner.cgroup_id for owner in owners}
            new = [owner_of(o) for o in owners if o.cgroup_id not in self._present]
            outdone = self._claims(present, new)
            self._stale |= self._changed(present) | (outdone - self._outdone)
            self._present, self._outdone = present, outdone
            self._taken = Snapshot(native, self._plans, self._generation, outdone)
            if self._all_stale:  # what they are called on rows of others is not known yet
                self._stale |= present
                self._all_stale = False
        snapshot = self._taken
        if not snapshot:
            return
        seen = self._seen(self._generation)
        other = self.compat.labels if self.compat else None
        per_pod = self._limits.ended_per_pod
        yield from snapshot.label(self._resolver, self._stale, seen, other, per_pod)
        self._stale.clear()
        snapshot.limit(self._limits)
        snapshot.cut |= self._others(snapshot.left)
        for family in snapshot.cut.keys() - self._cut:
            self._cut.add(family)
            log.warning("%s: more series than are shown; see kpod_series_cut", family)
        self.snapshot, self._taken = snapshot, None
        self.taken(snapshot)
