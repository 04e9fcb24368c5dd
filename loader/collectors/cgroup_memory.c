/* SPDX-License-Identifier: Apache-2.0 */
#include "sources/cgroupfs.h"
#include "sources/cgroupwalk.h"

#include "bpf/cgroup_memory.h"
#include "shared/abi.h"

KPOD_OBJECT(cgroup_memory);

#define TO(field) .word = KPOD_WORD(cgroup_memory_row, field)
#define KEYED(key, field)                                                                          \
	{                                                                                          \
		.line = (key), .at = 1, TO(field)                                                  \
	}

static const struct kpod_cgroup_file list[] = {
	KPOD_FILE("memory.current", {.at = 0, TO(usage)}),
	KPOD_FILE("memory.peak", {.at = 0, TO(peak)}),
	KPOD_FILE("memory.max", {.at = 0, TO(limit)}),
	KPOD_FILE("memory.swap.current", {.at = 0, TO(swap)}),
	KPOD_FILE("memory.stat", KEYED("anon", anon), KEYED("file", file), KEYED("kernel", kernel),
		  KEYED("slab", slab), KEYED("inactive_file", inactive_file),
		  KEYED("workingset_refault_anon", refault_anon),
		  KEYED("workingset_refault_file", refault_file)),
	KPOD_FILE("memory.events", KEYED("low", low), KEYED("high", high), KEYED("max", max),
		  KEYED("oom", oom), KEYED("oom_kill", oom_kill),
		  KEYED("oom_group_kill", oom_group_kill)),
};

/* As cAdvisor and kubelet have it; the two files are of slightly different moments. */
static void derive(uint64_t *words)
{
	uint64_t usage = words[KPOD_WORD(cgroup_memory_row, usage)];
	uint64_t inactive = words[KPOD_WORD(cgroup_memory_row, inactive_file)];

	if (usage != KPOD_NO_VALUE && inactive != KPOD_NO_VALUE)
		words[KPOD_WORD(cgroup_memory_row, working_set)] =
			usage > inactive ? usage - inactive : 0;
}

static const struct kpod_cgroup_files files = {
	.controller = "memory", KPOD_FILES(list), .derive = derive};

#define EVENTS "kpod_cgroup_memory_events_total"
#define EVENTS_HELP                                                                                \
	"Events of the memory controller (memory.events): reclaimed although within memory.low "   \
	"(low), over memory.high (high), at memory.max (max), about to fail for it (oom), kills "  \
	"(oom_kill), kills of all processes at once (oom_group_kill, Linux 5.17). With "           \
	"memory.oom.group, which the kubelet sets, the kernel counts the first victim of each "    \
	"kill twice in oom_kill: oom_kill minus oom_group_kill is the number of processes, as is " \
	"kpod_memory_oom_kills_total."
#define REFAULTS "kpod_cgroup_memory_refaults_total"
#define REFAULTS_HELP "Pages read or swapped in again soon after they were evicted."

static const struct kpod_column columns[] = {
	{"kpod_cgroup_memory_usage_bytes", "Memory charged to it (memory.current).",
	 .kind = KPOD_GAUGE, TO(usage)},
	{"kpod_cgroup_memory_working_set_bytes",
	 "Usage without inactive page cache, by which kubelet evicts.", .kind = KPOD_GAUGE,
	 TO(working_set)},
	{"kpod_cgroup_memory_peak_bytes", "Highest usage so far (memory.peak, Linux 5.19).",
	 .kind = KPOD_GAUGE, .lasts = true, TO(peak)},
	{"kpod_cgroup_memory_limit_bytes", "Limit (memory.max); none: no limit.",
	 .kind = KPOD_GAUGE, TO(limit)},
	{"kpod_cgroup_memory_swap_bytes", "Swap used (memory.swap.current).", .kind = KPOD_GAUGE,
	 TO(swap)},
	{"kpod_cgroup_memory_rss_bytes", "Anonymous memory (anon in memory.stat).",
	 .kind = KPOD_GAUGE, TO(anon)},
	{"kpod_cgroup_memory_cache_bytes", "Page cache, tmpfs included (file in memory.stat).",
	 .kind = KPOD_GAUGE, TO(file)},
	{"kpod_cgroup_memory_kernel_bytes", "Memory of the kernel (memory.stat, Linux 5.18).",
	 .kind = KPOD_GAUGE, TO(kernel)},
	{"kpod_cgroup_memory_slab_bytes", "Of this, slabs.", .kind = KPOD_GAUGE, TO(slab)},
	{REFAULTS, REFAULTS_HELP, "kind", "anon", .kind = KPOD_COUNTER, TO(refault_anon)},
	{REFAULTS, REFAULTS_HELP, "kind", "file", .kind = KPOD_COUNTER, TO(refault_file)},
	{EVENTS, EVENTS_HELP, "event", "low", .kind = KPOD_COUNTER, TO(low)},
	{EVENTS, EVENTS_HELP, "event", "high", .kind = KPOD_COUNTER, TO(high)},
	{EVENTS, EVENTS_HELP, "event", "max", .kind = KPOD_COUNTER, TO(max)},
	{EVENTS, EVENTS_HELP, "event", "oom", .kind = KPOD_COUNTER, TO(oom)},
	{EVENTS, EVENTS_HELP, "event", "oom_kill", .kind = KPOD_COUNTER, TO(oom_kill)},
	{EVENTS, EVENTS_HELP, "event", "oom_group_kill", .kind = KPOD_COUNTER, TO(oom_group_kill)},
};

static const struct kpod_table tables[] = {
	{.name = "cgroup_memory",
	 .scope = KPOD_PER_SLOT,
	 .since = KPOD_SINCE_CGROUP,
	 .inclusive = true,
	 .row_size = sizeof(struct cgroup_memory_row),
	 .words = KPOD_WORD(cgroup_memory_row, inactive_file),
	 KPOD_COLUMNS(columns)},
};

static const struct kpod_attachment attachments[] = {
	{KPOD_WALK_ROWS(cgroup_memory, cgroup_memory_walked, .flush = "memory.stat"),
	 KPOD_STEPS(KPOD_WALK_STEPS(cgroup_memory), {"kpod_cgroup_memory_locate", KPOD_CHECK},
		    KPOD_WALK_END(cgroup_memory))},
	{KPOD_FILES_ATTACHMENT},
};

const struct kpod_collector kpod_collector_cgroup_memory = {
	.name = "cgroup_memory",
	.help = "memory, its limit and events, from memory.*",
	.owner = "the cgroup, with all below it",
	.since = "5.10",
	.profile = KPOD_MINIMAL,
	KPOD_EMBEDDED(cgroup_memory),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.sized_by_slot = "cgroup_memory_rows",
	.source = &kpod_cgroup_source,
	.files = &files,
};
