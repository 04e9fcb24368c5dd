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

/* A unit for fresh->key, 0 if none is free, which is counted. */
#define kpod_unit_add(name, fresh)                                                                 \
	kpod_unit_add_to(&name##_index, &name##_free, &name##_units, fresh)

static __always_inline __u32 kpod_unit_add_to(void *index, void *free, void *units,
					      const struct kpod_unit *fresh)
{
	__u32 none = 0, unit = 0, *other;
	struct kpod_unit *u;

	if (bpf_map_pop_elem(free, &unit))
		goto lost;
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
	bpf_map_push_elem(free, &unit, 0);
	other = bpf_map_lookup_elem(index, &fresh->key);
	if (other)
		return *other;
lost:
	u = bpf_map_lookup_elem(units, &none);
	if (u)
		__sync_fetch_and_add(&u->words[0], 1);
	return 0;
}

#endif
