"""/metrics/cadvisor: the kubelet's cAdvisor page, of what has the same meaning.

TABLE is all there is to it: a column of ours, found by name and labels, is shown under cAdvisor's
name. docs/cadvisor.md is made from it and from MISSING. The same rows are rendered, by a plan of
their own.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from aggregator.pods.kinds import CONTAINER, HOST, POD, POD_CONTAINER
from aggregator.pods.resolver import name_of
from aggregator.segment.exposition import WHOSE
from aggregator.segment.labels import Labels
from aggregator.segment.owner import Owner
from aggregator.segment.schema import Column, Kind, Schema, Table

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A column of ours under cAdvisor's name, times 10^scale; `labels` are those that it has here.

    differs: in which way it is not the same after all; empty if it is.
    """

    name: str
    ours: str
    help: str
    labels: Pairs = ()
    shown: Pairs = ()
    scale: int = 0
    differs: str = ""


def _pressure() -> tuple[Rule, ...]:
    return tuple(
        Rule(
            f"container_pressure_{resource}_{word}_seconds_total",
            "kpod_pressure_stall_seconds_total",
            f"Time in which {who} of the cgroup waited for {resource} (PSI).",
            (("kind", kind), ("resource", resource)),
        )
        for resource in ("cpu", "memory", "io")
        for word, kind, who in (
            ("waiting", "some", "at least one task"),
            ("stalled", "full", "all runnable tasks"),
        )
    )


def _network() -> tuple[Rule, ...]:
    return tuple(
        Rule(
            f"container_network_{direction}_{theirs}_total",
            f"kpod_interface_{direction}_{ours}_total",
            f"{what} {verb} by the pod's interface.",
        )
        for direction, verb in (("receive", "received"), ("transmit", "sent"))
        for theirs, ours, what in (
            ("bytes", "bytes", "Bytes"),
            ("packets", "packets", "Packets"),
            ("errors", "errors", "Bad packets"),
            ("packets_dropped", "dropped", "Packets dropped that were to be"),
        )
    )


def _disk() -> tuple[Rule, ...]:
    return tuple(
        Rule(
            f"container_fs_{verb}_{suffix}",
            f"kpod_disk_{ours}_total",
            f"{what} {operation} on a device (io.stat).",
            (("operation", operation),),
            differs="A device that sysfs has no name for is shown by its number.",
        )
        for operation, verb in (("read", "reads"), ("write", "writes"))
        for suffix, ours, what in (
            ("bytes_total", "bytes", "Bytes"),
            ("total", "operations", "Operations"),
        )
    )


_NO_LIMIT = "No limit is no series; cAdvisor has a zero."

TABLE: tuple[Rule, ...] = (
    Rule(
        "container_cpu_usage_seconds_total",
        "kpod_cgroup_cpu_usage_seconds_total",
        "CPU time of the cgroup (cpu.stat usage_usec).",
        shown=(("cpu", "total"),),
    ),
    Rule(
        "container_cpu_user_seconds_total",
        "kpod_cgroup_cpu_user_seconds_total",
        "CPU time of the cgroup in user mode (cpu.stat user_usec).",
    ),
    Rule(
        "container_cpu_system_seconds_total",
        "kpod_cgroup_cpu_system_seconds_total",
        "CPU time of the cgroup in the kernel (cpu.stat system_usec).",
    ),
    Rule(
        "container_cpu_cfs_periods_total",
        "kpod_cgroup_cpu_periods_total",
        "Enforcement periods of the CPU quota in which the cgroup ran (cpu.stat nr_periods).",
    ),
    Rule(
        "container_cpu_cfs_throttled_periods_total",
        "kpod_cgroup_cpu_throttled_periods_total",
        "Enforcement periods in which the cgroup used up its CPU quota (cpu.stat nr_throttled).",
    ),
    Rule(
        "container_cpu_cfs_throttled_seconds_total",
        "kpod_cgroup_cpu_throttled_seconds_total",
        "Time for which the cgroup was held back by its quota, added up over CPUs (cpu.stat).",
    ),
    Rule(
        "container_spec_cpu_quota",
        "kpod_cgroup_cpu_quota_seconds",
        "CPU time in microseconds that the cgroup may use in a period (cpu.max).",
        scale=6,
        differs=_NO_LIMIT,
    ),
    Rule(
        "container_spec_cpu_period",
        "kpod_cgroup_cpu_period_seconds",
        "Length in microseconds of a period of the CPU quota (cpu.max).",
        scale=6,
    ),
    Rule(
        "container_memory_usage_bytes",
        "kpod_cgroup_memory_usage_bytes",
        "Memory charged to the cgroup (memory.current).",
    ),
    Rule(
        "container_memory_working_set_bytes",
        "kpod_cgroup_memory_working_set_bytes",
        "Memory charged to the cgroup without inactive page cache, by which the kubelet evicts.",
    ),
    Rule(
        "container_memory_rss",
        "kpod_cgroup_memory_rss_bytes",
        "Bytes of anonymous memory of the cgroup (memory.stat anon).",
    ),
    Rule(
        "container_memory_cache",
        "kpod_cgroup_memory_cache_bytes",
        "Bytes of page cache of the cgroup, tmpfs included (memory.stat file).",
    ),
    Rule(
        "container_memory_swap",
        "kpod_cgroup_memory_swap_bytes",
        "Bytes of swap that the cgroup uses (memory.swap.current).",
    ),
    Rule(
        "container_memory_max_usage_bytes",
        "kpod_cgroup_memory_peak_bytes",
        "Highest memory usage of the cgroup so far (memory.peak).",
        differs="Before Linux 5.19 there is no series; cAdvisor has a zero.",
    ),
    Rule(
        "container_spec_memory_limit_bytes",
        "kpod_cgroup_memory_limit_bytes",
        "Memory limit of the cgroup (memory.max).",
        differs=_NO_LIMIT,
    ),
    Rule(
        "container_oom_events_total",
        "kpod_memory_oom_kills_total",
        "Processes of the cgroup that the kernel killed for want of memory.",
        differs="From the kernel's tracepoint, so also of containers that died of it; "
        "cAdvisor reads the kernel's log.",
    ),
    *_pressure(),
    Rule(
        "container_threads",
        "kpod_cgroup_pids",
        "Processes and threads of the cgroup (pids.current).",
    ),
    Rule(
        "container_threads_max",
        "kpod_cgroup_pids_limit",
        "Limit of processes and threads of the cgroup (pids.max).",
        differs=_NO_LIMIT,
    ),
    *_disk(),
    *_network(),
)

