/* SPDX-License-Identifier: Apache-2.0 */
/* What the C tests share: cmocka, and a segment that anyone can check. */
#ifndef KPOD_TEST_H
#define KPOD_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "reader.h"
#include "writer.h"

#define SECOND 1000000000ULL

static inline uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

/* A path of this test program's own (its children's too), on tmpfs as in real life. */
static inline const char *segment_path(void)
{
	static char path[64];

	if (!path[0])
		snprintf(path, sizeof(path), "/dev/shm/kpod-test-c.%d", (int)getpid());
	return path;
}

static inline int open_writer(struct kpod_writer *w, const char *path, uint64_t capacity)
{
	struct kpod_segment_options o = {
		.path = path,
		.schema = "schema",
		.schema_size = 6,
		.ring_capacity = capacity,
		.interval_ns = SECOND,
		.stale_after_ns = 60 * SECOND,
	};

	return kpod_writer_open(w, &o);
}

/* Snapshot n: 1 + n % 3 slots, each with a row whose words all are n. */
static inline int write_numbered(struct kpod_writer *w, uint64_t n)
{
	uint64_t words[40];
	int err = kpod_writer_begin(w, n, n);

	for (size_t i = 0; i < 40; i++)
		words[i] = n;
	for (uint32_t i = 0; !err && i <= n % 3; i++) {
		struct kpod_slot slot = {.slot = i, .cgroup_id = n, .path_size = (uint32_t)n % 20};

		err = kpod_writer_slot(w, &slot, "0123456789abcdefghij");
	}
	for (uint32_t i = 0; !err && i <= n % 3; i++)
		err = kpod_writer_row(w, 0, i, 0, words, 40);
	return err ? err : kpod_writer_end(w);
}

/* The number of the snapshot held; fails if it is not one whole snapshot of write_numbered(). */
static inline uint64_t check_numbered(const struct kpod_reader *r)
{
	const struct kpod_record *rec = NULL;
	uint64_t n = r->monotonic_ns, slots = 0, rows = 0;

	while ((rec = kpod_reader_next(r, rec))) {
		const uint64_t *words = (const uint64_t *)((const struct kpod_row *)rec + 1);

		if (rec->type == KPOD_RECORD_SLOT) {
			assert_true(((const struct kpod_slot *)rec)->cgroup_id == n);
			slots++;
			continue;
		}
		assert_int_equal(rec->size, sizeof(struct kpod_row) + 40 * 8);
		for (size_t i = 0; i < 40; i++)
			assert_true(words[i] == n);
		rows++;
	}
	assert_int_equal(slots, n % 3 + 1);
	assert_int_equal(rows, n % 3 + 1);
	return n;
}

#endif
