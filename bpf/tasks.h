/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One process of each container: through it, /proc shows the container's network and mounts. */
#ifndef KPOD_TASKS_H
#define KPOD_TASKS_H

/* Element of map `tasks`, by slot: its oldest process. Of slot 0: process 1 of the procfs. */
struct kpod_task {
	__u64 start_ns; /* CLOCK_BOOTTIME; 0: there is none */
	__u64 net;	/* its network namespace: no other has or had this number */
	__u32 mnt;	/* its mount namespace: the inode number */
	__u32 pid;	/* as the procfs numbers it */
};

/* In .bss: where the walk starts, and how far it came. */
struct kpod_walk {
	__u32 depth; /* set by the loader: of its own PID namespace below the procfs's */
	__u32 level; /* of the procfs's */
	__u64 ns;    /* the procfs's, struct pid_namespace * */
	__u64 first; /* struct task_struct * */
	__u64 next;  /* 0: the end */
	__u64 cut;   /* walks given up at KPOD_WALK_MAX processes */
};

#define KPOD_WALK_MAX 32768
#define KPOD_WALK_TURNS 512

#endif
