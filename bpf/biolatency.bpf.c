// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Requests to block devices, from the queue to the device to the end. The owner is the cgroup that
 * the request's first bio belongs to (bi_blkg): also of pages that a kworker writes back, and of a
 * request that others' bios were merged into.
 *
 * Where programs may be preempted (7.0), the kernel leaves one out for other tasks of that CPU
 * meanwhile. So each hook has two there, and the second stands in for the first. Of a request whose
 * issue both have missed, the kernel's own stamp says when it began.
 */
#include "units.bpf.h"

#include "biolatency.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct biolatency_row);
} biolatency_rows SEC(".maps");

KPOD_UNITS(biolatency);

struct flight {
	__u64 queued_ns; /* 0: it went to the device at once */
	__u64 issued_ns; /* 0: not yet, or it is over */
	/*
	 * 1 + how many bytes the request had left at its last completion that has been counted; 0:
	 * it has had none. Only where programs may be preempted.
	 */
	__u64 ended;
};

/*
 * By request. The kernel uses its requests again and again, so entries stay and cost nothing to
 * make; of those that have not been used for long the map forgets some when it is full.
 */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct flight);
} biolatency_flights SEC(".maps");

static __always_inline bool operation_of(struct request *rq, __u32 *operation)
{
	__u32 op = rq->cmd_flags & 0xff;

	*operation = op == REQ_OP_FLUSH	    ? KPOD_IO_FLUSH
		     : op == REQ_OP_DISCARD ? KPOD_IO_DISCARD
		     : op & 1		    ? KPOD_IO_WRITE
					    : KPOD_IO_READ;
	/* Not commands to a zone or of a driver, which move no data of ours. */
	return op < 32 && !(op >= 11 && op <= 19);
}

/* NULL: nobody's that we could name. */
static __always_inline struct cgroup *cgroup_of(struct request *rq)
{
	struct cgroup *cgrp = rq->bio->bi_blkg->blkcg->css.cgroup;

	return cgrp && cgrp->root->hierarchy_id == 0 ? cgrp : NULL;
}

static __always_inline struct gendisk *disk_of(struct request *rq)
{
	struct request___before_5_17 *old = (void *)rq;

	if (bpf_core_field_exists(old->rq_disk))
		return old->rq_disk;
	return rq->q->disk;
}

/*
 * What tells a disk from all others, those included that get its name or its number when it is
 * gone: the kernel numbers disks and their media and gives no number out again (diskseq). Before
 * 5.15, the number and the name of now.
 */
static __always_inline __u64 identity_of(struct gendisk *disk)
{
	__u64 name[KPOD_DISK_NAME / 8] = {}, identity;

	if (bpf_core_field_exists(disk->diskseq))
		return disk->diskseq;
	bpf_probe_read_kernel_str(name, sizeof(name), disk->disk_name);
	identity = (__u64)disk->major << 32 | disk->first_minor;
	for (int i = 0; i < KPOD_DISK_NAME / 8; i++)
		identity = (identity ^ name[i]) * 0x9e3779b97f4a7c15ULL;
	return identity;
}

static __always_inline struct biolatency_row *row_of(struct request *rq, struct cgroup *cgrp)
{
	struct kpod_cgroup *owner = cgrp ? kpod_nearest(cgrp) : NULL;
	struct gendisk *disk = disk_of(rq);
	struct kpod_unit unit = {.key = {.slot = owner ? owner->slot : 0}};
	__u32 number;

	if (!operation_of(rq, &unit.key.minor))
		return NULL;
	unit.key.major = identity_of(disk);
	number = kpod_unit_find(biolatency, &unit.key);
	if (!number) {
		bpf_probe_read_kernel_str(unit.words, KPOD_DISK_NAME, disk->disk_name);
		unit.words[KPOD_DISK_NAME / 8] = unit.key.minor;
		number = kpod_unit_add(biolatency, &unit);
	}
	return number ? kpod_shared_row(biolatency_rows, number) : NULL;
}

static __always_inline struct flight *flight_of(struct request *rq)
{
	struct flight fresh = {}, *flight;
	__u64 key = (__u64)rq;

	flight = bpf_map_lookup_elem(&biolatency_flights, &key);
	if (flight)
		return flight;
	bpf_map_update_elem(&biolatency_flights, &key, &fresh, BPF_ANY);
	return bpf_map_lookup_elem(&biolatency_flights, &key);
}

static __always_inline void on_insert(struct flight *flight)
{
	flight->queued_ns = bpf_ktime_get_ns();
	flight->issued_ns = 0;
	if (kpod_config.preemptible)
		flight->ended = 0;
}

