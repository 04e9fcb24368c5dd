/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Records of `kpod-loader events`, as they are in the ring buffer. */
#ifndef KPOD_EVENTS_H
#define KPOD_EVENTS_H

#define KPOD_EVENT_NAME 256 /* NAME_MAX + 1 */
#define KPOD_EVENT_PATH 512
#define KPOD_EVENT_ARGS 512
#define KPOD_EVENT_COMM 16

enum kpod_event_kind { KPOD_EVENT_EXEC, KPOD_EVENT_EXIT, KPOD_EVENT_OOM, KPOD_EVENT_DROP };

/* What each begins with. */
struct kpod_event {
	__u64 monotonic_ns;
	__u64 cgroup_id; /* 0: it is of no cgroup */
	__u32 kind;
	__u32 path_size;
	/* Names of the cgroup and those above it, each with its NUL; cut at KPOD_EVENT_PATH. */
	char path[KPOD_EVENT_PATH + KPOD_EVENT_NAME];
};

struct kpod_process_event {
	struct kpod_event event;
	__u32 pid, ppid, uid; /* of the initial namespaces */
	__u32 status;	      /* exit: as wait() gives it */
	__u32 args_size;
	__u32 args_cut; /* 1: there were more */
	char comm[KPOD_EVENT_COMM];
	char filename[KPOD_EVENT_NAME]; /* exec only, from here; NUL at its end */
	char args[KPOD_EVENT_ARGS];	/* with their NULs */
};

/* The cgroup is the victim's. */
struct kpod_oom_event {
	struct kpod_event event;
	__u32 pid, uid;
	__s32 score_adj;
	__u32 by_pid; /* whose demand for memory it was that could not be met */
	__u64 address_space_pages;
	char comm[KPOD_EVENT_COMM];
	char by_comm[KPOD_EVENT_COMM];
};

/* The cgroup is the socket's. */
struct kpod_drop_event {
	struct kpod_event event;
	__u32 reason;	/* kpod_drop_name() */
	__u32 size;	/* bytes, with the headers that it had when it was dropped */
	__u8 version;	/* of IP, whose header says the rest; 0: it had none (yet) */
	__u8 flags;	/* TCP's: RFC 9293, 3.1 */
	__u16 ports[2]; /* from and to, as on the wire */
	__u8 addresses[2][16];
};

#endif
