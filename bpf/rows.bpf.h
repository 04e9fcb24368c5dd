/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whose the requests of layer 7 are, and into which row they go. */
#ifndef KPOD_ROWS_BPF_H
#define KPOD_ROWS_BPF_H

#include "slots.bpf.h"
#include "units.bpf.h"

#include "l7.h"

/* What tells one row of a slot from another. */
static __always_inline void kpod_l7_kind(struct kpod_unit *unit, __u32 side, __u32 protocol,
					 __u32 operation, __u32 status)
{
	unit->key.minor = side << 8 | protocol;
	unit->key.major = operation << 16 | status;
	unit->words[0] = side;
	unit->words[1] = protocol;
	unit->words[2] = operation;
	unit->words[3] = status;
}

/* A slot that has too many kinds gets `other` for those that are new. */
static __always_inline void kpod_l7_as_other(struct kpod_unit *unit)
{
	kpod_l7_kind(unit, unit->words[0], unit->words[1], L7_OTHER,
		     unit->words[3] == L7_NO_RESPONSE ? L7_NO_RESPONSE : L7_RCODE);
}

/*
 * The unit of such a kind, which is a new one if there is none yet; `used` is how many its slot
 * has, and bounds them, so that what one container's peers can think of does not take all from
 * others.
 */
#define kpod_l7_unit(name, unit, used)                                                             \
	({                                                                                         \
		__u32 __number = kpod_unit_find(name, &(unit)->key);                               \
                                                                                                   \
		if (!__number && *(used) >= KPOD_L7_KINDS_MAX) {                                   \
			kpod_l7_as_other(unit);                                                    \
			__number = kpod_unit_find(name, &(unit)->key);                             \
		}                                                                                  \
		if (!__number) {                                                                   \
			__number = kpod_unit_add(name, unit);                                      \
			kpod_add_shared(*(used), 1);                                               \
		}                                                                                  \
		__number;                                                                          \
	})

/* `count` requests that took that long each; untimed: no matter how long. */
static __always_inline void kpod_l7_add(struct l7_row *row, __u32 count, __u64 ns, bool untimed)
{
	kpod_add_shared(row->requests, count);
	if (untimed)
		return;
	kpod_add_shared(row->duration[kpod_bucket(ns)], count);
	kpod_add_shared(row->ns, ns * count);
}

/* The slot of a socket's cgroup, or of its nearest ancestor that has one. */
static __always_inline __u32 kpod_l7_slot(struct bpf_sock *sk)
{
	__u64 id = bpf_sk_cgroup_id(sk);
	struct kpod_cgroup *found = bpf_map_lookup_elem(&cgroups, &id);

	for (int level = KPOD_LEVELS_MAX; !found && level > 0; level--) {
		id = bpf_sk_ancestor_cgroup_id(sk, level);
		if (id)
			found = bpf_map_lookup_elem(&cgroups, &id);
	}
	return found ? found->slot : 0;
}

#endif
