/* SPDX-License-Identifier: Apache-2.0 */
/*
 * When a snapshot is taken: soon after somebody has rung, never two within --min-interval, and at
 * the latest after --interval.
 *
 * To ring is to open the doorbell, a file beside the segment, for reading. The loader is told by
 * inotify and reads nothing; a reader of the segment needs no right to write. The loader listens
 * only while it may take a snapshot, so a flood of rings wakes it once in --min-interval, however
 * many there are: until somebody reads them, the kernel merges equal events into one
 * (inotify_merge() in fs/notify/inotify/inotify_fsnotify.c).
 *
 * Knows base/clock.h and shared/abi.h.
 */
#ifndef KPOD_LOADER_PUBLISH_PACER_H
#define KPOD_LOADER_PUBLISH_PACER_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Without a doorbell nobody can ask, and when slots are short they are given back by snapshots
 * only: then snapshots are at most so far apart. */
#define KPOD_HURRY_INTERVAL_NS 10000000000ULL

struct kpod_pacer {
	uint64_t min_interval_ns, interval_ns;
	uint64_t begun_ns;    /* the last snapshot; 0: there was none */
	uint64_t earliest_ns; /* no snapshot is taken before */
	uint64_t rung;	      /* snapshots that somebody has rung for */
	int epoll;	      /* the loop's */
	int timer, inotify;   /* descriptors */
	bool listening;	      /* the loop waits for rings */
	bool hurry;	      /* set by the loop: slots are short */
	ino_t inode;	      /* of the doorbell */
	char path[PATH_MAX];  /* of the doorbell */
};

/*
 * Makes the doorbell and joins the loop's epoll. Returns 0, or -errno if there is nothing to keep
 * time with. Without a doorbell it works by time alone; kpod_pacer_doorbell() says why.
 */
int kpod_pacer_open(struct kpod_pacer *p, int epoll, const char *segment, uint64_t min_interval_ns,
		    uint64_t interval_ns);
void kpod_pacer_close(struct kpod_pacer *p);

/* Makes the doorbell if there is none, or another than ours. Returns 0 or -errno. */
int kpod_pacer_doorbell(struct kpod_pacer *p);

/* What the loop has woken for: `fd` is one of ours, and a snapshot is due now. */
bool kpod_pacer_is_due(struct kpod_pacer *p, int fd, uint64_t now_ns);

/* A snapshot was taken, or tried. Rings until now are answered by it. */
void kpod_pacer_taken(struct kpod_pacer *p, uint64_t begun_ns, uint64_t ended_ns);

#endif
