/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <unistd.h>

#include "base/collector.h"
#include "base/log.h"

#include "bpf/cachestat.h"

KPOD_OBJECT(cachestat);

static const struct kpod_column columns[] = {
	{"kpod_page_cache_accesses_total",
	 "Pages looked up in the page cache by read() and page faults. Before 6.12 (attached by "
	 "fentry or kprobe): what the kernel marked as accessed, in folios.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(cachestat_row, accesses)},
	{"kpod_page_cache_additions_total",
	 "Pages added to the page cache: those that were missed, their readahead, and new pages "
	 "of files that grow.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(cachestat_row, additions)},
	{"kpod_page_cache_dirtied_pages_total",
	 "Pages of the page cache made dirty, as nr_dirtied in /proc/vmstat.", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(cachestat_row, dirtied)},
	{"kpod_page_cache_untracked_reads_total",
	 "Reads of which a single page was counted as accessed, because the kernel left out both "
	 "programs that look up how long the file is: only where it may preempt them (since 7.0).",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(cachestat_row, untracked)},
};

static const struct kpod_table tables[] = {
	{.name = "cachestat",
	 .scope = KPOD_PER_SLOT,
	 .map = "cachestat_rows",
	 .row_size = sizeof(struct cachestat_row),
	 .words = KPOD_WORD(cachestat_row, reserved),
	 KPOD_COLUMNS(columns)},
};

#define FOLIOS                                                                                     \
	{"kpod_cachestat_add", KPOD_ATTACH},                                                       \
	{                                                                                          \
		"kpod_cachestat_dirty_folio", KPOD_ATTACH                                          \
	}
#define PAGES                                                                                      \
	{"kpod_cachestat_add", KPOD_ATTACH},                                                       \
	{                                                                                          \
		"kpod_cachestat_dirty_page", KPOD_ATTACH                                           \
	}

#define MARKED "accesses are folios that the kernel marked, and those of reads only"

static const struct kpod_attachment attachments[] = {
	{.name = "tracepoint",
	 .where = KPOD_TRACEPOINTS_PREEMPT,
	 KPOD_STEPS({"kpod_cachestat_add_tp", KPOD_ATTACH},
		    {"kpod_cachestat_dirty_folio", KPOD_ATTACH},
		    {"kpod_cachestat_mapping", KPOD_ATTACH_TWIN},
		    {"kpod_cachestat_mapping2", KPOD_ATTACH_TWIN},
		    {"kpod_cachestat_read_tp", KPOD_ATTACH}, {"kpod_cachestat_map_tp", KPOD_ATTACH},
		    {"kpod_cachestat_fault_tp", KPOD_ATTACH})},
	{.name = "tp_btf",
	 KPOD_STEPS(FOLIOS, {"kpod_cachestat_read", KPOD_ATTACH},
		    {"kpod_cachestat_map", KPOD_ATTACH}, {"kpod_cachestat_fault", KPOD_ATTACH})},
	{.name = "fentry",
	 KPOD_STEPS(FOLIOS, {"kpod_cachestat_folio", KPOD_ATTACH}),
	 .omit = "cachestat_tasks",
	 .lacks = MARKED},
	{.name = "kprobe",
	 KPOD_STEPS(FOLIOS, {"kpod_cachestat_folio_kprobe", KPOD_ATTACH}),
	 .omit = "cachestat_tasks",
	 .lacks = MARKED},
	{.name = "fentry before 5.18",
	 KPOD_STEPS(PAGES, {"kpod_cachestat_page", KPOD_ATTACH}),
	 .omit = "cachestat_tasks",
	 .lacks = MARKED},
	{.name = "kprobe before 5.18",
	 KPOD_STEPS(PAGES, {"kpod_cachestat_page_kprobe", KPOD_ATTACH}),
	 .omit = "cachestat_tasks",
	 .lacks = MARKED},
};

/* Reads one page, for the program to see how this kernel tells of one (last_is_included). */
static void started(void)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	char byte;

	if (fd < 0 || read(fd, &byte, 1) < 1)
		kpod_warn("cachestat: cannot read /proc/self/exe: reads may count a page too few");
	close(fd);
}

const struct kpod_collector kpod_collector_cachestat = {
	.name = "cachestat",
	.help = "the page cache: accesses, additions, dirtied pages",
	.owner = "the task that reads, faults or writes",
	.since = "5.10 (accesses by page since 6.12)",
	.profile = KPOD_COMPREHENSIVE,
	KPOD_EMBEDDED(cachestat),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
	.started = started,
};
