/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Memory: what the kernel keeps per slot and shard. */
#ifndef KPOD_MEMORY_H
#define KPOD_MEMORY_H

enum kpod_reclaim { KPOD_RECLAIM_NODE, KPOD_RECLAIM_LIMIT, KPOD_RECLAIM_REQUEST, KPOD_RECLAIMS };

struct memory_row {
	__u64 oom_kills;
	__u64 stalls[KPOD_RECLAIMS];
	__u64 stall_ns[KPOD_RECLAIMS];
	__u64 untracked; /* to a whole number of cache lines: shards do not share one */
};

#endif
