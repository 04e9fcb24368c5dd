/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What is known of each slot, for those who look at more than its number; all share one map. */
#ifndef KPOD_INFOS_BPF_H
#define KPOD_INFOS_BPF_H

#include "slots.bpf.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kpod_slot_info);
} slots SEC(".maps");

#endif
