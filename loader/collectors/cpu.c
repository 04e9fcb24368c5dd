/* SPDX-License-Identifier: Apache-2.0 */
#include "base/collector.h"

#include "bpf/cpu.h"

KPOD_OBJECT(cpu);

#define WAIT "kpod_cpu_runqueue_wait_seconds_total"
#define WAIT_HELP                                                                                  \
	"Time runnable but not running, by who held the CPU just before: a task of the same "      \
	"container (self), of another (other), of no container (host), or nobody (idle)."
#define SWITCHES "kpod_cpu_context_switches_total"
#define SWITCHES_HELP                                                                              \
	"Switches away from a task: it blocked (voluntary), was preempted or yielded "             \
	"(involuntary), or was the idle task (idle, host only)."

#define FAULTS "kpod_memory_page_faults_total"
#define FAULTS_HELP "Page faults: without (minor) and with (major) a wait for a disk."

static const struct kpod_column columns[] = {
	{"kpod_cpu_oncpu_seconds_total",
	 "Time on a CPU, as the scheduler accounts it (se.sum_exec_runtime).", .kind = KPOD_COUNTER,
	 .decimals = KPOD_SECONDS, .word = KPOD_WORD(cpu_row, oncpu_ns)},
	{SWITCHES, SWITCHES_HELP, "kind", "voluntary", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(cpu_row, switches[KPOD_SWITCH_VOLUNTARY])},
	{SWITCHES, SWITCHES_HELP, "kind", "involuntary", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(cpu_row, switches[KPOD_SWITCH_INVOLUNTARY])},
	{SWITCHES, SWITCHES_HELP, "kind", "idle", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(cpu_row, switches[KPOD_SWITCH_IDLE])},
	{WAIT, WAIT_HELP, "held_by", "self", .kind = KPOD_COUNTER, .decimals = KPOD_SECONDS,
	 .word = KPOD_WORD(cpu_row, wait_ns[KPOD_HELD_SELF])},
	{WAIT, WAIT_HELP, "held_by", "other", .kind = KPOD_COUNTER, .decimals = KPOD_SECONDS,
	 .word = KPOD_WORD(cpu_row, wait_ns[KPOD_HELD_OTHER])},
	{WAIT, WAIT_HELP, "held_by", "host", .kind = KPOD_COUNTER, .decimals = KPOD_SECONDS,
	 .word = KPOD_WORD(cpu_row, wait_ns[KPOD_HELD_HOST])},
	{WAIT, WAIT_HELP, "held_by", "idle", .kind = KPOD_COUNTER, .decimals = KPOD_SECONDS,
	 .word = KPOD_WORD(cpu_row, wait_ns[KPOD_HELD_IDLE])},
	{"kpod_cpu_runqueue_latency_seconds",
	 "Time runnable but not running before each stint on a CPU (sched_info.run_delay).",
	 KPOD_TIME_HISTOGRAM(cpu_row, wait, wait_ns)},
	{"kpod_cpu_untracked_stints_total",
	 "Stints of tasks without a task record: waits that moved between CPUs may be short.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(cpu_row, untracked)},
	{FAULTS, FAULTS_HELP, "kind", "minor", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(cpu_row, faults[KPOD_FAULT_MINOR])},
	{FAULTS, FAULTS_HELP, "kind", "major", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(cpu_row, faults[KPOD_FAULT_MAJOR])},
};

static const struct kpod_table tables[] = {
	{.name = "cpu",
	 .scope = KPOD_PER_SLOT,
	 .map = "cpu_rows",
	 .row_size = sizeof(struct cpu_row),
	 .words = KPOD_WORD(cpu_row, reserved),
	 KPOD_COLUMNS(columns)},
};

static const struct kpod_attachment attachments[] = {
	{.name = "tp_btf twins",
	 .where = KPOD_TRACEPOINTS_PREEMPT,
	 KPOD_STEPS({"kpod_cpu_fork", KPOD_ATTACH_TWIN}, {"kpod_cpu_fork2", KPOD_ATTACH_TWIN},
		    {"kpod_cpu_move", KPOD_ATTACH_TWIN}, {"kpod_cpu_move2", KPOD_ATTACH_TWIN},
		    {"kpod_cpu_adopt", KPOD_RUN_ONCE}, {"kpod_cpu_switch", KPOD_ATTACH},
		    {"kpod_cpu_flush", KPOD_PER_CPU})},
	{.name = "tp_btf",
	 KPOD_STEPS({"kpod_cpu_fork", KPOD_ATTACH}, {"kpod_cpu_move", KPOD_ATTACH},
		    {"kpod_cpu_adopt", KPOD_RUN_ONCE}, {"kpod_cpu_switch", KPOD_ATTACH},
		    {"kpod_cpu_flush", KPOD_PER_CPU})},
};

const struct kpod_collector kpod_collector_cpu = {
	.name = "cpu",
	.help = "run-queue latency, context switches, time on CPU and page faults",
	.owner = "the task that leaves the CPU; of a wait, the task that waited",
	.since = "5.12",
	KPOD_EMBEDDED(cpu),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.sized_by_cpu = "cpu_stints",
};
