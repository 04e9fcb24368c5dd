/* SPDX-License-Identifier: Apache-2.0 */
/*
 * statfs() that does not hang. A thread asks; when a file system (a dead NFS server's, say) does
 * not answer in time, the thread is left to wait, another takes over, and that file system is not
 * asked again until the first comes back.
 */
#ifndef KPOD_LOADER_SOURCES_STATFS_H
#define KPOD_LOADER_SOURCES_STATFS_H

#include <stddef.h>
#include <stdint.h>

#define KPOD_STATFS_MOUNTS 32
#define KPOD_STATFS_POINT 1024
#define KPOD_STATFS_TIMEOUT_SECONDS 1
#define KPOD_STATFS_STUCK_MAX 16 /* threads left waiting; beyond, nobody is asked any more */

struct kpod_statfs_mount {
	uint64_t id; /* of mountinfo */
	char device[24];
	char point[KPOD_STATFS_POINT]; /* below the process's root */
	/*
	 * 0; -ENOENT: something else is there; -ENOTDIR: a file; -ETIMEDOUT: not asked, as it did
	 * not answer before; or what open() and statfs() say.
	 */
	int err;
	uint64_t size, available, free; /* bytes */
	uint64_t inodes, inodes_free;
};

struct kpod_statfs_batch {
	int process; /* its directory in /proc; is closed */
	size_t count;
	struct kpod_statfs_mount mounts[KPOD_STATFS_MOUNTS];
};

struct kpod_statfs;

struct kpod_statfs *kpod_statfs_new(void);
void kpod_statfs_free(struct kpod_statfs *s);

/* An empty batch, to be filled in and asked. NULL: too many threads are stuck, or there can be no
 * more of them. */
struct kpod_statfs_batch *kpod_statfs_batch(struct kpod_statfs *s);

/*
 * Asks. The answers, until the next call of kpod_statfs_batch(); if there are fewer than mounts,
 * the first without one did not answer in time, and those after it were not asked.
 */
const struct kpod_statfs_batch *kpod_statfs_ask(struct kpod_statfs *s);

#endif
