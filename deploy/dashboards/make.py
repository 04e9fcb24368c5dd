"""Our dashboards. `make deploy` writes them beside this file; the chart ships them.

python -m deploy.dashboards.make [--check]
"""

import json
import sys
from pathlib import Path

from deploy.dashboards.grafana import Dashboard, Panel, Query, Row, Variable
from deploy.dashboards.promql import (
    NAMESPACES,
    NODES,
    WHOLE_PODS,
    mean,
    quantile,
    rate,
    ratio,
    top,
    total,
)

HERE = Path(__file__).parent
ONCPU = "kpod_cpu_oncpu_seconds_total"
WAIT = "kpod_cpu_runqueue_wait_seconds_total"
NODE = Variable("node", "label_values(kpod_loader_up, node)")
NAMESPACE = Variable("namespace", f'label_values({ONCPU}{{node=~"$node"}}, namespace)')
POD = Variable("pod", f'label_values({ONCPU}{{namespace=~"$namespace"}}, pod)', many=False)


def cluster() -> Dashboard:
    by = "namespace"

    def panel(title: str, expression: str, unit: str, description: str = "") -> Panel:
        return Panel(title, [Query(top(10, expression), "{{namespace}}")], unit, description)

    return Dashboard(
        "kpod-cluster",
        "kpod / Cluster by namespace",
        "Which namespace uses what, and which one suffers.",
        [NODE, NAMESPACE],
        [
            Row(
                "CPU",
                [
                    panel("CPU time", rate(ONCPU, NAMESPACES, by=by), "s"),
                    panel(
                        "Waits for a CPU that others hold",
                        rate(WAIT, NAMESPACES, by=by, more='held_by!="self"'),
                        "s",
                        "Seconds a second that tasks were runnable, but did not run.",
                    ),
                    panel(
                        "Throttled by a CPU limit",
                        rate("kpod_cgroup_cpu_throttled_seconds_total", NAMESPACES, by=by),
                        "s",
                    ),
                ],
            ),
            Row(
                "Memory",
                [
                    panel(
                        "Working set",
                        total("kpod_cgroup_memory_working_set_bytes", NAMESPACES, by=by),
                        "bytes",
                    ),
                    panel(
                        "Time spent freeing memory",
                        rate("kpod_memory_reclaim_stall_seconds_total", NAMESPACES, by=by),
                        "s",
                    ),
                    panel(
                        "OOM kills",
                        rate("kpod_memory_oom_kills_total", NAMESPACES, by=by),
                        "ops",
                    ),
                ],
            ),
            Row(
                "Network and disk",
                [
                    panel("TCP payload", rate("kpod_tcp_bytes_total", NAMESPACES, by=by), "Bps"),
                    panel(
                        "TCP segments sent again",
                        ratio(
                            rate("kpod_tcp_retransmitted_segments_total", NAMESPACES, by=by),
                            rate(
                                "kpod_tcp_segments_total",
                                NAMESPACES,
                                by=by,
                                more='direction="sent"',
                            ),
                        ),
                        "percentunit",
                    ),
                    panel("Block I/O", rate("kpod_block_io_bytes_total", NAMESPACES, by=by), "Bps"),
                ],
            ),
            Row(
                "Short-lived",
                [
                    panel(
                        "Programs started",
                        rate("kpod_process_execs_total", NAMESPACES, by=by),
                        "ops",
                    ),
                    panel(
                        "Processes that failed or were killed",
                        rate(
                            "kpod_process_exits_total", NAMESPACES, by=by, more='outcome!="success"'
                        ),
                        "ops",
                    ),
                    panel(
                        "Connections that could not be made",
                        rate("kpod_tcp_connects_failed_total", NAMESPACES, by=by),
                        "ops",
                    ),
                ],
            ),
        ],
    )


