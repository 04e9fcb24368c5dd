/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Memory: what the kernel keeps per slot and shard. */
#ifndef KPOD_MEMORY_H
#define KPOD_MEMORY_H

enum kpod_fault { KPOD_FAULT_MINOR, KPOD_FAULT_MAJOR, KPOD_FAULTS };
enum kpod_reclaim { KPOD_RECLAIM_NODE, KPOD_RECLAIM_LIMIT, KPOD_RECLAIMS };

struct memory_row {
	__u64 faults[KPOD_FAULTS];
	__u64 oom_kills;
	__u64 stalls[KPOD_RECLAIMS];
	__u64 stall_ns[KPOD_RECLAIMS];
	__u64 untracked;
};

#endif