# cAdvisor's of the kubelet's set that are not here, and why.
MISSING: tuple[tuple[str, str], ...] = (
    (
        "container_blkio_device_usage_total",
        "The bytes are in container_fs_reads_bytes_total and container_fs_writes_bytes_total.",
    ),
    ("container_cpu_load_average_10s, container_tasks_state", "Not measured."),
    ("container_file_descriptors, container_sockets, container_ulimits_soft", "Not measured."),
    (
        "container_fs_usage_bytes, container_fs_limit_bytes, container_fs_inodes_*",
        "They are of a container's writable layer; kpod_filesystem_* is of each mount.",
    ),
    (
        "container_fs_io_*, container_fs_*_seconds_total, container_fs_sector_*, "
        "container_fs_*_merged_total",
        "io.stat does not have them; kpod_block_io_* has times.",
    ),
    (
        "container_last_seen",
        "kpod_snapshot_timestamp_seconds says when all values were read.",
    ),
    ("container_memory_failcnt", "kpod_cgroup_memory_events_total has each kind of event."),
    (
        "container_memory_failures_total",
        "kpod_memory_page_faults_total counts faults by the task, not by the cgroup charged.",
    ),
    (
        "container_memory_kernel_usage, container_memory_mapped_file, "
        "container_memory_total_active_file_bytes, container_memory_total_inactive_file_bytes",
        "Not shown.",
    ),
    ("container_processes", "pids.current counts threads too: container_threads."),
    ("container_spec_cpu_shares", "cgroup2 has a weight: kpod_cgroup_cpu_weight."),
    (
        "container_spec_memory_reservation_limit_bytes, container_spec_memory_swap_limit_bytes",
        "Not read.",
    ),
    (
        "container_start_time_seconds",
        "Not known of a container that is older than the loader.",
    ),
    ("machine_*, cadvisor_version_info, container_scrape_error", "Not of containers."),
)

# cAdvisor has the path of the device's file.
PREFIXES = {"device": "/dev/"}


def _column(column: Column) -> list[Column]:
    found = []
    for rule in TABLE:
        if (rule.ours, rule.labels) != (column.name, tuple(sorted(column.labels))):
            continue
        kind: Kind = column.kind
        decimals = column.decimals - rule.scale
        found.append(
            replace(
                column,
                name=rule.name,
                help=rule.help,
                kind=kind,
                decimals=decimals,
                labels=rule.shown,
            )
        )
    return found


def _is_of_pods(table: Table, other: Table) -> bool:
    """Whether the other table has the same of pods' own cgroups: kpod_pod_X for kpod_cgroup_X."""

    def columns(of: Table) -> list[Column]:
        return [replace(column, name="", help="") for column in of.columns]

    return (
        table.per_slot
        and (table.keys, table.words, columns(table)) == (other.keys, other.words, columns(other))
        and all(column.name.startswith("kpod_pod_") for column in other.columns)
    )


def translate(schema: Schema) -> Schema:
    """The same tables, with the columns that cAdvisor has under its names. Pods' own rows are in
    the families of their containers."""

    def table(index: int, each: Table) -> Table:
        columns = tuple(shown for column in each.columns for shown in _column(column))
        after = schema.tables[index + 1 : index + 2]
        return replace(
            each,
            columns=columns if each.per_slot else (),
            with_next=any(_is_of_pods(each, other) for other in after),
        )

    return replace(schema, tables=tuple(table(*item) for item in enumerate(schema.tables)))


Image = Callable[[str, str], str]


def namer(image: Image) -> Callable[[Owner, Labels], Labels | None]:
    """Labels as the kubelet's cAdvisor has them, from ours. image: of a pod's uid and a container's
    id; empty if it is not known. None: the owner has no row there."""

    def labels(owner: Owner, ours: Labels) -> Labels | None:
        if owner.kind == HOST or not owner.path:
            return None  # what belongs to no container is not the root cgroup
        known = dict(ours)
        where = ("id", f"/{owner.path.strip('/')}")
        name = name_of(owner)
        if owner.kind == POD_CONTAINER:
            return (
                ("container", known.get("container", "")),
                where,
                ("image", image(name.pod_uid, name.container_id)),
                ("name", name.container_id),
                ("namespace", known.get("namespace", "")),
                ("pod", known.get("pod", "")),
            )
        if owner.kind == POD:
            return (
                ("container", ""),
                where,
                ("namespace", known.get("namespace", "")),
                ("pod", known.get("pod", "")),
            )
        # On a node with pods also where they are empty: a scraper that is told to honour labels
        # else takes those of the target, which is this agent's own pod.
        nobody = tuple((n, v) for n, v in ours if n in WHOSE)
        if owner.kind == CONTAINER:
            return (*nobody, where, ("name", name.container_id))
        return (*nobody, where)

    return labels