def pod() -> Dashboard:
    by = "container"

    def panel(
        title: str, expression: str, unit: str, description: str = "", legend: str = "{{container}}"
    ) -> Panel:
        return Panel(title, [Query(expression, legend)], unit, description)

    return Dashboard(
        "kpod-pod",
        "kpod / Why is this pod slow",
        "Everything that can keep a pod waiting, from top to bottom: the CPU and who held it, its "
        "own limits, memory, disks, the network.",
        [NODE, NAMESPACE, POD],
        [
            Row(
                "CPU",
                [
                    panel("CPU time", rate(ONCPU, by=by), "s"),
                    Panel(
                        "Waits for a CPU, by who held it",
                        [Query(rate(WAIT, by="held_by"), "held by {{held_by}}")],
                        "s",
                        "self: more runnable threads than CPUs. other: another container. "
                        "host: daemons of the node. idle: the scheduler had not moved it yet.",
                        stacked=True,
                    ),
                    Panel(
                        "Time until it runs",
                        [
                            Query(quantile(q, "kpod_cpu_runqueue_latency_seconds", by=by), legend)
                            for q, legend in (
                                (0.5, "{{container}} p50"),
                                (0.99, "{{container}} p99"),
                            )
                        ],
                        "s",
                    ),
                    panel(
                        "Periods in which the CPU limit was used up",
                        ratio(
                            rate("kpod_cgroup_cpu_throttled_periods_total", by=by),
                            rate("kpod_cgroup_cpu_periods_total", by=by),
                        ),
                        "percentunit",
                    ),
                    panel(
                        "Time lost to pressure",
                        rate(
                            "kpod_pressure_stall_seconds_total",
                            by="container, resource",
                            more='kind="some"',
                        ),
                        "percentunit",
                        "Share of the time in which some task waited for the resource (PSI).",
                        "{{container}} {{resource}}",
                    ),
                    Panel(
                        "Time taken by interrupts",
                        [
                            Query(
                                rate(f"kpod_{irq}_stolen_seconds_total", by=by),
                                f"{{{{container}}}} {irq}",
                            )
                            for irq in ("softirq", "hardirq")
                        ],
                        "s",
                    ),
                ],
            ),
            Row(
                "Memory",
                [
                    Panel(
                        "Working set and limit",
                        [
                            Query(
                                total("kpod_cgroup_memory_working_set_bytes", by=by),
                                "{{container}}",
                            ),
                            Query(
                                total("kpod_cgroup_memory_limit_bytes", by=by),
                                "{{container}} limit",
                            ),
                        ],
                        "bytes",
                    ),
                    panel(
                        "Time spent freeing memory",
                        rate("kpod_memory_reclaim_stall_seconds_total", by="container, cause"),
                        "s",
                        "cause=limit: at its own limit; cause=node: the node is short.",
                        "{{container}} {{cause}}",
                    ),
                    panel(
                        "Page faults that read from a disk",
                        rate("kpod_memory_page_faults_total", by=by, more='kind="major"'),
                        "ops",
                    ),
                ],
            ),
            Row(
                "Disks",
                [
                    Panel(
                        "Time in the device",
                        [
                            Query(
                                quantile(
                                    0.99, "kpod_block_io_device_seconds", by="device, operation"
                                ),
                                "{{device}} {{operation}} p99",
                            ),
                            Query(
                                mean("kpod_block_io_device_seconds", by="device, operation"),
                                "{{device}} {{operation}} mean",
                            ),
                        ],
                        "s",
                    ),
                    panel(
                        "Bytes",
                        rate("kpod_block_io_bytes_total", by="device, operation"),
                        "Bps",
                        legend="{{device}} {{operation}}",
                    ),
                    panel(
                        "Volumes in use",
                        ratio(
                            total("kpod_filesystem_used_bytes", by="container, mountpoint"),
                            total("kpod_filesystem_size_bytes", by="container, mountpoint"),
                        ),
                        "percentunit",
                        legend="{{container}} {{mountpoint}}",
                    ),
                ],
            ),
            Row(
                "Network",
                [
                    panel(
                        "TCP payload",
                        rate("kpod_tcp_bytes_total", by="container, direction"),
                        "Bps",
                        legend="{{container}} {{direction}}",
                    ),
                    Panel(
                        "Round-trip time",
                        [
                            Query(
                                quantile(q, "kpod_tcp_rtt_seconds", by=by),
                                f"{{{{container}}}} p{q * 100:g}",
                            )
                            for q in (0.5, 0.99)
                        ],
                        "s",
                    ),
                    Panel(
                        "Time to connect",
                        [
                            Query(
                                quantile(0.99, "kpod_tcp_connect_seconds", by=by),
                                "{{container}} p99",
                            )
                        ],
                        "s",
                    ),
                    panel(
                        "TCP segments sent again",
                        ratio(
                            rate("kpod_tcp_retransmitted_segments_total", by=by),
                            rate("kpod_tcp_segments_total", by=by, more='direction="sent"'),
                        ),
                        "percentunit",
                    ),
                    panel(
                        "TCP packets dropped, by the kernel's reason",
                        rate("kpod_tcp_dropped_packets_total", by="container, reason"),
                        "pps",
                        legend="{{container}} {{reason}}",
                    ),
                    Panel(
                        "Drops of datagrams and interfaces",
                        [
                            Query(
                                rate("kpod_udp_receive_drops_total", by=by),
                                "{{container}} UDP queue full",
                            ),
                            Query(
                                rate(
                                    "kpod_interface_receive_dropped_total",
                                    WHOLE_PODS,
                                    by="interface",
                                ),
                                "{{interface}} received",
                            ),
                            Query(
                                rate(
                                    "kpod_interface_transmit_dropped_total",
                                    WHOLE_PODS,
                                    by="interface",
                                ),
                                "{{interface}} sent",
                            ),
                        ],
                        "pps",
                    ),
                ],
            ),
            Row(
                "Processes",
                [
                    panel(
                        "Processes ended",
                        rate("kpod_process_exits_total", by="container, outcome"),
                        "ops",
                        legend="{{container}} {{outcome}}",
                    ),
                    panel(
                        "Tasks, of those it may have",
                        ratio(
                            total("kpod_cgroup_pids", by=by), total("kpod_cgroup_pids_limit", by=by)
                        ),
                        "percentunit",
                    ),
                    panel(
                        "System calls that failed",
                        rate("kpod_syscalls_errors_total", by=by),
                        "ops",
                        "Profile comprehensive only.",
                    ),
                ],
            ),
        ],
    )


