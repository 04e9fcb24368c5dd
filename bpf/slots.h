/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Slots: records shared by the BPF programs and the loader. */
#ifndef KPOD_SLOTS_H
#define KPOD_SLOTS_H

#include "classify.h"

#define KPOD_SLOT_PATH 512
#define KPOD_ROOT_PATH 256 /* of a node's root, its NUL included */
#define KPOD_USER_SLOTS 32 /* containers of one login user that have slots */

/* A cgroup deeper than this has no slot of its own; what runs in it is that of its ancestors. */
#define KPOD_LEVELS_MAX 16

/* Load-time constants of every object, in section .rodata.kpod. */
struct kpod_config {
	__u32 shards; /* rows per slot; a power of two */
	__u32 shared; /* two CPUs (shards < CPUs) or tasks may write one row, so add atomically */
	__u32 preemptible; /* a task may be preempted while it runs a tracepoint's program */
	__u32 others;	   /* enum kpod_others */
	__u32 others_max;  /* slots that all but pods may have together */
	__u32 page_size;
	__u32 max_sockets; /* accounts of TCP sockets, of all slots together */
	__u32 culprits;	   /* of a container's waits for the CPU, that have a row; 0: nobody is */
	__u32 tcp_peers;   /* of a container's TCP connections, that have a row; 0: none */
	__u32 slots;	   /* there are, slot 0 included */
	__u64 start_ns;	   /* of the loader: what is older has a past that is not ours */
};

/* Who a cgroup's events go to. Map `cgroups`, by cgroup id; what is not in it asks its parent. */
struct kpod_cgroup {
	__u32 slot;
	__u16 kind;  /* enum kpod_cgroup_kind */
	__u16 flags; /* KPOD_CGROUP_… */
};

#define KPOD_CGROUP_NODE 1   /* the root of a node: a kubelet's root may be one of its children */
#define KPOD_CGROUP_SHARED 2 /* one of a group that has the slot together */

/* Key of map `roots`. */
struct kpod_root {
	char path[KPOD_ROOT_PATH]; /* NUL-padded */
};

/* The single element of map `control`. */
struct kpod_control {
	__u64 epoch; /* grows whenever a cgroup's slot changes: cached slots are then looked up anew
		      */
	__u64 slots_exhausted; /* cgroups without a slot of their own: counted as the host */
	__u64 cgroups_full;    /* cgroups that did not fit into map `cgroups`: likewise */
	__u64 paths_truncated;
	__u64 slots_end;   /* no slot from here on was ever in use; the loader's walk has its own */
	__u64 others_used; /* slots of all but pods */
	__u64 others_refused; /* cgroups without a slot because all but pods have their share */
	__u64 user_refused;   /* likewise because one user has its share */
	__u64 too_deep;	      /* cgroups made deeper than KPOD_LEVELS_MAX that would have had one */
};

/* Element of map `slots`: written by the kernel at birth and death, freed by the loader. */
struct kpod_slot_info {
	__u64 cgroup_id; /* 0: free */
	__u64 born_ns;	 /* CLOCK_MONOTONIC */
	__u64 died_ns;
	__u32 generation; /* grows each time the slot is freed */
	__u32 kind;
	__u32 path_size;       /* without the NUL */
	__u32 children;	       /* of a user's slice: slots of its containers */
	__u32 user;	       /* of such a container: the user's slot, … */
	__u32 user_generation; /* … as of this generation; both 0: it has none */
	__u32 reserved[4];     /* 64 of these are whole pages */
	char path[KPOD_SLOT_PATH];
};

#endif
