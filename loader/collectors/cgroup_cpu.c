/* SPDX-License-Identifier: Apache-2.0 */
#include "sources/cgroupfs.h"
#include "sources/cgroupwalk.h"

#include "bpf/cgroup_cpu.h"

KPOD_OBJECT(cgroup_cpu);

#define TO(field) .word = KPOD_WORD(cgroup_cpu_row, field)
#define STAT(key, field)                                                                           \
	{                                                                                          \
		.line = (key), .at = 1, TO(field)                                                  \
	}

static const struct kpod_cgroup_file list[] = {
	KPOD_FILE("cpu.stat", STAT("usage_usec", usage), STAT("user_usec", user),
		  STAT("system_usec", system), STAT("nr_periods", periods),
		  STAT("nr_throttled", throttled_periods), STAT("throttled_usec", throttled)),
	KPOD_FILE("cpu.max", {.at = 0, TO(quota)}, {.at = 1, TO(period)}),
	KPOD_FILE("cpu.weight", {.at = 0, TO(weight)}),
};

static const struct kpod_cgroup_files files = {KPOD_FILES(list)};

static const struct kpod_column columns[] = {
	{"kpod_cgroup_cpu_usage_seconds_total", "CPU time (cpu.stat).", .kind = KPOD_COUNTER,
	 .decimals = KPOD_MICROSECONDS, TO(usage)},
	{"kpod_cgroup_cpu_user_seconds_total", "Of this, in user mode.", .kind = KPOD_COUNTER,
	 .decimals = KPOD_MICROSECONDS, TO(user)},
	{"kpod_cgroup_cpu_system_seconds_total", "Of this, in the kernel.", .kind = KPOD_COUNTER,
	 .decimals = KPOD_MICROSECONDS, TO(system)},
	{"kpod_cgroup_cpu_periods_total", "Periods of the quota in which it ran.",
	 .kind = KPOD_COUNTER, TO(periods)},
	{"kpod_cgroup_cpu_throttled_periods_total", "Of these, periods that used up the quota.",
	 .kind = KPOD_COUNTER, TO(throttled_periods)},
	{"kpod_cgroup_cpu_throttled_seconds_total",
	 "Time for which its tasks on a CPU were held back, added up over the CPUs.",
	 .kind = KPOD_COUNTER, .decimals = KPOD_MICROSECONDS, TO(throttled)},
	{"kpod_cgroup_cpu_quota_seconds",
	 "CPU time it may use in a period (cpu.max); none: no limit.", .kind = KPOD_GAUGE,
	 .decimals = KPOD_MICROSECONDS, TO(quota)},
	{"kpod_cgroup_cpu_period_seconds", "Length of a period (cpu.max).", .kind = KPOD_GAUGE,
	 .decimals = KPOD_MICROSECONDS, TO(period)},
	{"kpod_cgroup_cpu_weight", "Share of the CPU beside its siblings (cpu.weight), 1 to 10000.",
	 .kind = KPOD_GAUGE, TO(weight)},
};

static const struct kpod_table tables[] = {
	{.name = "cgroup_cpu",
	 .scope = KPOD_PER_SLOT,
	 .since = KPOD_SINCE_CGROUP,
	 .inclusive = true,
	 .row_size = sizeof(struct cgroup_cpu_row),
	 .words = sizeof(struct cgroup_cpu_row) / 8,
	 KPOD_COLUMNS(columns)},
};

#define NSEC_PER_USEC 1000

static uint64_t max(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/*
 * What cputime_adjust() would say, had cpu.stat been read now and in each walk before: the time on
 * a CPU is measured, and is divided into user and system as the ticks were, where neither may ever
 * shrink. The kernel keeps what was shown last (prev_cputime); as a walk changes nothing in the
 * kernel, it keeps its own.
 */
static void divide(void *row)
{
	struct cgroup_cpu_walked *found = row;
	struct cgroup_cpu_time last = {max(found->last.user, found->shown.user),
				       max(found->last.system, found->shown.system)};
	uint64_t runtime = found->runtime_ns, ticks = found->ticks.user + found->ticks.system;
	uint64_t system = runtime;

	if (last.user + last.system < runtime) {
		if (!found->ticks.system)
			system = 0;
		else if (found->ticks.user)
			system = (uint64_t)((unsigned __int128)found->ticks.system * runtime /
					    ticks);
		last.system = max(last.system, system);
		if (runtime - last.system < last.user)
			last.system = runtime - last.user;
		last.user = runtime - last.system;
	}
	found->last = last;
	found->row.user = last.user / NSEC_PER_USEC;
	found->row.system = last.system / NSEC_PER_USEC;
}

static const struct kpod_attachment attachments[] = {
	{KPOD_WALK_ROWS(cgroup_cpu, cgroup_cpu_walked, .finish = divide),
	 KPOD_STEPS(KPOD_WALK_STEPS(cgroup_cpu), KPOD_WALK_END(cgroup_cpu))},
	{KPOD_FILES_ATTACHMENT},
};

const struct kpod_collector kpod_collector_cgroup_cpu = {
	.name = "cgroup_cpu",
	.help = "CPU time, throttling and limits, from cpu.*",
	.owner = "the cgroup, with all below it",
	.since = "5.10",
	.profile = KPOD_MINIMAL,
	KPOD_EMBEDDED(cgroup_cpu),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.sized_by_slot = "cgroup_cpu_rows",
	.source = &kpod_cgroup_source,
	.files = &files,
};
