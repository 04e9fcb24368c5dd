/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Which slot an event belongs to. The loader makes the maps once, with cgroup.bpf.o, and gives them
 * to every other object; it also sets the sizes.
 */
#ifndef KPOD_SLOTS_BPF_H
#define KPOD_SLOTS_BPF_H

#include "kernel.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

#include "histogram.h"
#include "slots.h"

const volatile struct kpod_config kpod_config SEC(".rodata.kpod");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u64);
	__type(value, struct kpod_cgroup);
} cgroups SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kpod_control);
} control SEC(".maps");

static __always_inline struct kpod_control *kpod_control(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&control, &zero);
}

/* A counter in a row: plain where each CPU has a row of its own. Dead code goes at load time. */
#define kpod_add(counter, n)                                                                       \
	do {                                                                                       \
		if (kpod_config.shared)                                                            \
			__sync_fetch_and_add(&(counter), (n));                                     \
		else                                                                               \
			(counter) += (n);                                                          \
	} while (0)

/* Index of a time's bucket. Kernels before 6.12 do not see by the arithmetic that it is one. */
static __always_inline __u32 kpod_bucket(__u64 ns)
{
	__u32 bucket = kpod_time_bucket(ns);

	barrier_var(bucket);
	return bucket < KPOD_HIST_BUCKETS ? bucket : KPOD_HIST_BUCKETS - 1;
}

/* This CPU's row of a slot in a map of `slots * shards` rows. */
#define kpod_row(map, slot)                                                                        \
	({                                                                                         \
		__u32 __row = (slot)*kpod_config.shards +                                          \
			      (bpf_get_smp_processor_id() & (kpod_config.shards - 1));             \
		bpf_map_lookup_elem(&(map), &__row);                                               \
	})

/* The only row of a unit in a map without shards; to be added to with kpod_add_shared(). */
#define kpod_shared_row(map, unit)                                                                 \
	({                                                                                         \
		__u32 __row = (unit);                                                              \
		bpf_map_lookup_elem(&(map), &__row);                                               \
	})

#define kpod_add_shared(counter, n) __sync_fetch_and_add(&(counter), (n))

/* The id of a cgroup's ancestor at a level, in one step. Level 0 is the root. */
static __always_inline __u64 kpod_ancestor_since_6_1(struct cgroup *cgrp, int level)
{
	struct cgroup *ancestor = NULL;

	bpf_probe_read_kernel(&ancestor, sizeof(ancestor),
			      (char *)cgrp +
				      bpf_core_field_offset(struct cgroup___since_6_1, ancestors) +
				      level * sizeof(ancestor));
	return BPF_CORE_READ(ancestor, kn, id);
}

static __always_inline __u64 kpod_ancestor_before_6_1(struct cgroup *cgrp, int level)
{
	__u64 id = 0;

	bpf_probe_read_kernel(
		&id, sizeof(id),
		(char *)cgrp + bpf_core_field_offset(struct cgroup___before_6_1, ancestor_ids) +
			level * sizeof(id));
	return id;
}

static __always_inline struct kpod_cgroup *kpod_nearest_of(struct cgroup *cgrp, int *level,
							   __u64 (*ancestor)(struct cgroup *, int))
{
	int at = *level < KPOD_LEVELS_MAX ? *level : KPOD_LEVELS_MAX;

	for (int i = 0; i < KPOD_LEVELS_MAX && at > 0; i++, at--) {
		__u64 id = ancestor(cgrp, at);
		struct kpod_cgroup *found = bpf_map_lookup_elem(&cgroups, &id);

		if (found) {
			*level = at;
			return found;
		}
	}
	*level = 0;
	return NULL;
}

/*
 * The entry of the cgroup's ancestor at *level, or of the nearest above that; NULL: the host.
 * Leaves in *level where it was found. Cgroups below KPOD_LEVELS_MAX have no entries, so depth
 * costs nothing and hides nothing.
 *
 * The question is asked outside the loop: in it, clang 21 takes the offsets of both fields before
 * the loop, and the kernel refuses a program that uses an offset of a field that it does not have.
 */
static __always_inline struct kpod_cgroup *kpod_nearest_from(struct cgroup *cgrp, int *level)
{
	if (bpf_core_field_exists(((struct cgroup___since_6_1 *)cgrp)->ancestors))
		return kpod_nearest_of(cgrp, level, kpod_ancestor_since_6_1);
	return kpod_nearest_of(cgrp, level, kpod_ancestor_before_6_1);
}

/* The cgroup's entry, or its nearest ancestor's; NULL: the host. Needs no helper but look-ups. */
static __always_inline struct kpod_cgroup *kpod_nearest(struct cgroup *cgrp)
{
	int level;

	if (!cgrp)
		return NULL;
	level = BPF_CORE_READ(cgrp, level);
	return kpod_nearest_from(cgrp, &level);
}

/* A slot that was looked up, to be kept with what it was looked up for. */
struct kpod_owner {
	__u64 cgroup_id; /* slot is of this cgroup, as of epoch */
	__u64 epoch;
	__u32 slot;
	__u32 reserved;
};

/* For programs that may follow pointers (tp_btf). */
static __always_inline __u32 kpod_owner_slot(struct kpod_owner *owner, struct cgroup *cgrp)
{
	struct kpod_control *ctl = kpod_control();
	struct kpod_cgroup *found;
	__u64 id = cgrp->kn->id;
	__u64 epoch = ctl ? ctl->epoch : 0;

	if (owner->cgroup_id != id || owner->epoch != epoch) {
		found = kpod_nearest(cgrp);
		owner->cgroup_id = id;
		owner->epoch = epoch;
		owner->slot = found ? found->slot : 0;
	}
	return owner->slot;
}

#endif
