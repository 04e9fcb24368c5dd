// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What memory.* say, for every cgroup with a slot. */
#include "walk.bpf.h"

#include "cgroup_memory.h"

#define NO_LIMIT (~0UL >> 1) /* LONG_MAX; PAGE_COUNTER_MAX is that in pages */
#define ENOENT 2

extern int LINUX_KERNEL_VERSION __kconfig;

/* memory.stat's words, in the order in which `at` has where each of them is. */
enum { ANON, FILE, KERNEL, SLAB, SLAB_RECLAIMABLE, REFAULT_ANON, REFAULT_FILE, INACTIVE, ITEMS };

__u32 at[ITEMS]; /* in memcg_vmstats.state[] */
__u64 places;	 /* address of mem_cgroup_stats_index[]; 0: there is none */

/* Since 6.10 state[] has only the items that cgroups count, and a table says where each is. */
static __always_inline bool is_indexed(void)
{
	struct memcg_vmstats *stats = NULL;

	return bpf_core_field_size(stats->state) / sizeof(long) !=
	       bpf_core_enum_value(enum memcg_stat_item, MEMCG_NR_STAT);
}

/* Finds that table. Its first kernels, 6.10 and 6.11, count from 1 in it; they are not supported.
 */
SEC("syscall")
int kpod_cgroup_memory_locate(void *ctx)
{
	const char name[] = "mem_cgroup_stats_index";

	if (!is_indexed())
		return 0;
	if (LINUX_KERNEL_VERSION < 0x060c00)
		return -ENOENT;
	return bpf_kallsyms_lookup_name(name, sizeof(name), 0, &places);
}

#define LOCATE(item, type, name)                                                                   \
	do {                                                                                       \
		__u8 __place = 0;                                                                  \
		at[item] = bpf_core_enum_value(enum type, name);                                   \
		if (is_indexed()) {                                                                \
			bpf_probe_read_kernel(&__place, 1, (void *)(places + at[item]));           \
			at[item] = __place;                                                        \
		}                                                                                  \
	} while (0)

static __always_inline void begin_memory(void)
{
	LOCATE(ANON, node_stat_item, NR_ANON_MAPPED);
	LOCATE(FILE, node_stat_item, NR_FILE_PAGES);
	LOCATE(KERNEL, memcg_stat_item, MEMCG_KMEM);
	LOCATE(SLAB, node_stat_item, NR_SLAB_UNRECLAIMABLE_B);
	LOCATE(SLAB_RECLAIMABLE, node_stat_item, NR_SLAB_RECLAIMABLE_B);
	LOCATE(REFAULT_ANON, node_stat_item, WORKINGSET_REFAULT_ANON);
	LOCATE(REFAULT_FILE, node_stat_item, WORKINGSET_REFAULT_FILE);
	LOCATE(INACTIVE, node_stat_item, NR_INACTIVE_FILE);
}

/* memcg_page_state(): CPUs that have not all been added up yet may make it negative. */
static __always_inline __u64 state_of(struct memcg_vmstats *stats, __u32 item)
{
	long value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (char *)&stats->state + 8 * at[item]);
	return value < 0 ? 0 : value;
}

static __always_inline void read_memory(struct cgroup_memory_walked *found, struct cgroup *cgrp)
{
	struct cgroup_subsys_state *css = kpod_css(cgrp, memory);
	__u64 page = kpod_config.page_size, events[MEMCG_OOM_GROUP_KILL + 1];
	struct cgroup_memory_row *row = &found->row;
	struct memcg_vmstats *stats;
	struct mem_cgroup *memcg;

	if (!css) {
		__builtin_memset(row, 0xff, sizeof(*row));
		return;
	}
	memcg = kpod_of_css(struct mem_cgroup, css);
	row->working_set = KPOD_ABSENT; /* the loader derives it */
	row->usage = BPF_CORE_READ(memcg, memory.usage.counter) * page;
	row->peak = BPF_CORE_READ(memcg, memory.watermark) * page;
	row->limit = BPF_CORE_READ(memcg, memory.max);
	row->limit = row->limit >= NO_LIMIT / page ? KPOD_ABSENT : row->limit * page;
	row->swap = BPF_CORE_READ(memcg, swap.usage.counter) * page;
	bpf_probe_read_kernel(events, sizeof(events), &memcg->memory_events);
	row->low = events[MEMCG_LOW];
	row->high = events[MEMCG_HIGH];
	row->max = events[MEMCG_MAX];
	row->oom = events[MEMCG_OOM];
	row->oom_kill = events[MEMCG_OOM_KILL];
	row->oom_group_kill = events[MEMCG_OOM_GROUP_KILL];

	stats = BPF_CORE_READ(memcg, vmstats);
	row->anon = state_of(stats, ANON) * page;
	row->file = state_of(stats, FILE) * page;
	row->kernel = state_of(stats, KERNEL) * page;
	row->slab = state_of(stats, SLAB) + state_of(stats, SLAB_RECLAIMABLE); /* bytes */
	row->refault_anon = state_of(stats, REFAULT_ANON);
	row->refault_file = state_of(stats, REFAULT_FILE);
	row->inactive_file = state_of(stats, INACTIVE) * page;
}

/* The loader has the kernel add up all CPUs, as far as it does for memory.stat. */
KPOD_WALK(cgroup_memory, struct cgroup_memory_walked, kpod_flush_nothing, begin_memory, read_memory,
	  read_memory)
KPOD_WALK_END(cgroup_memory, struct cgroup_memory_walked, read_memory)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