def node() -> Dashboard:
    pods = "namespace, pod"
    busy = 'node=~"$node", container!=""'

    def panel(
        title: str,
        expression: str,
        unit: str,
        description: str = "",
        legend: str = "{{namespace}}/{{pod}}",
    ) -> Panel:
        return Panel(title, [Query(expression, legend)], unit, description)

    return Dashboard(
        "kpod-node",
        "kpod / Node",
        "Who is on the node, who makes the others wait, and what interrupts cost.",
        [Variable("node", NODE.query, many=False)],
        [
            Row(
                "Pods",
                [
                    panel("CPU time", top(10, rate(ONCPU, busy, by=pods)), "s"),
                    panel(
                        "Who waits for others",
                        top(10, rate(WAIT, busy, by=pods, more='held_by="other"')),
                        "s",
                    ),
                    panel(
                        "Who waits for whom",
                        top(
                            10,
                            rate(
                                "kpod_cpu_runqueue_wait_by_culprit_seconds_total",
                                busy,
                                by=f"{pods}, culprit_namespace, culprit_pod, culprit_unit",
                                more='culprit_scope!="earlier"',
                            ),
                        ),
                        "s",
                        "Seconds a second that tasks were runnable while the other had the CPU.",
                        "{{namespace}}/{{pod}} for {{culprit_namespace}}/{{culprit_pod}}"
                        "{{culprit_unit}}",
                    ),
                    panel(
                        "Working set",
                        top(10, total("kpod_cgroup_memory_working_set_bytes", busy, by=pods)),
                        "bytes",
                    ),
                    panel(
                        "Block I/O",
                        top(10, rate("kpod_block_io_bytes_total", busy, by=pods)),
                        "Bps",
                    ),
                    panel(
                        "TCP payload", top(10, rate("kpod_tcp_bytes_total", busy, by=pods)), "Bps"
                    ),
                    panel(
                        "Interface traffic",
                        top(
                            10,
                            rate(
                                "kpod_interface_receive_bytes_total",
                                'node=~"$node", pod!=""',
                                by=pods,
                            ),
                        ),
                        "Bps",
                    ),
                ],
            ),
            Row(
                "What belongs to no pod",
                [
                    panel(
                        "CPU time of the host and its services",
                        rate(ONCPU, NODES, by="scope", more='pod=""'),
                        "s",
                        legend="{{scope}}",
                    ),
                    panel(
                        "Time of softirqs, p99",
                        quantile(0.99, "kpod_softirq_duration_seconds", NODES, by="vector"),
                        "s",
                        legend="{{vector}}",
                    ),
                    panel(
                        "Time of interrupts, p99",
                        quantile(0.99, "kpod_hardirq_duration_seconds", NODES, by="irq"),
                        "s",
                        legend="{{irq}}",
                    ),
                ],
            ),
        ],
    )


