/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Whose the requests of layer 7 are, and into which row they go. */
#ifndef KPOD_ROWS_BPF_H
#define KPOD_ROWS_BPF_H

#include "slots.bpf.h"
#include "units.bpf.h"

#include "l7.h"

/* What tells one row of a slot from another. */
struct kpod_l7_kind {
	__u32 slot;
	__u16 side;
	__u16 protocol;
	__u16 operation;
	__u16 status;
};

/*
 * A new unit for a kind. A slot that has `used` too many of them gets `other` for those that are
 * new, so that what one container's peers can think of does not take all units from others.
 */
static __always_inline __u32 kpod_l7_unit(void *index, void *free, void *units,
					  struct kpod_l7_kind kind, __u64 *used)
{
	struct kpod_unit unit = {};
	__u32 *found, number;

	if (*used >= KPOD_L7_UNITS_OF_SLOT) {
		kind.operation = L7_OTHER;
		if (kind.status != L7_NO_RESPONSE)
			kind.status = L7_RCODE;
	}
	unit.key.slot = kind.slot;
	unit.key.minor = (__u32)kind.side << 8 | kind.protocol;
	unit.key.major = (__u32)kind.operation << 16 | kind.status;
	found = bpf_map_lookup_elem(index, &unit.key);
	if (found)
		return *found;
	unit.words[0] = kind.side;
	unit.words[1] = kind.protocol;
	unit.words[2] = kind.operation;
	unit.words[3] = kind.status;
	number = kpod_unit_add_to(index, free, units, &unit);
	if (number)
		kpod_add_shared(*used, 1);
	return number;
}

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
