/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Lives of processes: what the kernel keeps per slot and shard. */
#ifndef KPOD_EXEC_H
#define KPOD_EXEC_H

enum kpod_outcome { KPOD_EXIT_SUCCESS, KPOD_EXIT_FAILURE, KPOD_EXIT_SIGNAL, KPOD_OUTCOMES };

struct exec_row {
	__u64 execs;
	__u64 processes;
	__u64 threads;
	__u64 exits[KPOD_OUTCOMES];
	__u64 reserved[2]; /* to a whole cache line: shards do not share one */
};

#endif
