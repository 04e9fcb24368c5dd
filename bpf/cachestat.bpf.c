// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * The page cache, charged to the current task: reads, faults, readahead and writes all run in the
 * task that asks for them. What kernel threads do is the host's.
 *
 * Additions and dirtied pages have the same hooks on every kernel, at the place where the kernel
 * itself counts them. Accesses have none before the tracepoints of 6.12. There a read() counts the
 * pages it asks for, and a fault counts one. Before, what the kernel marks as accessed is counted:
 * each folio of a read once, and also what exits and the file systems' own look-ups mark.
 *
 * Where programs may be preempted (7.0), the kernel leaves one out for other tasks of that CPU
 * meanwhile. There classic tracepoints count, in which nothing is preempted; pages are dirtied with
 * interrupts off, so neither is what counts those. What a classic tracepoint is given says which
 * file is read, but not how long it is: see kpod_cachestat_read_tp.
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
	struct cachestat_row *row = pages ? row_of_current() : NULL;

	if (row)
		kpod_add(row->accesses, pages);
	return 0;
}

static __always_inline int count_additions(__u64 pages)
{
	struct cachestat_row *row = row_of_current();

	if (row)
		kpod_add(row->additions, pages);
	return 0;
}

SEC("tp_btf/mm_filemap_add_to_page_cache")
int BPF_PROG(kpod_cachestat_add, void *folio)
{
	return count_additions(pages_of(folio));
}

SEC("tp/filemap/mm_filemap_add_to_page_cache")
int kpod_cachestat_add_tp(const struct trace_event_raw_mm_filemap_op_page_cache *event)
{
	return count_additions(1ULL << (event->order & 63));
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
	__u64 file; /* which one: by its mapping's address, or as file_of() has it */
	__u64 first, end;
	__u64 reads;		       /* of the task, system calls that ended */
	struct address_space *mapping; /* of the last read; only for classic tracepoints */
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

static __always_inline struct access *access_of(struct task_struct *task)
{
	return bpf_task_storage_get(&cachestat_tasks, task, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
}

static __always_inline __u64 pages_for(__u64 bytes)
{
	return (bytes + kpod_config.page_size - 1) / kpod_config.page_size;
}

/*
 * A read() comes here once for each batch of pages, with what is left of its range. Returns how
 * many pages it asks for, of a file of so many.
 */
static __always_inline __u64 on_read(struct access *before, __u64 reads, __u64 file, __u64 first,
				     __u64 last, __u64 file_end)
{
	__u64 end;
	bool continued;

	if (first == last)
		last_is_included = 1;
	end = last + last_is_included;
	continued = before && before->file == file && before->end == end && before->first < first &&
		    before->reads == reads;
	if (before) {
		before->file = file;
		before->first = first;
		before->end = end;
		before->reads = reads;
	}
	if (continued)
		return 0;
	/* Reads may ask for more than there is. */
	if (end > file_end)
		end = file_end;
	return end > first ? end - first : 0;
}

SEC("tp_btf/mm_filemap_get_pages")
int BPF_PROG(kpod_cachestat_read, struct address_space *mapping, __u64 first, __u64 last)
{
	struct task_struct *task = bpf_get_current_task_btf();

	return count_accesses(on_read(access_of(task), reads_of(task), (__u64)mapping, first, last,
				      pages_for(mapping->host->i_size)));
}

/* A fault that found pages around the one it needs, though not always that one too. */
static __always_inline int on_map(__u64 file, __u64 first, __u64 last)
{
	struct access *now = access_of(bpf_get_current_task_btf());

	if (now) {
		now->file = file;
		now->first = first;
		now->end = last + 1;
		now->reads = FAULT;
	}
	return count_accesses(1);
}

SEC("tp_btf/mm_filemap_map_pages")
int BPF_PROG(kpod_cachestat_map, struct address_space *mapping, __u64 first, __u64 last)
{
	return on_map((__u64)mapping, first, last);
}

/* A fault that comes for its page, perhaps after the above. */
static __always_inline int on_fault(__u64 file, __u64 page)
{
	struct access *before =
		bpf_task_storage_get(&cachestat_tasks, bpf_get_current_task_btf(), 0, 0);
	bool counted = before && before->reads == FAULT && before->file == file &&
		       before->first <= page && page < before->end;

	if (before)
		before->file = 0;
	return counted ? 0 : count_accesses(1);
}

SEC("tp_btf/mm_filemap_fault")
int BPF_PROG(kpod_cachestat_fault, struct address_space *mapping, __u64 page)
{
	return on_fault((__u64)mapping, page);
}

/* ---- accesses, by classic tracepoints ------------------------------------------------------ */

/* One word for a file that an inode number and a device stand for. */
static __always_inline __u64 file_of(__u64 inode, __u32 device)
{
	return inode ^ ((__u64)device + 1) * 0x9e3779b97f4a7c15ULL;
}

/* Which file is read, for the program that counts, to see how long it is. There are two of these:
 * in one a task may be preempted. */
static __always_inline int on_mapping(struct address_space *mapping)
{
	struct access *access = access_of(bpf_get_current_task_btf());

	if (access)
		access->mapping = mapping;
	return 0;
}

SEC("tp_btf/mm_filemap_get_pages")
int BPF_PROG(kpod_cachestat_mapping, struct address_space *mapping)
{
	return on_mapping(mapping);
}

SEC("tp_btf/mm_filemap_get_pages")
int BPF_PROG(kpod_cachestat_mapping2, struct address_space *mapping)
{
	return on_mapping(mapping);
}

/*
 * The length is that of the file which the task read last, mostly this one. Else both programs
 * above were left out at this file's first read: it has one page at least, and that is counted.
 */
SEC("tp/filemap/mm_filemap_get_pages")
int kpod_cachestat_read_tp(const struct trace_event_raw_mm_filemap_op_page_cache_range *event)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 first = event->index, file_end = first + 1;
	struct access *access = access_of(task);
	struct address_space *mapping = access ? access->mapping : NULL;
	struct inode *inode = BPF_CORE_READ(mapping, host);
	struct cachestat_row *row;
	__u64 pages;
	bool known = BPF_CORE_READ(inode, i_ino) == event->i_ino &&
		     BPF_CORE_READ(inode, i_sb, s_dev) == event->s_dev;

	if (known)
		file_end = pages_for(BPF_CORE_READ(inode, i_size));
	pages = on_read(access, reads_of(task), file_of(event->i_ino, event->s_dev), first,
			event->last_index, file_end);
	row = pages ? row_of_current() : NULL;
	if (!row)
		return 0;
	kpod_add(row->accesses, pages);
	if (!known)
		kpod_add(row->untracked, 1);
	return 0;
}

SEC("tp/filemap/mm_filemap_map_pages")
int kpod_cachestat_map_tp(const struct trace_event_raw_mm_filemap_op_page_cache_range *event)
{
	return on_map(file_of(event->i_ino, event->s_dev), event->index, event->last_index);
}

SEC("tp/filemap/mm_filemap_fault")
int kpod_cachestat_fault_tp(const struct trace_event_raw_mm_filemap_fault *event)
{
	return on_fault(file_of(event->i_ino, event->s_dev), event->index);
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
