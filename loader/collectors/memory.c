/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <unistd.h>

#include <bpf/libbpf.h>

#include "base/collector.h"

#include "bpf/memory.h"

KPOD_OBJECT(memory);

#define STALLS "kpod_memory_reclaim_stalls_total"
#define STALLS_HELP                                                                                \
	"Times a task had to free memory itself: because the node was short of it (node), at a "   \
	"cgroup's limit (limit), or as it wrote memory.reclaim or a lower limit of whatever "      \
	"cgroup (request; without PSI, that is limit too)."
#define STALLED "kpod_memory_reclaim_stall_seconds_total"
#define STALLED_HELP "Time that this took."

#define COUNTER(field) .kind = KPOD_COUNTER, .word = KPOD_WORD(memory_row, field)
#define SECONDS(field) COUNTER(field), .decimals = KPOD_SECONDS

static const struct kpod_column columns[] = {
	{"kpod_memory_oom_kills_total",
	 "Processes killed by the kernel for want of memory, by the container they were in.",
	 COUNTER(oom_kills)},
	{STALLS, STALLS_HELP, "cause", "node", COUNTER(stalls[KPOD_RECLAIM_NODE])},
	{STALLS, STALLS_HELP, "cause", "limit", COUNTER(stalls[KPOD_RECLAIM_LIMIT])},
	{STALLS, STALLS_HELP, "cause", "request", COUNTER(stalls[KPOD_RECLAIM_REQUEST])},
	{STALLED, STALLED_HELP, "cause", "node", SECONDS(stall_ns[KPOD_RECLAIM_NODE])},
	{STALLED, STALLED_HELP, "cause", "limit", SECONDS(stall_ns[KPOD_RECLAIM_LIMIT])},
	{STALLED, STALLED_HELP, "cause", "request", SECONDS(stall_ns[KPOD_RECLAIM_REQUEST])},
	{"kpod_memory_untracked_stalls_total",
	 "Stalls not counted because too many tasks were in one at once.", COUNTER(untracked)},
};

static const struct kpod_table tables[] = {
	{.name = "memory",
	 .scope = KPOD_PER_SLOT,
	 .map = "memory_rows",
	 .row_size = sizeof(struct memory_row),
	 .words = sizeof(struct memory_row) / 8,
	 KPOD_COLUMNS(columns)},
};

static int prepare(struct bpf_object *object)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object, ".rodata.memory");
	bool has_psi = !access("/proc/pressure/memory", F_OK); /* not with psi=0 */

	return !map							    ? -ENOENT
	       : bpf_map__set_initial_value(map, &has_psi, sizeof(has_psi)) ? -errno
									    : 0;
}

#define STEPS(victim, kind)                                                                        \
	KPOD_STEPS({"kpod_memory_signal", KPOD_ATTACH}, {victim, KPOD_ATTACH},                     \
		   {"kpod_memory_direct_end" kind, KPOD_ATTACH},                                   \
		   {"kpod_memory_direct_begin" kind, KPOD_ATTACH},                                 \
		   {"kpod_memory_memcg_end" kind, KPOD_ATTACH},                                    \
		   {"kpod_memory_memcg_begin" kind, KPOD_ATTACH})

static const struct kpod_attachment attachments[] = {
	{.name = "tracepoint",
	 .where = KPOD_TRACEPOINTS_PREEMPT,
	 STEPS("kpod_memory_victim", "_tp")},
	{.name = "tp_btf", STEPS("kpod_memory_victim", "")},
	{.name = "tp_btf, victims by pid", STEPS("kpod_memory_victim_pid", "")},
};

const struct kpod_collector kpod_collector_memory = {
	.name = "memory",
	.help = "OOM kills and waits for memory",
	.owner = "the task that waits; of an OOM kill, the victim",
	.never_shed = true,
	.since = "5.10",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(memory),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.prepare = prepare,
	.sized_by_cpu = "memory_cpus",
};
