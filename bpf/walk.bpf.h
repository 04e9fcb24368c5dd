/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * A walk over cgroups before each snapshot: what the kernel keeps for a cgroup is read where it is
 * kept, without a file for each. Three programs do it.
 *
 * The finder is a sleepable iterator (iter.s/cgroup, Linux 6.1). Run on the root alone, it brings
 * the statistics of the whole tree up to date, which may sleep. Run on all cgroups, it also notes
 * where in memory each cgroup with a slot is; the loader asks for that when a slot is new.
 *
 * The reader goes through the slots, some at a time, under RCU. It follows the noted addresses and
 * believes what it finds there only if the cgroup's serial number is there too: none is given out
 * again, and a cgroup that is there when the read-side section begins is not freed before its end
 * (css_free_rwork_fn() runs after a grace period). The iterator alone would do, but with the lock
 * of all cgroups (cgroup_mutex) held from its first cgroup to its last, and at three times the
 * cost.
 *
 * The third reads a cgroup once more when it is removed: most are freed before the next walk. It
 * runs inside rmdir() with cgroup_mutex held, as the finder does, so the two never meet; the
 * reader, which may, leaves the row to it.
 */
#ifndef KPOD_WALK_BPF_H
#define KPOD_WALK_BPF_H

#include "infos.bpf.h"

#include "walk.h"

struct kpod_walk walk SEC(".data.walk");

/* Of these, a kernel has one; libbpf leaves the other call for the verifier to remove. */
extern void cgroup_rstat_flush(struct cgroup *cgrp) __ksym __weak;	    /* 6.1 to 6.15 */
extern void css_rstat_flush(struct cgroup_subsys_state *css) __ksym __weak; /* from 6.16 */

/*
 * Brings the statistics of the cgroup and of all below it up to date. Once, at the root, it costs
 * least: the kernel then looks at each CPU once, and at cgroups that have changed.
 */
static __always_inline void kpod_flush(struct cgroup *cgrp)
{
	/* Since 6.16 each controller has a tree of its own, and this is that of CPU time. */
	if (bpf_core_type_exists(struct css_rstat_cpu))
		css_rstat_flush(&cgrp->self);
	else
		cgroup_rstat_flush(cgrp);
}

/* For what the kernel keeps up to date by itself. */
static __always_inline void kpod_flush_nothing(struct cgroup *cgrp)
{
}

static __always_inline void kpod_begin_nothing(void)
{
}

/* For what cannot be read once more. */
static __always_inline void kpod_end_nothing(void *row, struct cgroup *cgrp)
{
}

/* The cgroup's own slot, 0 if it has none. */
static __always_inline __u32 kpod_own_slot(__u64 id)
{
	struct kpod_cgroup *found = bpf_map_lookup_elem(&cgroups, &id);
	struct kpod_slot_info *info;
	__u32 slot;

	/* Of units that are summed, the kernel's files of one are not those of all. */
	if (!found || found->flags & KPOD_CGROUP_SHARED)
		return 0;
	slot = found->slot;
	info = bpf_map_lookup_elem(&slots, &slot);
	/* A pod's own cgroup may be known by the slot of what is above it. */
	return info && info->cgroup_id == id ? slot : 0;
}

/*
 * The rows, by slot, and the programs: `kpod_NAME_find` flushes by `flush(cgroup)`,
 * `kpod_NAME_walk` does `begin()` and then, for each row, `read(row, cgroup)`, or `end(row,
 * cgroup)` if the cgroup was removed meanwhile. The loader sets the map's size.
 */
