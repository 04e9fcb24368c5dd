/* SPDX-License-Identifier: Apache-2.0 */
#include "base/collector.h"

#include "bpf/biolatency.h"

KPOD_OBJECT(biolatency);

static const struct kpod_names *operations(void)
{
	static const char *const names[] = {
		[KPOD_IO_READ] = "read",
		[KPOD_IO_WRITE] = "write",
		[KPOD_IO_FLUSH] = "flush",
		[KPOD_IO_DISCARD] = "discard",
	};
	static const struct kpod_names all = {names, KPOD_COUNT(names)};

	return &all;
}

static const struct kpod_column columns[] = {
	{"kpod_block_io_bytes_total", "Bytes of requests that ended.", .kind = KPOD_COUNTER,
	 .word = KPOD_WORD(biolatency_row, bytes)},
	{"kpod_block_io_device_seconds",
	 "Time from when the device was last given a request until its end. The count is that of "
	 "all requests.",
	 KPOD_TIME_HISTOGRAM(biolatency_row, device, device_ns)},
	{"kpod_block_io_queue_seconds",
	 "Time before that in the scheduler's queue, of requests that were queued: most are given "
	 "to an idle device at once.",
	 KPOD_TIME_HISTOGRAM(biolatency_row, queue, queue_ns)},
	{"kpod_block_io_unattributed_total",
	 "Requests of no known cgroup, counted as the host's: flushes of a device's cache, and all "
	 "where cgroup2 has no io controller.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(biolatency_row, unattributed)},
	{"kpod_block_io_untracked_total",
	 "Requests whose start was not seen, or is forgotten because too many were under way: not "
	 "counted.",
	 .kind = KPOD_COUNTER, .word = KPOD_WORD(biolatency_row, untracked)},
};

static const struct kpod_key keys[] = {
	{.label = "device", .words = KPOD_DISK_NAME / 8},
	{.label = "operation", .values = operations},
};

static const struct kpod_table tables[] = {
	{.name = "biolatency",
	 .scope = KPOD_PER_SLOT,
	 .map = "biolatency_rows",
	 .row_size = sizeof(struct biolatency_row),
	 .words = KPOD_WORD(biolatency_row, reserved),
	 .units = "biolatency",
	 .unit_capacity = 1024,
	 .units_per_slot = 4, /* reading and writing two devices */
	 .unsharded = true,
	 .disks = true,
	 KPOD_KEYS(keys),
	 KPOD_COLUMNS(columns)},
};

static const struct kpod_attachment attachments[] = {
	{.name = "tp_btf twins",
	 .where = KPOD_TRACEPOINTS_PREEMPT,
	 KPOD_STEPS({"kpod_biolatency_insert", KPOD_ATTACH_TWIN},
		    {"kpod_biolatency_insert2", KPOD_ATTACH_TWIN},
		    {"kpod_biolatency_issue", KPOD_ATTACH_TWIN},
		    {"kpod_biolatency_issue2", KPOD_ATTACH_TWIN},
		    {"kpod_biolatency_merge", KPOD_ATTACH_TWIN},
		    {"kpod_biolatency_merge2", KPOD_ATTACH_TWIN},
		    {"kpod_biolatency_complete", KPOD_ATTACH_TWIN},
		    {"kpod_biolatency_complete2", KPOD_ATTACH_TWIN})},
	{.name = "tp_btf",
	 KPOD_STEPS({"kpod_biolatency_insert", KPOD_ATTACH}, {"kpod_biolatency_issue", KPOD_ATTACH},
		    {"kpod_biolatency_merge", KPOD_ATTACH},
		    {"kpod_biolatency_complete", KPOD_ATTACH})},
};

const struct kpod_collector kpod_collector_biolatency = {
	.name = "biolatency",
	.help = "block I/O by device and operation: bytes, time in the queue and in the device",
	.owner = "the cgroup of the request's first bio (bi_blkg), written back by whomever",
	.since = "5.11", /* and Debian's 5.10: before, the hooks had another first argument */
	.profile = KPOD_STANDARD,
	KPOD_EMBEDDED(biolatency),
	.attachments = attachments,
	.attachment_count = KPOD_COUNT(attachments),
	.tables = tables,
	.table_count = KPOD_COUNT(tables),
};