SEC("tp_btf/block_rq_insert")
int BPF_PROG(kpod_biolatency_insert, struct request *rq)
{
	struct flight *flight = flight_of(rq);

	if (flight)
		on_insert(flight);
	return 0;
}

SEC("tp_btf/block_rq_insert")
int BPF_PROG(kpod_biolatency_insert2, struct request *rq)
{
	struct flight *flight = flight_of(rq);

	if (flight && (!flight->queued_ns || flight->issued_ns))
		on_insert(flight);
	return 0;
}

static __always_inline void on_issue(struct flight *flight)
{
	flight->issued_ns = bpf_ktime_get_ns();
	if (kpod_config.preemptible)
		flight->ended = 0;
}

/* A request that was put back is issued again: it was in the queue until then. */
SEC("tp_btf/block_rq_issue")
int BPF_PROG(kpod_biolatency_issue, struct request *rq)
{
	struct flight *flight = flight_of(rq);

	if (flight)
		on_issue(flight);
	return 0;
}

SEC("tp_btf/block_rq_issue")
int BPF_PROG(kpod_biolatency_issue2, struct request *rq)
{
	struct flight *flight = flight_of(rq);

	if (flight && !flight->issued_ns)
		on_issue(flight);
	return 0;
}

static __always_inline int on_merge(struct request *rq)
{
	__u64 key = (__u64)rq;
	struct flight *flight = bpf_map_lookup_elem(&biolatency_flights, &key);

	if (flight)
		flight->queued_ns = flight->issued_ns = 0;
	return 0;
}

/* Its bios are in another request from now on. */
SEC("tp_btf/block_rq_merge")
int BPF_PROG(kpod_biolatency_merge, struct request *rq)
{
	return on_merge(rq);
}

SEC("tp_btf/block_rq_merge")
int BPF_PROG(kpod_biolatency_merge2, struct request *rq)
{
	return on_merge(rq);
}

/* When a request began whose issue was left out, as far as the kernel says; 0: it does not. */
static __always_inline __u64 began_ns(struct request *rq)
{
	__u64 ns = rq->io_start_time_ns ?: rq->start_time_ns;

	/* One that is older than the loader was not left out. */
	return ns > kpod_config.start_ns ? ns : 0;
}

static __always_inline int on_complete(struct request *rq, struct flight *flight,
				       unsigned int bytes)
{
	bool last = bytes >= rq->__data_len;
	__u64 now = bpf_ktime_get_ns(), ns;
	struct cgroup *cgrp = cgroup_of(rq);
	struct biolatency_row *row = row_of(rq, cgrp);

	if (kpod_config.preemptible && flight)
		flight->ended = 1 + rq->__data_len;
	if (!row)
		return 0;
	if (kpod_config.preemptible && flight && !flight->issued_ns && bytes)
		flight->issued_ns = began_ns(rq);
	if (!flight || !flight->issued_ns) {
		/*
		 * A request that only asks for a flush is never given to the device and ends with
		 * no bytes (blk_flush_complete_seq()); the flush is a request of its own.
		 */
		kpod_add_shared(row->untracked, last && bytes);
		return 0;
	}
	kpod_add_shared(row->bytes, bytes);
	if (!last)
		return 0;
	if (!cgrp)
		kpod_add_shared(row->unattributed, 1);
	if (flight->queued_ns) {
		ns = flight->issued_ns - flight->queued_ns;
		kpod_add_shared(row->queue_ns, ns);
		kpod_add_shared(row->queue[kpod_bucket(ns)], 1);
	}
	ns = now - flight->issued_ns;
	kpod_add_shared(row->device_ns, ns);
	kpod_add_shared(row->device[kpod_bucket(ns)], 1);
	flight->queued_ns = flight->issued_ns = 0;
	return 0;
}

/* A request may end in parts, and is then seen here for each. */
SEC("tp_btf/block_rq_complete")
int BPF_PROG(kpod_biolatency_complete, struct request *rq, int error, unsigned int bytes)
{
	__u64 key = (__u64)rq;
	struct flight *flight = kpod_config.preemptible
					? flight_of(rq)
					: bpf_map_lookup_elem(&biolatency_flights, &key);

	return on_complete(rq, flight, bytes);
}

SEC("tp_btf/block_rq_complete")
int BPF_PROG(kpod_biolatency_complete2, struct request *rq, int error, unsigned int bytes)
{
	struct flight *flight = flight_of(rq);

	/* Without a flight, whether the first has been here cannot be told. */
	if (!flight || flight->ended == 1 + rq->__data_len)
		return 0;
	return on_complete(rq, flight, bytes);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
