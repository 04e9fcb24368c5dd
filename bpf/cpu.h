/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* CPU scheduling and page faults: what the kernel keeps per slot and shard. */
#ifndef KPOD_CPU_H
#define KPOD_CPU_H

#include "histogram.h"

enum kpod_switch {
	KPOD_SWITCH_VOLUNTARY,
	KPOD_SWITCH_INVOLUNTARY,
	KPOD_SWITCH_IDLE,
	KPOD_SWITCHES
};

enum kpod_fault { KPOD_FAULT_MINOR, KPOD_FAULT_MAJOR, KPOD_FAULTS };
enum kpod_holder { KPOD_HELD_SELF, KPOD_HELD_OTHER, KPOD_HELD_HOST, KPOD_HELD_IDLE, KPOD_HOLDERS };

struct cpu_row {
	__u64 oncpu_ns;
	__u64 switches[KPOD_SWITCHES];
	__u64 wait_ns[KPOD_HOLDERS];
	__u64 untracked;
	__u64 wait[KPOD_HIST_BUCKETS];
	__u64 faults[KPOD_FAULTS];
	__u64 reserved[3]; /* to a whole number of cache lines: shards do not share one */
};

#endif