#define KPOD_WALK(name, row_type, flush, begin, read, end)                                         \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                  \
		__uint(map_flags, BPF_F_MMAPABLE);                                                 \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__type(value, row_type);                                                           \
	} name##_rows SEC(".maps");                                                                \
                                                                                                   \
	static __always_inline void name##_is(row_type *row, struct cgroup *cgrp, __u64 id)        \
	{                                                                                          \
		if (row->of.cgroup_id == id)                                                       \
			return;                                                                    \
		__builtin_memset(row, 0, sizeof(*row));                                            \
		row->of.cgroup_id = id;                                                            \
		row->of.cgroup = (__u64)cgrp;                                                      \
		row->of.serial = cgrp->self.serial_nr;                                             \
	}                                                                                          \
                                                                                                   \
	SEC("iter.s/cgroup") int kpod_##name##_find(struct bpf_iter__cgroup *ctx)                  \
	{                                                                                          \
		struct cgroup *cgrp = ctx->cgroup;                                                 \
		row_type *row;                                                                     \
		__u32 slot;                                                                        \
		__u64 id;                                                                          \
                                                                                                   \
		if (!cgrp)                                                                         \
			return 0;                                                                  \
		if (ctx->meta->seq_num == 0)                                                       \
			flush(cgrp);                                                               \
		id = cgrp->kn->id;                                                                 \
		slot = kpod_own_slot(id);                                                          \
		row = slot ? bpf_map_lookup_elem(&name##_rows, &slot) : NULL;                      \
		if (row)                                                                           \
			name##_is(row, cgrp, id);                                                  \
		return 0;                                                                          \
	}                                                                                          \
                                                                                                   \
	static long name##_visit(__u32 i, void *none)                                              \
	{                                                                                          \
		__u32 slot = walk.slot + i;                                                        \
		row_type *row = bpf_map_lookup_elem(&name##_rows, &slot);                          \
		struct cgroup *cgrp;                                                               \
                                                                                                   \
		if (!row || !row->of.cgroup || row->of.ended)                                      \
			return 0;                                                                  \
		cgrp = (void *)row->of.cgroup;                                                     \
		if (BPF_CORE_READ(cgrp, self.serial_nr) != row->of.serial)                         \
			return 0;                                                                  \
		read(row, cgrp);                                                                   \
		/* Removed meanwhile: what was just written may be older than its last totals. */  \
		if (__sync_fetch_and_add(&row->of.ended, 0))                                       \
			end(row, cgrp);                                                            \
		row->of.pass = walk.pass;                                                          \
		return 0;                                                                          \
	}                                                                                          \
                                                                                                   \
	SEC("raw_tp") int kpod_##name##_walk(void *ctx)                                            \
	{                                                                                          \
		begin();                                                                           \
		bpf_loop(walk.slots, name##_visit, NULL, 0);                                       \
		return 0;                                                                          \
	}

/* The program `kpod_NAME_end` does `end(row, cgroup)` with the row of a cgroup that is removed. */
#define KPOD_WALK_END(name, row_type, end)                                                         \
	SEC("tp_btf/cgroup_rmdir") int kpod_##name##_end(__u64 *ctx)                               \
	{                                                                                          \
		struct cgroup *cgrp = (void *)ctx[0];                                              \
		row_type *row;                                                                     \
		__u32 slot;                                                                        \
		__u64 id;                                                                          \
                                                                                                   \
		if (cgrp->root->hierarchy_id != 0)                                                 \
			return 0;                                                                  \
		id = cgrp->kn->id;                                                                 \
		slot = kpod_own_slot(id);                                                          \
		row = slot ? bpf_map_lookup_elem(&name##_rows, &slot) : NULL;                      \
		if (!row)                                                                          \
			return 0;                                                                  \
		name##_is(row, cgrp, id);                                                          \
		__sync_fetch_and_add(&row->of.ended, 1);                                           \
		end(row, cgrp);                                                                    \
		return 0;                                                                          \
	}

#define kpod_css_offset(controller)                                                                \
	(bpf_core_field_offset(struct cgroup, subsys) +                                            \
	 8 * bpf_core_enum_value(enum cgroup_subsys_id, controller##_cgrp_id))

/* The cgroup's part in a controller, NULL if the controller is not enabled for it. */
#define kpod_css(cgrp, controller)                                                                 \
	({                                                                                         \
		struct cgroup_subsys_state *__css = NULL;                                          \
		bpf_probe_read_kernel(&__css, sizeof(__css),                                       \
				      (char *)(cgrp) + kpod_css_offset(controller));               \
		__css;                                                                             \
	})

/* What a controller keeps for a cgroup, from its part in it. */
#define kpod_of_css(type, at) ((type *)((char *)(at)-bpf_core_field_offset(type, css)))

#endif
