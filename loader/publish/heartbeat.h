/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The heartbeat of the segment, in a thread of its own, so that a long snapshot does not look like
 * a loader that is gone. It stops when the loop has not come round for KPOD_HANG_NS: then the
 * loader hangs, and readers are to say so. Knows base/clock.h and the segment.
 */
#ifndef KPOD_LOADER_PUBLISH_HEARTBEAT_H
#define KPOD_LOADER_PUBLISH_HEARTBEAT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct kpod_header;

#define KPOD_BEAT_NS 1000000000ULL
#define KPOD_HANG_NS (15 * KPOD_BEAT_NS)

struct kpod_heartbeat {
	pthread_mutex_t lock; /* of all below; held for a few instructions only */
	pthread_cond_t changed;
	pthread_t thread;
	struct kpod_header *header; /* NULL: there is no segment */
	uint64_t busy_since_ns;	    /* the loop's; 0: it waits */
	bool runs, stop;
};

/* Starts the thread. Returns 0 or -errno. */
int kpod_heartbeat_open(struct kpod_heartbeat *h);
void kpod_heartbeat_close(struct kpod_heartbeat *h);

/* The segment whose heart beats from now on, and at once; NULL: none, and the last may go. */
void kpod_heartbeat_of(struct kpod_heartbeat *h, struct kpod_header *header);

/* The loop works since then; 0: it waits for something to do. */
void kpod_heartbeat_busy(struct kpod_heartbeat *h, uint64_t since_ns);

#endif
