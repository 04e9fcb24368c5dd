/* SPDX-License-Identifier: Apache-2.0 */
/* One loader for one segment: a lock file beside it. Knows nothing of the other modules. */
#ifndef KPOD_LOADER_PUBLISH_LOCK_H
#define KPOD_LOADER_PUBLISH_LOCK_H

#include <limits.h>

#define KPOD_LOCK_SUFFIX ".lock"

struct kpod_lock {
	int fd; /* -1: not held */
	char path[PATH_MAX];
};

/*
 * Takes the lock of this segment. Returns 0 or -errno; -EBUSY: the process *holder has it (0: it
 * has not said who it is yet). The kernel releases the lock when its holder ends, however that is.
 */
int kpod_lock_open(struct kpod_lock *l, const char *segment, int *holder);

/* Removes the file while the lock is held. */
void kpod_lock_close(struct kpod_lock *l);

#endif
