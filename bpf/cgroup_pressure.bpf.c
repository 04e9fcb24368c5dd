// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * What *.pressure say (PSI), for every cgroup with a slot.
 *
 * The totals in struct psi_group lag: they are brought up to date every two seconds
 * (psi_avgs_work()), and by whoever reads a file (psi_show()). So this does what psi_show() would
 * do, but writes nothing: it adds what each CPU has counted since then, and for how long the states
 * that it is in have lasted (get_recent_times(), collect_percpu_times()).
 *
 * The kernel weighs the CPUs of such a sample by their busy time, so that a sample that is not
 * complete yet may also shrink. A total that was shown stays until the kernel's has come so far,
 * which is with the end of the sample.
 */
#include "percpu.bpf.h"
#include "walk.bpf.h"

#include "cgroup_pressure.h"

#define NSEC_PER_SEC 1000000000ULL
#define NSEC_PER_USEC 1000
#define STATES 6      /* that are shown: PSI_IO_SOME to PSI_CPU_FULL */
#define STATES_ROOM 8 /* beside these, PSI_IRQ_FULL (6.1) and PSI_NONIDLE */
#define TRIES 8	      /* to read what no CPU is just changing */

#define NESTED(type, field)                                                                        \
	(bpf_core_field_exists(((struct type##___nested *)0)->field)                               \
		 ? bpf_core_field_offset(struct type##___nested, field)                            \
		 : bpf_core_field_offset(struct type, field))

/* The sample at hand. Only the loader runs this, one at a time. */
struct {
	__s64 ahead;		/* ns that CLOCK_MONOTONIC is ahead of the scheduler's clock */
	__u64 now;		/* by the scheduler's clock */
	__u64 cpus;		/* struct psi_group_cpu __percpu * */
	__u64 busy;		/* ticks, of all CPUs */
	__u64 weighted[STATES]; /* ns, by the ticks that the CPU was busy */
	bool torn;
} sample;

#define ON_SIZE 64

/* Of one CPU: struct psi_group_cpu from state_mask to state_start, and times_prev. */
struct {
	char now[ON_SIZE + 2 * STATES_ROOM * 4];
	__u32 before[STATES_ROOM];
} on;

/* For the verifier: it is less on all kernels. */
#define OFFSET(field)                                                                              \
	((bpf_core_field_offset(struct psi_group_cpu, field) -                                     \
	  bpf_core_field_offset(struct psi_group_cpu, state_mask)) &                               \
	 (ON_SIZE - 1))
#define MASK (*(__u32 *)on.now)
#define START (*(__u64 *)(on.now + OFFSET(state_start)))
#define TIMES ((__u32 *)(on.now + OFFSET(times)))

/* nsecs_to_jiffies() */
static __always_inline __u64 ticks_of(__u64 ns)
{
	__u32 hz = walk.hz ? walk.hz : 1;

	if (NSEC_PER_SEC % hz == 0)
		return ns / (NSEC_PER_SEC / hz);
	return ns * 9 / ((9 * NSEC_PER_SEC + hz / 2) / hz);
}

/*
 * Reads a CPU's times. The kernel's sequence count is not to be had everywhere: since 6.17 it is a
 * variable that /proc/kallsyms may not have. But the CPU writes when a state began before it adds
 * up how long the last one took (record_times()), so what is read in between is too little, which
 * is never shown, and not too much.
 */
static __always_inline bool read_cpu(struct psi_group_cpu *c)
{
	for (int i = 0; i < TRIES; i++) {
		bpf_probe_read_kernel(on.now, ON_SIZE, &c->state_mask);
		bpf_probe_read_kernel(on.before, sizeof(on.before),
				      (char *)c + NESTED(psi_group_cpu, times_prev));
		if (START == BPF_CORE_READ(c, state_start))
			return true;
	}
	return false;
}

/* Since the last sample, in ns, as the kernel counts it: in 32 bits. */
static __always_inline __u32 grown(__u32 state)
{
	__u32 time = TIMES[state];

	if (MASK & 1U << state && sample.now > START)
		time += sample.now - START;
	return time - on.before[state];
}

static long add_cpu(__u32 cpu, void *none)
{
	__u64 offset, ticks;

	if (!kpod_cpu_offset(cpu, &offset) || !read_cpu((void *)(sample.cpus + offset))) {
		sample.torn = true;
		return 1;
	}
	ticks = ticks_of(
		grown(bpf_core_enum_value(enum psi_states, PSI_NONIDLE) & (STATES_ROOM - 1)));
	sample.busy += ticks;
	for (int state = 0; state < STATES; state++)
		sample.weighted[state] += grown(state) * ticks;
	return 0;
}

/*
 * Whether no CPU has anything to add: the kernel ends samples for as long as a task of the group
 * runs or waits for anything, and schedules the next end with the first change after that
 * (psi_avgs_work(), psi_group_change()). So a container that sleeps costs no look at each CPU.
 */
static __always_inline bool is_idle(struct psi_group *group)
{
	return !(BPF_CORE_READ(group, avgs_work.work.data.counter) & 1);
}

static void take_sample(struct psi_group *group)
{
	sample.torn = false;
	sample.busy = 0;
	__builtin_memset(sample.weighted, 0, sizeof(sample.weighted));
	if (is_idle(group))
		return;
	sample.cpus = (__u64)BPF_CORE_READ(group, pcpu);
	sample.now = bpf_ktime_get_ns() - sample.ahead;
	bpf_loop(walk.cpus, add_cpu, NULL, 0);
}

static __always_inline bool are_equal(const __u64 *a, const __u64 *b)
{
	__u64 differ = 0;

	for (int state = 0; state < STATES; state++)
		differ |= a[state] ^ b[state];
	return !differ;
}

static __always_inline void show(__u64 *shown, const __u64 *total, __u32 state)
{
	__u64 busy = sample.busy ? sample.busy : 1;
	__u64 us = (total[state] + sample.weighted[state] / busy) / NSEC_PER_USEC;

	if (*shown < us)
		*shown = us;
}

static __always_inline void read_pressure(struct cgroup_pressure_walked *found, struct cgroup *cgrp)
{
	struct psi_group *group = BPF_CORE_READ(cgrp, psi);
	__u64 total[STATES], after[STATES];

	/* Without PSI there is none, and without cgroup.pressure no file. */
	if (!group || !BPF_CORE_READ(group, enabled)) {
		__builtin_memset(&found->row, 0xff, sizeof(found->row));
		return;
	}
	if (found->row.cpu[0] == KPOD_ABSENT)
		__builtin_memset(&found->row, 0, sizeof(found->row));
	/* If the kernel ends a sample meanwhile, what was read of it is worth nothing. */
	for (int i = 0; i < TRIES; i++) {
		bpf_probe_read_kernel(total, sizeof(total),
				      (char *)group + NESTED(psi_group, total));
		take_sample(group);
		bpf_probe_read_kernel(after, sizeof(after),
				      (char *)group + NESTED(psi_group, total));
		if (sample.torn || !are_equal(total, after))
			continue;
		show(&found->row.io[0], total, PSI_IO_SOME);
		show(&found->row.io[1], total, PSI_IO_FULL);
		show(&found->row.memory[0], total, PSI_MEM_SOME);
		show(&found->row.memory[1], total, PSI_MEM_FULL);
		show(&found->row.cpu[0], total, PSI_CPU_SOME);
		show(&found->row.cpu[1], total, PSI_CPU_FULL);
		return;
	}
	walk.torn++;
}

/*
 * PSI counts by the scheduler's clock, which programs cannot read. The run queue has it as of when
 * the loader was put on this CPU: it calls sched_yield() before the first slice. What is seen later
 * in the walk may be older, but is never newer.
 */
static __always_inline void begin_pressure(void)
{
	struct task_struct *self = (void *)bpf_get_current_task();
	__s64 ahead = bpf_ktime_get_ns() - BPF_CORE_READ(self, se.cfs_rq, rq, clock);

	if (!walk.slot || ahead < sample.ahead)
		sample.ahead = ahead;
}

KPOD_WALK(cgroup_pressure, struct cgroup_pressure_walked, kpod_flush_nothing, begin_pressure,
	  read_pressure, kpod_end_nothing)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
