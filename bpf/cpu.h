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
	__u64 pairs;	   /* in shard 0: the culprits of its waits that have a row; not exported */
	__u64 reserved[2]; /* to a whole number of cache lines: shards do not share one */
};

/* What a container has waited while another, which is named, held the CPU (held_by="other"). */
struct cpu_pair_row {
	__u64 wait_ns;
	__u64 reserved[7];
};

/*
 * The culprit of a pair: its slot, and above that its slot's generation; or one of these. In the
 * key of a pair's unit, slot is the victim's, minor the culprit's slot and major the generations,
 * the victim's above the culprit's, so that a slot that is used again is somebody else.
 */
#define KPOD_CULPRIT_OTHER (~0ULL)   /* those that the victim has no more rows for */
#define KPOD_CULPRIT_EARLIER (~1ULL) /* that had a row: have ended, or made room for others */

#endif
