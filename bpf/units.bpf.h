/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
#ifndef KPOD_UNITS_BPF_H
#define KPOD_UNITS_BPF_H

#include "slots.bpf.h"

#include "units.h"

/* The maps of a table with units; the loader sets their sizes, and gives units back. */
#define KPOD_UNITS(name)                                                                           \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_HASH);                                                   \
		__uint(max_entries, 1);                                                            \
		__type(key, struct kpod_unit_key);                                                 \
		__type(value, __u32);                                                              \
	} name##_index SEC(".maps");                                                               \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_STACK);                                                  \
		__uint(max_entries, 1);                                                            \
		__type(value, __u32);                                                              \
	} name##_free SEC(".maps");                                                                \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_STACK);                                                  \
		__uint(max_entries, KPOD_UNITS_RESERVED);                                          \
		__type(value, __u32);                                                              \
	} name##_reserved SEC(".maps");                                                            \
	struct {                                                                                   \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                  \
		__uint(map_flags, BPF_F_MMAPABLE);                                                 \
		__uint(max_entries, 1);                                                            \
		__type(key, __u32);                                                                \
		__type(value, struct kpod_unit);                                                   \
	} name##_units SEC(".maps")

/* The unit of a key, 0 if it has none yet. */
#define kpod_unit_find(name, key)                                                                  \
	({                                                                                         \
		__u32 *__unit = bpf_map_lookup_elem(&name##_index, (key));                         \
		__unit ? *__unit : 0;                                                              \
	})

/*
 * A unit for fresh->key, which has none yet. Where none is free the event is the host's, whose unit
 * for the same key this is then, so that sums over all slots hold. Both are counted; 0: the host
 * has no room either.
 */
#define kpod_unit_add(name, fresh)                                                                 \
	({                                                                                         \
		__u32 __added = kpod_unit_add_to(&name##_index, &name##_free, &name##_reserved,    \
						 &name##_units, fresh);                            \
		if (!__added) {                                                                    \
			(fresh)->key.slot = 0;                                                     \
			__added = kpod_unit_find(name, &(fresh)->key);                             \
			if (!__added)                                                              \
				__added =                                                          \
					kpod_unit_add_to(&name##_index, &name##_free,              \
							 &name##_reserved, &name##_units, fresh);  \
			kpod_unit_count_lost(&name##_units, !__added);                             \
		}                                                                                  \
		__added;                                                                           \
	})

static __always_inline void kpod_unit_count_lost(void *units, bool lost)
{
	__u32 none = 0;
	struct kpod_unit *u = bpf_map_lookup_elem(units, &none);

	if (!u)
		return;
	__sync_fetch_and_add(&u->words[0], 1);
	if (lost)
		__sync_fetch_and_add(&u->words[1], 1);
}

static __always_inline __u32 kpod_unit_add_to(void *index, void *free, void *reserved, void *units,
					      const struct kpod_unit *fresh)
{
	__u32 unit = 0, *other;
	struct kpod_unit *u;

	if (bpf_map_pop_elem(free, &unit) && (fresh->key.slot || bpf_map_pop_elem(reserved, &unit)))
		return 0;
	u = bpf_map_lookup_elem(units, &unit);
	if (!u)
		return 0;
	u->key = fresh->key;
	__builtin_memcpy(u->words, fresh->words, sizeof(u->words));
	if (!bpf_map_update_elem(index, &fresh->key, &unit, BPF_NOEXIST)) {
		u->born_ns = bpf_ktime_get_ns();
		return unit;
	}
	/* Another CPU was faster. */
	if (unit <= KPOD_UNITS_RESERVED)
		bpf_map_push_elem(reserved, &unit, 0);
	else
		bpf_map_push_elem(free, &unit, 0);
	other = bpf_map_lookup_elem(index, &fresh->key);
	return other ? *other : 0;
}

#endif
