/* SPDX-License-Identifier: Apache-2.0 */
/*
 * statfs() of containers' volumes by threads that may hang, as a dead NFS server's or a FUSE server
 * that does not answer makes them.
 *
 * A volume is a directory of a file system: device and root, as mountinfo names them. Two mounts of
 * one volume give the same numbers, so it is asked once in a pass, through any container that has
 * it. Of a device alone that is not true: a project quota (ext4, XFS, CephFS) belongs to a
 * directory.
 *
 * At most KPOD_STATFS_PER_CONTAINER threads work for a container and for a device at a time, so
 * what hangs costs its own container's volumes only. Answers are kept with the time at which they
 * came.
 */
#ifndef KPOD_LOADER_SOURCES_STATFS_H
#define KPOD_LOADER_SOURCES_STATFS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/statfs.h>

#include "base/parse.h"

#define KPOD_STATFS_THREADS 64
#define KPOD_STATFS_IDLE_THREADS 2 /* that wait for the next pass */
#define KPOD_STATFS_PER_CONTAINER 2
#define KPOD_STATFS_MOUNTS 32  /* of a container */
#define KPOD_STATFS_POINT 1024 /* bytes of a mount point or root, with its NUL */
#define KPOD_STATFS_DEVICE 48
#define KPOD_STATFS_STUCK_NS 1000000000ULL /* without an answer, a thread hangs */

struct kpod_statfs;	/* the threads, and what they have been told */
struct kpod_statfs_map; /* all containers' mounts, as one pass finds them */

/* A process of a container, through which its mounts are seen. */
struct kpod_statfs_container {
	uint32_t slot, generation;
	uint32_t pid;
	uint64_t start_ns; /* of the process: another may get its number */
};

struct kpod_statfs_values {
	uint64_t size, available, free; /* bytes; the others are at most size */
	uint64_t inodes, inodes_free;	/* inodes 0: the file system does not say */
};

/*
 * What statfs() said, made true: CephFS knows no inodes and says that all of 2^64 are free, a file
 * system that is over its reserve says that less than none is available, and on some more is free
 * than there is.
 */
struct kpod_statfs_values kpod_statfs_values(const struct statfs *said);

/* What is known of a mount. */
enum kpod_statfs_state {
	KPOD_STATFS_ANSWERED, /* `values` are true and new enough */
	KPOD_STATFS_FAILED,   /* open() or statfs() said `err`; -ENOENT: another mount hides it */
	KPOD_STATFS_WAITING,  /* asked, without an answer for KPOD_ANSWER_AGE_MAX_NS */
	KPOD_STATFS_UNASKED,  /* as the threads that may ask it wait for others */
};

struct kpod_statfs_seen {
	uint32_t slot, generation;
	const char *point; /* below the process's root */
	enum kpod_statfs_state state;
	int err;
	struct kpod_statfs_values values;
};

/* `look` opens a container's directory in /proc: a descriptor (O_PATH) or -errno. It is called by
 * the threads. NULL: no memory. */
struct kpod_statfs *
kpod_statfs_new(int (*look)(void *context, const struct kpod_statfs_container *c), void *context);

/* Ends the threads. False: some hang, and `look` and its context must stay for good. */
bool kpod_statfs_free(struct kpod_statfs *s);

/* A new pass: containers in the order of their slots, and after each its mounts. */
struct kpod_statfs_map *kpod_statfs_map_new(void);
void kpod_statfs_map_free(struct kpod_statfs_map *map);
bool kpod_statfs_map_container(struct kpod_statfs_map *map, const struct kpod_statfs_container *c);

/* `hidden`: another mount is over it, so it is not asked and not shown. -E2BIG: the container has
 * too many; -ENAMETOOLONG: its mount point is too long; -ENOMEM. */
int kpod_statfs_map_mount(struct kpod_statfs_map *map, const struct kpod_mount *mount, bool hidden);

/* Asks all of the map, which is taken over, and keeps what is known of it already. */
void kpod_statfs_ask(struct kpod_statfs *s, struct kpod_statfs_map *map);

/* Whether there is nothing that could be asked or waited for; sees to it that there are threads.
 * Waits a little before it says no. */
bool kpod_statfs_is_settled(struct kpod_statfs *s);

/* Shows all mounts, in the order in which they were added. Never waits for a file system. */
void kpod_statfs_visit(struct kpod_statfs *s,
		       void (*visit)(void *context, const struct kpod_statfs_seen *seen),
		       void *context);

#endif
