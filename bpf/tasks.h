/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* One process of each container: through it, /proc shows the container's network and mounts. */
#ifndef KPOD_TASKS_H
#define KPOD_TASKS_H

/* Element of map `tasks`, by slot: its oldest process. Of slot 0: process 1 of the procfs. */
struct kpod_task {
	__u64 since_ns; /* CLOCK_BOOTTIME, when the process began; 0: there is none */
	__u64 start_ns; /* likewise its thread `pid`, which is the main one if that is alive */
	__u64 net;	/* its network namespace: no other has or had this number */
	__u32 mnt;	/* its mount namespace: the inode number */
	__u32 pid;	/* as the procfs numbers it */
};

#define KPOD_TASKS_SLICE 1024	 /* processes that one run of the program looks at */
#define KPOD_TASKS_TURNS 16	 /* of its loop */
#define KPOD_TASKS_PLACES 8	 /* where its last runs ended */
#define KPOD_TASKS_THREADS_MAX 8 /* of a process that are asked for namespaces */

/* A process that the walk has seen, and when it began. */
struct kpod_task_place {
	__u64 task; /* struct task_struct * */
	__u64 start_ns;
};

/* In .bss: the walk, from one run of the program to the next. */
struct kpod_task_walk {
	__u32 depth; /* set by the loader: of its own PID namespace below the procfs's */
	__u32 level; /* of the procfs's */
	__u32 slice; /* number of the run; the loader begins with 0 */
	__u32 done;
	__u64 ns;	       /* the procfs's, struct pid_namespace * */
	__u64 first;	       /* struct task_struct *, as are … */
	__u64 next;	       /* … the one to visit, 0: the end, … */
	__u64 process, thread; /* … and those that are looked at */
	struct kpod_task_place places[KPOD_TASKS_PLACES];
};

#endif
