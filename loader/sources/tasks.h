/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A process of each container, found by bpf/tasks.bpf.c, and its directory in the host's procfs.
 * For sources of collectors that embed that object and name KPOD_TASKS_ATTACHMENTS.
 */
#ifndef KPOD_LOADER_SOURCES_TASKS_H
#define KPOD_LOADER_SOURCES_TASKS_H

#include <sys/types.h>

#include "kernel/load.h"

#include "bpf/tasks.h"

#define KPOD_TASKS_ATTACHMENTS                                                                     \
	{                                                                                          \
		.name = "walk", KPOD_STEPS({"kpod_tasks_walk", KPOD_LOAD})                         \
	}

/* A slot of a snapshot, for a thread that must not look at the slots themselves. */
struct kpod_task_slot {
	uint32_t slot, generation;
	uint32_t kind; /* enum kpod_cgroup_kind */
};

struct kpod_tasks {
	struct kpod_task *of; /* by slot; of[0]: process 1 of the procfs */
	size_t size;
	struct kpod_task_walk *walk;
	struct kpod_tasks_answer *last; /* of all sources that need one */
	uint64_t snapshot;		/* that the pass is for */
	uint64_t *unseen;		/* by slot: start_ns of one that procfs has not shown */
	int program;
	int proc;
};

/* -errno, with the reason in l->reason. */
int kpod_tasks_open(struct kpod_tasks *t, struct kpod_loaded *l, struct kpod_bpf *bpf,
		    const struct kpod_options *o);
void kpod_tasks_close(struct kpod_tasks *t, struct kpod_bpf *bpf);

/* Before a pass. The slots of containers and units that live, in their order; returns how many. */
size_t kpod_tasks_begin(struct kpod_tasks *t, struct kpod_slots *slots, struct kpod_task_slot *out);

/*
 * Looks for them, in any thread: one walk for each snapshot, whose answer all sources get. False:
 * it failed or was cut short, which is counted in bpf->walk_failures, so a container may lack its
 * process, or have a younger one than the oldest.
 */
bool kpod_tasks_find(struct kpod_tasks *t, struct kpod_bpf *bpf);

/*
 * A descriptor (O_PATH) of the directory in procfs of the slot's process, -ESRCH if it has ended.
 * -EACCES: it was found in the pass before, and is found again, but procfs does not show it.
 */
int kpod_tasks_open_process(struct kpod_tasks *t, uint32_t slot);

/* A descriptor (O_PATH) of the directory in procfs of process `pid`, -ESRCH if the one that was
 * started then has ended. */
int kpod_task_open(int proc, uint32_t pid, uint64_t start_ns);

/* All of a file; its size, or -errno. What does not fit is left out. */
ssize_t kpod_task_read(int directory, const char *file, char *text, size_t room);

#endif
