/* SPDX-License-Identifier: Apache-2.0 */
#include "sources/cgroupfs.h"
#include "sources/cgroupwalk.h"

#include "bpf/cgroup_pressure.h"

KPOD_OBJECT(cgroup_pressure);

#define TO(field) .word = KPOD_WORD(cgroup_pressure_row, field)
#define PRESSURE(file, field)                                                                      \
	KPOD_FILE(file, {.line = "some", .sub = "total", TO(field[0])},                            \
		  {.line = "full", .sub = "total", TO(field[1])})

static const struct kpod_cgroup_file list[] = {
	PRESSURE("cpu.pressure", cpu),
	PRESSURE("memory.pressure", memory),
	PRESSURE("io.pressure", io),
};

static const struct kpod_cgroup_files files = {KPOD_FILES(list)};

#define STALL "kpod_pressure_stall_seconds_total"
#define STALL_HELP                                                                                 \
	"Time in which some or all (full) tasks that were not idle waited for a resource (PSI). "  \
	"The "                                                                                     \
	"kernel takes it on each CPU alone and gives the mean, weighted by how long a CPU had "    \
	"work for these tasks: with tasks that run on other CPUs both kinds are smaller, and "     \
	"full "                                                                                    \
	"is not 0. How long tasks waited for a CPU is kpod_cpu_runqueue_wait_seconds_total."
#define COLUMN(resource, kind_, field_)                                                            \
	{                                                                                          \
		STALL, STALL_HELP, "resource", (resource), "kind", (kind_),                        \
			.kind = KPOD_COUNTER, .decimals = KPOD_MICROSECONDS, TO(field_)            \
	}

static const struct kpod_column columns[] = {
	COLUMN("cpu", "some", cpu[0]),	     COLUMN("cpu", "full", cpu[1]),
	COLUMN("memory", "some", memory[0]), COLUMN("memory", "full", memory[1]),
	COLUMN("io", "some", io[0]),	     COLUMN("io", "full", io[1]),
};

static const struct kpod_table tables[] = {
	{.name = "cgroup_pressure",
	 .scope = KPOD_PER_SLOT,
	 .since = KPOD_SINCE_CGROUP,
	 .inclusive = true,
	 .row_size = sizeof(struct cgroup_pressure_row),
	 .words = sizeof(struct cgroup_pressure_row) / 8,
	 KPOD_COLUMNS(columns)},
};

static const struct kpod_attachment attachments[] = {
	{KPOD_WALK_ROWS(cgroup_pressure, cgroup_pressure_walked, .clock = true),
	 KPOD_STEPS(KPOD_WALK_STEPS(cgroup_pressure))},
	{KPOD_FILES_ATTACHMENT},
};

const struct kpod_collector kpod_collector_cgroup_pressure = {
	.name = "cgroup_pressure",
	.help = "time lost waiting for CPU, memory and I/O, from *.pressure",
	.owner = "the cgroup, with all below it",
	.since = "5.10; cpu full 5.13",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(cgroup_pressure),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.sized_by_slot = "cgroup_pressure_rows",
	.source = &kpod_cgroup_source,
	.files = &files,
};
