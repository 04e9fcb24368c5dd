/* SPDX-License-Identifier: Apache-2.0 */
#include "sources/cgroupfs.h"
#include "sources/cgroupwalk.h"

#include "bpf/cgroup_pids.h"

KPOD_OBJECT(cgroup_pids);

#define TO(field) .word = KPOD_WORD(cgroup_pids_row, field)

static const struct kpod_cgroup_file list[] = {
	KPOD_FILE("pids.current", {.at = 0, TO(current)}),
	KPOD_FILE("pids.max", {.at = 0, TO(limit)}),
	KPOD_FILE("pids.events", {.line = "max", .at = 1, TO(hits)}),
};

static const struct kpod_cgroup_files files = {.controller = "pids", KPOD_FILES(list)};

static const struct kpod_column columns[] = {
	{"kpod_cgroup_pids", "Processes and threads (pids.current).", .kind = KPOD_GAUGE,
	 TO(current)},
	{"kpod_cgroup_pids_limit", "Limit of these (pids.max); none: no limit.", .kind = KPOD_GAUGE,
	 TO(limit)},
	{"kpod_cgroup_pids_limit_hits_total", "Forks that failed for the limit (pids.events).",
	 .kind = KPOD_COUNTER, TO(hits)},
};

static const struct kpod_table tables[] = {
	{.name = "cgroup_pids",
	 .scope = KPOD_PER_SLOT,
	 .since = KPOD_SINCE_CGROUP,
	 .inclusive = true,
	 .row_size = sizeof(struct cgroup_pids_row),
	 .words = sizeof(struct cgroup_pids_row) / 8,
	 KPOD_COLUMNS(columns)},
};

static const struct kpod_attachment attachments[] = {
	{KPOD_WALK_ROWS(cgroup_pids, cgroup_pids_walked),
	 KPOD_STEPS(KPOD_WALK_STEPS(cgroup_pids), KPOD_WALK_END(cgroup_pids))},
	{KPOD_FILES_ATTACHMENT},
};

const struct kpod_collector kpod_collector_cgroup_pids = {
	.name = "cgroup_pids",
	.help = "processes and threads and their limit, from pids.*",
	.owner = "the cgroup, with all below it",
	.since = "5.10",
	.profile = KPOD_MINIMAL,
	KPOD_EMBEDDED(cgroup_pids),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.sized_by_slot = "cgroup_pids_rows",
	.source = &kpod_cgroup_source,
	.files = &files,
};
