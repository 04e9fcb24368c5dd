"""The segment as Python sees it: its state, its schema and the last whole snapshot."""

import logging
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

from aggregator._native import ffi, lib
from aggregator.exposition import DEFAULT_LE_EXPONENTS, Labels, Plan, row_labels
from aggregator.resolver import Owner, Resolver
from aggregator.schema import Schema, SchemaError, decode

log = logging.getLogger("kpod")

STATES = ("absent", "incompatible", "live", "stale", "replaced", "closed")


Changed = Callable[[Set[int]], Set[int]]


class Snapshot:
    """One snapshot with the plan it is rendered by; usable as long as somebody holds it."""

    def __init__(self, native: Any, plan: Plan) -> None:
        self.native = native
        self.plan = plan

    def text(self) -> Iterator[bytes]:
        """The samples in text format 0.0.4, in pieces of at most KPOD_CHUNK_SIZE bytes."""
        cursor = ffi.new("struct kpod_cursor *")
        chunk = ffi.new("char[]", lib.KPOD_CHUNK_SIZE)
        while size := lib.kpod_render_text(cursor, self.plan.native, self.native, chunk):
            yield ffi.unpack(chunk, size)

    def label(self, resolver: Resolver, changed: Changed) -> None:
        """Names the owners that are new or have changed, no two alike; then hides the nameless."""
        owners = [self.native.owners + i for i in range(self.native.owner_count)]
        stale = changed({owner.cgroup_id for owner in owners})
        if self.native.unlabelled or stale:
            self._label(owners, resolver, stale)
        lib.kpod_snapshot_hide(self.native, self.plan.native)

    def _label(self, owners: list[Any], resolver: Resolver, stale: Set[int]) -> None:
        taken = {
            ffi.unpack(self.native.labels + owner.label_at, owner.label_size)
            for owner in owners
            if owner.label_size and owner.cgroup_id not in stale
        }
        taken.add(row_labels(()).encode())  # a series of a container has a label
        for index, native in enumerate(owners):
            if native.label_size and native.cgroup_id not in stale:
                continue
            path = ffi.unpack(native.path, native.path_size).decode(errors="replace")
            owner = Owner(native.kind, native.cgroup_id, path, native.born_ns, bool(native.died_ns))
            labels = resolver(owner)
            text = row_labels(labels).encode() if labels is not None else b""
            if text in taken and labels is not None:
                # Prometheus refuses a whole scrape for one series that is there twice.
                text = row_labels((*labels, ("cgroup_id", str(owner.cgroup_id)))).encode()
            taken.add(text)
            if not lib.kpod_snapshot_label(self.native, index, text, len(text)):
                raise MemoryError(f"labels of {path}")


class Store:
    """Follows one segment file. refresh() brings everything up to date; the rest only looks."""

    def __init__(
        self,
        path: str,
        *,
        clock: Callable[[], int],
        resolver: Resolver,
        changed: Changed = lambda _: frozenset(),
        node: str = "",
        le_exponents: Iterable[int] = DEFAULT_LE_EXPONENTS,
    ) -> None:
        """clock: CLOCK_MONOTONIC in ns. The node's label comes after the resolver's.

        A resolver is asked once for each owner; again for those that it says have `changed`, of
        the cgroups of a new snapshot, and for those that it had no answer for.
        """
        self.path = path
        self.state = "absent"
        self.cause = ""  # why it is incompatible
        self.plan: Plan | None = None
        self.snapshot: Snapshot | None = None
        self._clock = clock
        self._node: Labels = (("node", node),)
        self._resolver: Resolver = lambda owner: self._with_node(resolver(owner))
        self._changed = changed
        self._le_exponents = tuple(le_exponents)
        self._reader: Any = ffi.gc(ffi.new("struct kpod_reader *"), lib.kpod_reader_close)
        self._generation = 0
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
        state = self._look()
        if state == "replaced":
            state = self._look()
        if state != "live":
            self.plan = self.snapshot = None
            self._generation = 0
        self.state = state
        if self._logged != (state, self.cause):
            self._logged = (state, self.cause)
            log.info("segment %s: %s%s", self.path, state, f": {self.cause}" if self.cause else "")
        return state

    def _look(self) -> str:
        reader = self._reader
        state = lib.kpod_reader_refresh(reader, self._clock())
        if state == lib.KPOD_LIVE:
            try:
                self._take()
            except SchemaError as error:
                lib.kpod_reader_reject(reader, lib.KPOD_FAULT_SCHEMA)
                self.cause = str(error)
                return "incompatible"
            state = reader.state
        self.cause = ""
        if state == lib.KPOD_INCOMPATIBLE:
            self.cause = ffi.string(lib.kpod_fault_text(reader.fault)).decode()
        return str(ffi.string(lib.kpod_state_name(state)).decode())

    def _take(self) -> None:
        reader = self._reader
        if self.plan is None or self._generation != reader.header.generation:
            document = bytes(ffi.buffer(reader.schema, reader.header.schema_size))
            self.plan = Plan(decode(document), self._node, self._le_exponents)
            self._generation = reader.header.generation
        if not reader.end or not reader.data:
            return
        previous = self.snapshot.native if self.snapshot else ffi.NULL
        native = lib.kpod_snapshot_new(reader, self.plan.native, previous)
        if not native:
            return
        snapshot = Snapshot(ffi.gc(native, lib.kpod_snapshot_free), self.plan)
        snapshot.label(self._resolver, self._changed)
        self.snapshot = snapshot
