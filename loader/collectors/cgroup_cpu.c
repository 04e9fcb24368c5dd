/* SPDX-License-Identifier: Apache-2.0 */
#include "sources/cgroupfs.h"

struct cgroup_cpu_row {
	uint64_t usage, user, system, periods, throttled_periods, throttled; /* times in us */
	uint64_t quota, period, weight;
};

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
	 .inclusive = true,
	 .row_size = sizeof(struct cgroup_cpu_row),
	 .words = sizeof(struct cgroup_cpu_row) / 8,
	 KPOD_COLUMNS(columns)},
};

static const struct kpod_attachment attachments[] = {{.name = "files"}};

const struct kpod_collector kpod_collector_cgroup_cpu = {
	.name = "cgroup_cpu",
	.help = "CPU time, throttling and limits, from cpu.*",
	.owner = "the cgroup, with all below it",
	.since = "5.10",
	.profile = KPOD_MINIMAL,
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.source = &kpod_cgroup_source,
	.files = &files,
};
