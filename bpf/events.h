/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Records of `kpod-loader events exec`, as they are in the ring buffer. */
#ifndef KPOD_EVENTS_H
#define KPOD_EVENTS_H

#define KPOD_EVENT_NAME 256 /* NAME_MAX + 1 */
#define KPOD_EVENT_PATH 512
#define KPOD_EVENT_ARGS 512

enum kpod_event_kind { KPOD_EVENT_EXEC, KPOD_EVENT_EXIT };

struct kpod_event {
	__u64 monotonic_ns;
	__u64 cgroup_id;
	__u32 kind;
	__u32 pid, ppid, uid; /* of the initial namespaces */
	__u32 status;	      /* exit: as wait() gives it */
	__u32 path_size;
	__u32 args_size;
	__u32 args_cut; /* 1: there were more */
	char comm[16];
	/* Names of the cgroup and those above it, each with its NUL; cut at KPOD_EVENT_PATH. */
	char path[KPOD_EVENT_PATH + KPOD_EVENT_NAME];
	char filename[KPOD_EVENT_NAME]; /* exec only, from here; NUL at its end */
	char args[KPOD_EVENT_ARGS];	/* with their NULs */
};

#endif
