// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The page cache, charged to the current task: reads, faults, readahead and writes all run in the
 * task that asks for them. What kernel threads do is the host's.
 *
 * Additions and dirtied pages have the same hooks on every kernel, at the place where the kernel
 * itself counts them. Accesses have none before the tracepoints of 6.12. There a read() counts the
 * pages it asks for, and a fault counts one. Before, what the kernel marks as accessed is counted:
 * each folio of a read once, and also what exits and the file systems' own look-ups mark.
 */
#include "slots.bpf.h"

#include "cachestat.h"

#define FAULT (~0ULL) /* instead of a number of reads */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct cachestat_row);
} cachestat_rows SEC(".maps");

static __always_inline struct cachestat_row *row_of_current(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct kpod_cgroup *owner = kpod_nearest(BPF_CORE_READ(task, cgroups, dfl_cgrp));

	return kpod_row(cachestat_rows, owner ? owner->slot : 0);
}

/* Of a folio or, on older kernels, a page. Files have had large ones since 5.18. */
static __always_inline __u64 pages_of(void *at)
{
	struct folio___before_6_6 *old = at;
	struct folio *folio = at;
	__u64 flags = 0;

	/* The first word of both in every kernel, though its type has changed. */
	bpf_probe_read_kernel(&flags, sizeof(flags), at);
	if (!bpf_core_enum_value_exists(enum pageflags, PG_head) ||
	    !(flags & 1ULL << bpf_core_enum_value(enum pageflags, PG_head)))
		return 1;
	if (bpf_core_field_exists(old->_folio_order))
		return 1ULL << (BPF_CORE_READ(old, _folio_order) & 63);
	if (bpf_core_field_exists(folio->_flags_1))
		return 1ULL << (BPF_CORE_READ(folio, _flags_1) & 63);
	return 1;
}

static __always_inline int count_dirtied(void *folio)
{
	struct cachestat_row *row = row_of_current();

	if (row)
		kpod_add(row->dirtied, pages_of(folio));
	return 0;
}

static __always_inline int count_accesses(__u64 pages)
{
	struct cachestat_row *row = row_of_current();

	if (row)
		kpod_add(row->accesses, pages);
	return 0;
}

SEC("tp_btf/mm_filemap_add_to_page_cache")
int BPF_PROG(kpod_cachestat_add, void *folio)
{
	struct cachestat_row *row = row_of_current();

	if (row)
		kpod_add(row->additions, pages_of(folio));
	return 0;
}

SEC("tp_btf/writeback_dirty_folio")
int BPF_PROG(kpod_cachestat_dirty_folio, void *folio)
{
	return count_dirtied(folio);
}

SEC("tp_btf/writeback_dirty_page")
int BPF_PROG(kpod_cachestat_dirty_page, void *page)
{
	return count_dirtied(page);
}

/* ---- accesses, by tracepoints -------------------------------------------------------------- */

/* What the task looked up last: the kernel takes several steps for what is one access. */
struct access {
	struct address_space *mapping;
	__u64 first, end;
	__u64 reads; /* of the task, system calls that ended */
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct access);
} cachestat_tasks SEC(".maps");

/* Whether the hook is given the last page, or (6.12) the one behind it: a read of one page tells.
 */
static volatile __u64 last_is_included;

static __always_inline __u64 reads_of(struct task_struct *task)
{
	if (bpf_core_field_exists(task->ioac.syscr))
		return task->ioac.syscr;
	return 0;
}

/* A read() comes here once for each batch of pages, with what is left of its range. */
SEC("tp_btf/mm_filemap_get_pages")
int BPF_PROG(kpod_cachestat_read, struct address_space *mapping, __u64 first, __u64 last)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct access *before =
		bpf_task_storage_get(&cachestat_tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
	__u64 end, file_end, reads = reads_of(task);
	bool continued;

	if (first == last)
		last_is_included = 1;
	end = last + last_is_included;
	continued = before && before->mapping == mapping && before->end == end &&
		    before->first < first && before->reads == reads;
	if (before) {
		before->mapping = mapping;
		before->first = first;
		before->end = end;
		before->reads = reads;
	}
	if (continued)
		return 0;
	/* Reads may ask for more than there is. */
	file_end = (mapping->host->i_size + kpod_config.page_size - 1) / kpod_config.page_size;
	if (end > file_end)
		end = file_end;
	return count_accesses(end > first ? end - first : 0);
}

/* A fault that found pages around the one it needs, though not always that one too. */
SEC("tp_btf/mm_filemap_map_pages")
int BPF_PROG(kpod_cachestat_map, struct address_space *mapping, __u64 first, __u64 last)
{
	struct access *now = bpf_task_storage_get(&cachestat_tasks, bpf_get_current_task_btf(), 0,
						  BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (now) {
		now->mapping = mapping;
		now->first = first;
		now->end = last + 1;
		now->reads = FAULT;
	}
	return count_accesses(1);
}

/* A fault that comes for its page, perhaps after the above. */
SEC("tp_btf/mm_filemap_fault")
int BPF_PROG(kpod_cachestat_fault, struct address_space *mapping, __u64 page)
{
	struct access *before =
		bpf_task_storage_get(&cachestat_tasks, bpf_get_current_task_btf(), 0, 0);
	bool counted = before && before->reads == FAULT && before->mapping == mapping &&
		       before->first <= page && page < before->end;

	if (before)
		before->mapping = NULL;
	return counted ? 0 : count_accesses(1);
}

/* ---- accesses, by functions ---------------------------------------------------------------- */

SEC("fentry/folio_mark_accessed")
int kpod_cachestat_folio(void *ctx)
{
	return count_accesses(1);
}

SEC("kprobe/folio_mark_accessed")
int kpod_cachestat_folio_kprobe(void *ctx)
{
	return count_accesses(1);
}

SEC("fentry/mark_page_accessed")
int kpod_cachestat_page(void *ctx)
{
	return count_accesses(1);
}

SEC("kprobe/mark_page_accessed")
int kpod_cachestat_page_kprobe(void *ctx)
{
	return count_accesses(1);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
