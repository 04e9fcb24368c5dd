/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The page cache: what the kernel keeps per slot and shard, in pages. */
#ifndef KPOD_CACHESTAT_H
#define KPOD_CACHESTAT_H

struct cachestat_row {
	__u64 accesses;
	__u64 additions;
	__u64 dirtied;
	__u64 untracked;
	__u64 reserved[4]; /* to a whole cache line: shards do not share one */
};

#endif
