/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The writing end of the segment: one process, one thread, never waits for a reader.
 *
 * Functions return 0 or -errno and print nothing.
 */
#ifndef KPOD_WRITER_H
#define KPOD_WRITER_H

#include <limits.h>

#include "abi.h"

struct kpod_writer {
	char path[PATH_MAX];
	char building[PATH_MAX]; /* the temporary name, empty once published */
	struct kpod_header *header;
	uint64_t *ring;
	size_t size;
	uint64_t capacity;
	uint64_t tail;	   /* where the next record goes */
	uint64_t begin;	   /* of the snapshot being written */
	uint64_t sequence; /* of the last complete snapshot */
	uint32_t records;
	uint32_t crc;
};

struct kpod_segment_options {
	const char *path;
	const void *schema;
	size_t schema_size;
	uint64_t ring_capacity; /* bytes, power of two, KPOD_RING_MIN … KPOD_RING_MAX */
	uint64_t interval_ns;
	uint64_t stale_after_ns;
	uint64_t start_monotonic_ns; /* of the loader */
	uint64_t start_realtime_ns;
	uint64_t sequence; /* of the last snapshot of the segment this one replaces, or 0 */
};

/*
 * Makes a segment under a temporary name beside options->path; nobody sees it before
 * kpod_writer_publish(). -EINVAL on a bad capacity, else what open, posix_fallocate, mmap return.
 */
int kpod_writer_open(struct kpod_writer *w, const struct kpod_segment_options *options);

/* Renames it into place. The segment must hold a complete snapshot by then: -EPROTO if not. */
int kpod_writer_publish(struct kpod_writer *w);

/*
 * One snapshot: begin, any number of slots and rows, end. Nothing of it is visible before end.
 * -ENOSPC: it takes over half of the ring, so a reader might never catch a whole one; make a larger
 * segment and write it again. The writer stays usable: the next begin starts over.
 */
int kpod_writer_begin(struct kpod_writer *w, uint64_t monotonic_ns, uint64_t realtime_ns);
int kpod_writer_slot(struct kpod_writer *w, const struct kpod_slot *slot, const char *path);
int kpod_writer_row(struct kpod_writer *w, uint16_t table, uint32_t slot, uint32_t generation,
		    const uint64_t *words, size_t count);
int kpod_writer_end(struct kpod_writer *w);

void kpod_writer_heartbeat(struct kpod_writer *w, uint64_t monotonic_ns);

/* Marks it CLOSED, unmaps it and, unless another segment took its name, removes the file. */
void kpod_writer_close(struct kpod_writer *w);

/* Unmaps it and leaves the file: another segment has been renamed over it. */
void kpod_writer_abandon(struct kpod_writer *w);

#endif
