/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Slots: records shared by the BPF programs and the loader. */
#ifndef KPOD_SLOTS_H
#define KPOD_SLOTS_H

#include "classify.h"

#define KPOD_SLOT_PATH 512

/* Load-time constants of every object, in section .rodata.kpod. */
struct kpod_config {
	__u32 shards; /* rows per slot; a power of two */
	__u32 shared; /* two CPUs (shards < CPUs) or tasks may write one row, so add atomically */
	__u32 preemptible; /* a task may be preempted while it runs a tracepoint's program */
	__u32 pods_only;
	__u32 page_size;
	__u64 start_ns; /* of the loader: what is older has a past that is not ours */
};

/* Who a cgroup's events go to. Map `cgroups`, by cgroup id; what is not in it asks its parent. */
struct kpod_cgroup {
	__u32 slot;
	__u32 kind; /* enum kpod_cgroup_kind */
};

/* The single element of map `control`. */
struct kpod_control {
	__u64 epoch; /* grows whenever a cgroup's slot changes: cached slots are then looked up anew
		      */
	__u64 slots_exhausted; /* cgroups without a slot of their own: counted as the host */
	__u64 cgroups_full;    /* cgroups that did not fit into map `cgroups`: likewise */
	__u64 paths_truncated;
};

/* Element of map `slots`: written by the kernel at birth and death, freed by the loader. */
struct kpod_slot_info {
	__u64 cgroup_id; /* 0: free */
	__u64 born_ns;	 /* CLOCK_MONOTONIC */
	__u64 died_ns;
	__u32 generation; /* grows each time the slot is freed */
	__u32 kind;
	__u32 path_size;   /* without the NUL */
	__u32 reserved[7]; /* 64 of these are whole pages */
	char path[KPOD_SLOT_PATH];
};

#endif
