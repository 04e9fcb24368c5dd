/* SPDX-License-Identifier: Apache-2.0 */
#include "../collector.h"

#include "../../bpf/memory.h"

KPOD_OBJECT(memory);

#define STALLS "kpod_memory_reclaim_stalls_total"
#define STALLS_HELP                                                                                \
	"Times a task had to free memory before it got some, because the node was short of it "    \
	"(node) or a cgroup at its limit (cgroup)."
#define STALL_TIME "kpod_memory_reclaim_stall_seconds_total"
#define STALL_TIME_HELP "Time tasks spent so, counted when each stall ends."

static const struct kpod_column columns[] = {
	{"kpod_memory_oom_kills_total",
	 "Processes killed because memory ran out, whoever had asked for it.", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(memory_row, oom_kills)},
	{STALLS, STALLS_HELP, "level", "node", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(memory_row, stalls[KPOD_RECLAIM_NODE])},
	{STALLS, STALLS_HELP, "level", "cgroup", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(memory_row, stalls[KPOD_RECLAIM_CGROUP])},
	{STALL_TIME, STALL_TIME_HELP, "level", "node", .kind = KPOD_COUNTER,
	 .decimals = KPOD_SECONDS, .word = KPOD_WORD(memory_row, stall_ns[KPOD_RECLAIM_NODE])},
	{STALL_TIME, STALL_TIME_HELP, "level", "cgroup", .kind = KPOD_COUNTER,
	 .decimals = KPOD_SECONDS, .word = KPOD_WORD(memory_row, stall_ns[KPOD_RECLAIM_CGROUP])},
	{"kpod_memory_reclaim_untracked_total",
	 "Stalls not counted because too many tasks stalled at once.", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(memory_row, untracked)},
};

static const struct kpod_table tables[] = {
	{.name = "memory",
	 .scope = KPOD_PER_SLOT,
	 .map = "memory_rows",
	 .row_size = sizeof(struct memory_row),
	 .words = KPOD_WORD(memory_row, reserved),
	 .unsharded = true,
	 KPOD_COLUMNS(columns)},
};

#define RECLAIM                                                                                    \
	{"kpod_memory_node_begin", KPOD_ATTACH}, {"kpod_memory_node_end", KPOD_ATTACH},            \
		{"kpod_memory_cgroup_begin", KPOD_ATTACH},                                         \
	{                                                                                          \
		"kpod_memory_cgroup_end", KPOD_ATTACH                                              \
	}

/*
 * The function first: it is called for what the kernel counts as a kill (memory.events), the
 * tracepoint also for a victim that was ending anyway.
 */
static const struct kpod_attachment attachments[] = {
	{.name = "fentry", KPOD_STEPS({"kpod_memory_kill", KPOD_ATTACH}, RECLAIM)},
	{.name = "tp_btf", KPOD_STEPS({"kpod_memory_victim", KPOD_ATTACH}, RECLAIM)},
};

const struct kpod_collector kpod_collector_memory = {
	.name = "memory",
	.help = "processes killed for want of memory, and waits for reclaim",
	.owner = "the victim of a kill; the task that waits",
	.since = "5.10",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(memory),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
};
