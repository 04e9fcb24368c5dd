/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Walks over cgroups: what the BPF programs and the loader tell each other. */
#ifndef KPOD_WALK_H
#define KPOD_WALK_H

#define KPOD_ABSENT (~0ULL) /* KPOD_NO_VALUE of shared/abi.h: the cgroup has no such value */

/* In .data.walk of each such object; the loader writes it before it runs a program. */
struct kpod_walk {
	__u64 pass;	   /* number of this walk, from 1 */
	__u32 slot, slots; /* the first that is to be read, and how many */
	__u32 hz;	   /* of the kernel's tick */
	__u32 cpus;	   /* that are possible */
	__u64 torn; /* by the program: rows left as they were, as the kernel changed what was read
		     */
};

/* Begins each row, one a slot. The table's words follow, and then what the collector adds. */
struct kpod_walked {
	__u64 cgroup_id; /* whose the row is; another's row begins with zeroes */
	__u64 cgroup;	 /* struct cgroup *, as the iterator saw it, … */
	__u64 serial;	 /* … with this number, which no other has or had */
	__u64 pass;	 /* the walk that read it last */
	__u64 ended;	 /* 1: it was removed, and these are its last totals */
};

#define KPOD_WALK_SLICE 256 /* slots that are read in one go, before the scheduler is let in */

#endif