def agent() -> Dashboard:
    def panel(
        title: str, expression: str, unit: str, legend: str = "{{node}}", description: str = ""
    ) -> Panel:
        return Panel(title, [Query(expression, legend)], unit, description)

    lost = (
        *("kpod_cpu_untracked_stints_total", "kpod_tcp_untracked_sockets_total"),
        *("kpod_slots_exhausted_total", "kpod_table_units_exhausted_total"),
        *("kpod_snapshot_failures_total", "kpod_reader_laps_total"),
        *("kpod_bpf_program_misses_total", "kpod_cgroup_read_errors_total"),
    )
    return Dashboard(
        "kpod-agent",
        "kpod / The agent's own health",
        "Does it run everywhere, what does it cost, and what could it not count.",
        [NODE],
        [
            Row(
                "Does it run",
                [
                    Panel(
                        title,
                        [Query(expression, instant=True)],
                        kind="stat",
                        width=6,
                        height=4,
                    )
                    for title, expression in (
                        ("Nodes with a loader", f"sum(kpod_loader_up{{{NODES}}})"),
                        ("Nodes without", f"count(kpod_loader_up{{{NODES}}} == 0) or vector(0)"),
                        (
                            "Collectors down",
                            f"count(kpod_collector_up{{{NODES}}} == 0) or vector(0)",
                        ),
                        ("Series cut", f"sum(kpod_series_cut{{{NODES}}}) or vector(0)"),
                    )
                ],
            ),
            Row(
                "Cost",
                [
                    panel(
                        "BPF programs, of the node's CPU",
                        f"kpod_bpf_overhead_ratio{{{NODES}}}",
                        "percentunit",
                    ),
                    panel(
                        "CPU of the loader",
                        rate("kpod_loader_cpu_seconds_total", NODES, by="node"),
                        "s",
                    ),
                    panel(
                        "CPU of the aggregator",
                        rate(
                            "process_cpu_seconds_total", 'job=~"(.*/)?kpod-metrics"', by="instance"
                        ),
                        "s",
                        "{{instance}}",
                    ),
                    panel(
                        "Costliest programs",
                        top(
                            10,
                            rate(
                                "kpod_bpf_program_run_seconds_total", NODES, by="collector, program"
                            ),
                        ),
                        "s",
                        "{{collector}} {{program}}",
                    ),
                    panel(
                        "Kernel memory of maps",
                        total("kpod_collector_map_bytes", NODES, by="node"),
                        "bytes",
                    ),
                    panel(
                        "Memory of the aggregator",
                        'process_resident_memory_bytes{job=~"(.*/)?kpod-metrics"}',
                        "bytes",
                        "{{instance}}",
                    ),
                ],
            ),
            Row(
                "What was not counted",
                [
                    Panel(
                        "Losses by cause",
                        [
                            Query(f"{rate(name, NODES, by='node')} > 0", f"{{{{node}}}} {name}")
                            for name in lost
                        ],
                        "ops",
                        "Empty is good.",
                        width=16,
                    ),
                    panel(
                        "Slots in use",
                        ratio(f"kpod_slots_used{{{NODES}}}", f"kpod_slots_capacity{{{NODES}}}"),
                        "percentunit",
                    ),
                ],
            ),
            Row(
                "Names and snapshots",
                [
                    panel(
                        "Cgroups of pods, by how they are named",
                        total("kpod_pods_cgroups", NODES, by="state"),
                        "short",
                        "{{state}}",
                    ),
                    panel(
                        "Time a snapshot takes", f"kpod_snapshot_duration_seconds{{{NODES}}}", "s"
                    ),
                    panel(
                        "Age of the snapshot",
                        f"time() - kpod_snapshot_timestamp_seconds{{{NODES}}}",
                        "s",
                    ),
                ],
            ),
        ],
    )


def main() -> None:
    stale = False
    for make in (cluster, pod, node, agent):
        path = HERE / f"{make.__name__}.json"
        text = json.dumps(make().json(), indent=1) + "\n"
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale = True
                print(f"{path}: not what make.py makes; run make deploy", file=sys.stderr)
        else:
            path.write_text(text)
    sys.exit(stale)


if __name__ == "__main__":
    main()
