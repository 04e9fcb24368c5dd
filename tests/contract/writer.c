/* SPDX-License-Identifier: Apache-2.0 */
/*
 * writer SEGMENT SCHEMA SLOTS WORDS: one snapshot after the other, as fast as it can, until stdin
 * ends. In snapshot n, word i of every row is n * (i + 1).
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../shared/writer.h"

static uint64_t started; /* CLOCK_REALTIME */

static uint64_t now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int write_snapshot(struct kpod_writer *w, uint64_t n, uint32_t slots, uint32_t words)
{
	uint64_t row[words];
	int err = kpod_writer_begin(w, now(CLOCK_MONOTONIC), now(CLOCK_REALTIME));

	for (uint32_t i = 0; i < words; i++)
		row[i] = n * (i + 1);
	for (uint32_t s = 0; s < slots && !err; s++) {
		char path[32];
		struct kpod_slot slot = {.slot = s,
					 .generation = 1,
					 .cgroup_id = 100 + s,
					 .kind = 1,
					 .counted_ns = started,
					 .cgroup_ns = started,
					 .network_ns = started};

		slot.path_size = (uint32_t)snprintf(path, sizeof(path), "%u.service", s);
		err = kpod_writer_slot(w, &slot, path);
	}
	for (uint32_t s = 0; s < slots && !err; s++)
		err = kpod_writer_row(w, 0, s, 1, row, words);
	return err ? err : kpod_writer_end(w);
}

int main(int argc, char **argv)
{
	static char schema[65536];
	struct pollfd in = {.fd = 0};
	struct kpod_writer w;
	struct kpod_segment_options options = {
		.path = argv[1],
		.schema = schema,
		.ring_capacity = 1 << 17,
		.interval_ns = 1000000000,
		.stale_after_ns = 1000000000000000,
		.start_monotonic_ns = now(CLOCK_MONOTONIC),
		.start_realtime_ns = started = now(CLOCK_REALTIME),
	};
	uint32_t slots, words;
	ssize_t size;
	int fd, err;

	if (argc != 5)
		return 2;
	slots = (uint32_t)atoi(argv[3]);
	words = (uint32_t)atoi(argv[4]);
	fd = open(argv[2], O_RDONLY);
	size = read(fd, schema, sizeof(schema));
	if (size <= 0)
		return 2;
	options.schema_size = (size_t)size;
	err = kpod_writer_open(&w, &options);
	if (!err)
		err = write_snapshot(&w, 1, slots, words);
	if (!err)
		err = kpod_writer_publish(&w);
	for (uint64_t n = 2; !err && !poll(&in, 1, 0); n++)
		err = write_snapshot(&w, n, slots, words);
	if (err) {
		fprintf(stderr, "writer: %s\n", strerror(-err));
		return 1;
	}
	kpod_writer_close(&w);
	return 0;
}
