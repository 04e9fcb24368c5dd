/* SPDX-License-Identifier: Apache-2.0 */
#include "../collector.h"

#include "../../bpf/pagefault.h"

KPOD_OBJECT(pagefault);

#define FAULTS "kpod_memory_page_faults_total"
#define FAULTS_HELP                                                                                \
	"Page faults that needed no I/O (minor) or did (major), as the kernel counts them for "    \
	"each task (min_flt, maj_flt)."

static const struct kpod_column columns[] = {
	{FAULTS, FAULTS_HELP, "kind", "minor", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(pagefault_row, minor)},
	{FAULTS, FAULTS_HELP, "kind", "major", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(pagefault_row, major)},
	{"kpod_memory_page_faults_untracked_total",
	 "Tasks that ended and whose last faults could not be booked.", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(pagefault_row, untracked)},
};

static const struct kpod_table tables[] = {
	{.name = "pagefault",
	 .scope = KPOD_PER_SLOT,
	 .map = "pagefault_rows",
	 .row_size = sizeof(struct pagefault_row),
	 .words = KPOD_WORD(pagefault_row, reserved),
	 .unsharded = true,
	 KPOD_COLUMNS(columns)},
};

static const struct kpod_attachment attachments[] = {
	{.name = "tp_btf",
	 KPOD_STEPS({"kpod_pagefault_walk", KPOD_RUN_ONCE}, {"kpod_pagefault_exit", KPOD_ATTACH},
		    {"kpod_pagefault_free", KPOD_ATTACH}, {"kpod_pagefault_walk", KPOD_WALK})},
};

const struct kpod_collector kpod_collector_pagefault = {
	.name = "pagefault",
	.help = "page faults, minor and major",
	.owner = "the task, in the cgroup it is in at a snapshot or at its end",
	.since = "5.12",
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(pagefault),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
};
