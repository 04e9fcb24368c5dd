// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/* What cpu.stat, cpu.max and cpu.weight say, for every cgroup with a slot. */
#include "percpu.bpf.h"
#include "walk.bpf.h"

#include "cgroup_cpu.h"

#define NSEC_PER_USEC 1000
#define RUNTIME_INF (~0ULL) /* quota of a group without a limit (kernel/sched/sched.h) */
#define NICE_0_WEIGHT 1024  /* of a group whose cpu.weight is 100 */
#define CLAMPED_SINCE                                                                              \
	0x060c00 /* cpu.weight is at least 1 since 6.12 (sched_weight_to_cgroup())                 \
		  */

extern int LINUX_KERNEL_VERSION __kconfig;

/* cpu_weight_read_u64(), with scale_load_down() as 64-bit kernels have it. */
static __always_inline __u64 weight_of(struct task_group *tg)
{
	__u64 weight = BPF_CORE_READ(tg, shares) >> 10;

	weight = weight < 2 ? 2 : weight;
	weight = (weight * 100 + NICE_0_WEIGHT / 2) / NICE_0_WEIGHT;
	return weight || LINUX_KERNEL_VERSION < CLAMPED_SINCE ? weight : 1;
}

static __always_inline void read_cpu(struct cgroup_cpu_walked *found, struct cgroup *cgrp)
{
	struct cfs_bandwidth *bandwidth;
	struct cgroup_subsys_state *css;
	struct task_group *tg;
	__u64 quota;

	found->runtime_ns = BPF_CORE_READ(cgrp, bstat.cputime.sum_exec_runtime);
	found->ticks.user = BPF_CORE_READ(cgrp, bstat.cputime.utime);
	found->ticks.system = BPF_CORE_READ(cgrp, bstat.cputime.stime);
	found->shown.user = BPF_CORE_READ(cgrp, prev_cputime.utime);
	found->shown.system = BPF_CORE_READ(cgrp, prev_cputime.stime);
	found->row.usage = found->runtime_ns / NSEC_PER_USEC;

	found->row.periods = found->row.throttled_periods = found->row.throttled = KPOD_ABSENT;
	found->row.quota = found->row.period = found->row.weight = KPOD_ABSENT;
	css = kpod_css(cgrp, cpu);
	if (!css)
		return;
	tg = kpod_of_css(struct task_group, css);
	if (bpf_core_field_exists(tg->shares))
		found->row.weight = weight_of(tg);
	if (!bpf_core_field_exists(tg->cfs_bandwidth))
		return;
	bandwidth = &tg->cfs_bandwidth;
	found->row.periods = BPF_CORE_READ(bandwidth, nr_periods);
	found->row.throttled_periods = BPF_CORE_READ(bandwidth, nr_throttled);
	found->row.throttled = BPF_CORE_READ(bandwidth, throttled_time) / NSEC_PER_USEC;
	found->row.period = (__u64)BPF_CORE_READ(bandwidth, period) / NSEC_PER_USEC;
	quota = BPF_CORE_READ(bandwidth, quota);
	if (quota != RUNTIME_INF)
		found->row.quota = quota / NSEC_PER_USEC;
}

/* Readings of a removed cgroup's parts; two that are equal are enough. */
#define END_TRIES 4

/* A CPU's part, and what was found in the parts so far. */
struct parts {
	__u64 address; /* struct cgroup_rstat_cpu __percpu * */
	__u64 runtime_ns, user, system;
};

#define UNFLUSHED(part, field)                                                                     \
	(BPF_CORE_READ(part, bstat.cputime.field) - BPF_CORE_READ(part, last_bstat.cputime.field))

/* `part`: in a struct of its own since 6.16, before that in the one of all controllers. */
#define ADD_PART(parts, part)                                                                      \
	do {                                                                                       \
		(parts)->runtime_ns += UNFLUSHED(part, sum_exec_runtime);                          \
		(parts)->user += UNFLUSHED(part, utime);                                           \
		(parts)->system += UNFLUSHED(part, stime);                                         \
	} while (0)

static long add_cpu(__u32 cpu, void *context)
{
	struct parts *parts = context;
	void *part;
	__u64 offset;

	if (!kpod_cpu_offset(cpu, &offset))
		return 1;
	part = (void *)(parts->address + offset);
	if (bpf_core_type_exists(struct cgroup_rstat_base_cpu))
		ADD_PART(parts, (struct cgroup_rstat_base_cpu *)part);
	else
		ADD_PART(parts, (struct cgroup_rstat_cpu *)part);
	return 0;
}

/*
 * The last totals. rmdir() does not wait for the kernel to add up what each CPU has counted
 * (css_release_work_fn() does, later, for what is above), so that is done here. Nothing is counted
 * any more, so the sum is the same each time, but not while the kernel moves a part into the whole
 * (cgroup_base_stat_flush()).
 */
static __always_inline void end_cpu(struct cgroup_cpu_walked *found, struct cgroup *cgrp)
{
	struct parts parts = {};
	__u64 last;

	if (bpf_core_field_exists(cgrp->rstat_base_cpu))
		parts.address = (__u64)BPF_CORE_READ(cgrp, rstat_base_cpu);
	else
		parts.address = (__u64)BPF_CORE_READ(cgrp, rstat_cpu);
	for (int i = 0; i < END_TRIES; i++) {
		last = parts.runtime_ns;
		parts.runtime_ns = BPF_CORE_READ(cgrp, bstat.cputime.sum_exec_runtime);
		parts.user = BPF_CORE_READ(cgrp, bstat.cputime.utime);
		parts.system = BPF_CORE_READ(cgrp, bstat.cputime.stime);
		bpf_loop(walk.cpus, add_cpu, &parts, 0);
		if (i && parts.runtime_ns == last)
			break;
	}
	read_cpu(found, cgrp);
	found->runtime_ns = parts.runtime_ns;
	found->ticks.user = parts.user;
	found->ticks.system = parts.system;
	found->row.usage = found->runtime_ns / NSEC_PER_USEC;
}

KPOD_WALK(cgroup_cpu, struct cgroup_cpu_walked, kpod_flush, kpod_begin_nothing, read_cpu, end_cpu)
KPOD_WALK_END(cgroup_cpu, struct cgroup_cpu_walked, end_cpu)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
