/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "barrier.h"
#include "crc32c.h"

#define ALIGN_UP(n, to) (((n) + (to)-1) & ~((uint64_t)(to)-1))

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void fill_header(struct kpod_writer *w, const struct kpod_segment_options *o,
			uint64_t ring_offset)
{
	struct kpod_header *h = w->header;

	*h = (struct kpod_header){
		.magic = KPOD_MAGIC,
		.abi_major = KPOD_ABI_MAJOR,
		.abi_minor = KPOD_ABI_MINOR,
		.header_size = KPOD_HEADER_SIZE,
		.layout_digest = kpod_layout_digest(),
		.generation = clock_ns(CLOCK_REALTIME),
		.start_realtime_ns = o->start_realtime_ns,
		.start_monotonic_ns = o->start_monotonic_ns,
		.interval_ns = o->interval_ns,
		.stale_after_ns = o->stale_after_ns,
		.schema_offset = KPOD_HEADER_SIZE,
		.schema_size = (uint32_t)o->schema_size,
		.schema_crc = kpod_crc32c(0, o->schema, o->schema_size),
		.ring_offset = ring_offset,
		.ring_capacity = w->capacity,
		.segment_size = w->size,
		.state = KPOD_SEGMENT_READY,
		.heartbeat = clock_ns(CLOCK_MONOTONIC),
	};
	h->header_crc = kpod_crc32c(0, h, offsetof(struct kpod_header, header_crc));
	memcpy((char *)h + KPOD_HEADER_SIZE, o->schema, o->schema_size);
}

int kpod_writer_open(struct kpod_writer *w, const struct kpod_segment_options *o)
{
	uint64_t ring_offset = ALIGN_UP(KPOD_HEADER_SIZE + o->schema_size, 4096);
	void *base = MAP_FAILED;
	int fd, err;

	memset(w, 0, sizeof(*w));
	if (o->ring_capacity < KPOD_RING_MIN || o->ring_capacity > KPOD_RING_MAX ||
	    (o->ring_capacity & (o->ring_capacity - 1)) || o->schema_size > UINT32_MAX)
		return -EINVAL;
	if (snprintf(w->path, sizeof(w->path), "%s", o->path) >= (int)sizeof(w->path) ||
	    snprintf(w->building, sizeof(w->building), "%s.building", o->path) >=
		    (int)sizeof(w->building))
		return -ENAMETOOLONG;
	w->capacity = o->ring_capacity;
	w->size = ring_offset + w->capacity;
	w->sequence = o->sequence;

	unlink(w->building); /* of a loader that died while building; there is one writer */
	fd = open(w->building, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
	if (fd < 0)
		return -errno;
	/* A full tmpfs must fail here, not as SIGBUS in the middle of a snapshot. */
	err = -posix_fallocate(fd, 0, (off_t)w->size);
	if (!err && fchmod(fd, 0644))
		err = -errno;
	if (!err) {
		base = mmap(NULL, w->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (base == MAP_FAILED)
			err = -errno;
	}
	close(fd);
	if (err) {
		unlink(w->building);
		w->building[0] = '\0';
		return err;
	}
	w->header = base;
	w->ring = (uint64_t *)((char *)base + ring_offset);
	fill_header(w, o, ring_offset);
	return 0;
}

int kpod_writer_publish(struct kpod_writer *w)
{
	if (!kpod_load(&w->header->published))
		return -EPROTO;
	if (rename(w->building, w->path))
		return -errno;
	w->building[0] = '\0';
	return 0;
}

/* Room for one record of this size; w->tail stands at it afterwards. */
static int reserve(struct kpod_writer *w, size_t size, uint64_t **at)
{
	uint64_t offset = w->tail & (w->capacity - 1);
	uint64_t room = w->capacity - offset;
	uint64_t need = size > room ? room + size : size;

	if (w->tail + need - w->begin > w->capacity / 2)
		return -ENOSPC;
	if (w->tail + need > kpod_load(&w->header->intent))
		kpod_intend(&w->header->intent, w->tail + need); /* [intent] */
	if (size > room) {
		struct kpod_record pad = {(uint32_t)room, KPOD_RECORD_PAD, 0};

		kpod_copy_to_ring(w->ring + offset / 8, &pad, sizeof(pad));
		w->tail += room;
		offset = 0;
	}
	*at = w->ring + offset / 8;
	return 0;
}

/* A record of a fixed head and a tail of raw bytes, which is padded with zeros to 8. */
static int put(struct kpod_writer *w, const void *head, size_t head_size, const void *body,
	       size_t body_size)
{
	size_t whole = body_size & ~(size_t)7;
	size_t size = head_size + ALIGN_UP(body_size, 8);
	uint64_t last = 0, *at;
	int err = reserve(w, size, &at);

	if (err)
		return err;
	kpod_copy_to_ring(at, head, head_size);
	kpod_copy_to_ring(at + head_size / 8, body, whole);
	w->crc = kpod_crc32c(w->crc, head, head_size);
	w->crc = kpod_crc32c(w->crc, body, whole);
	if (whole != body_size) {
		memcpy(&last, (const char *)body + whole, body_size - whole);
		kpod_store(at + (head_size + whole) / 8, last);
		w->crc = kpod_crc32c(w->crc, &last, sizeof(last));
	}
	w->tail += size;
	w->records++;
	return 0;
}

int kpod_writer_begin(struct kpod_writer *w, uint64_t monotonic_ns, uint64_t realtime_ns)
{
	struct kpod_begin begin = {
		.record = {sizeof(begin), KPOD_RECORD_BEGIN, 0},
		.sequence = w->sequence + 1,
		.monotonic_ns = monotonic_ns,
		.realtime_ns = realtime_ns,
	};

	/* Over an abandoned attempt, whose bytes nobody reads: so it never costs the last snapshot.
	 */
	w->tail = kpod_load(&w->header->published);
	w->begin = w->tail;
	w->records = 0;
	w->crc = 0;
	return put(w, &begin, sizeof(begin), NULL, 0);
}

int kpod_writer_slot(struct kpod_writer *w, const struct kpod_slot *slot, const char *path)
{
	struct kpod_slot head = *slot;

	head.record.type = KPOD_RECORD_SLOT;
	head.record.table = 0;
	head.record.size = (uint32_t)(sizeof(head) + ALIGN_UP(head.path_size, 8));
	return put(w, &head, sizeof(head), path, head.path_size);
}

int kpod_writer_row(struct kpod_writer *w, uint16_t table, uint32_t slot, uint32_t generation,
		    const uint64_t *words, size_t count)
{
	struct kpod_row row = {
		.record = {(uint32_t)(sizeof(row) + count * 8), KPOD_RECORD_ROW, table},
		.slot = slot,
		.generation = generation,
	};

	return put(w, &row, sizeof(row), words, count * 8);
}

int kpod_writer_end(struct kpod_writer *w)
{
	struct kpod_end end = {
		.record = {sizeof(end), KPOD_RECORD_END, 0},
		.begin = w->begin,
		.sequence = w->sequence + 1,
		.records = w->records,
		.crc = w->crc,
	};
	uint64_t *at;
	int err = reserve(w, sizeof(end), &at);

	if (err)
		return err;
	kpod_copy_to_ring(at, &end, sizeof(end));
	w->tail += sizeof(end);
	w->sequence++;
	kpod_publish(&w->header->published, w->tail); /* [publish] */
	return 0;
}

void kpod_writer_heartbeat(struct kpod_writer *w, uint64_t monotonic_ns)
{
	kpod_store(&w->header->heartbeat, monotonic_ns);
}

void kpod_writer_abandon(struct kpod_writer *w)
{
	if (w->header)
		munmap(w->header, w->size);
	if (w->building[0])
		unlink(w->building);
	memset(w, 0, sizeof(*w));
}

/* Has the file at this path the segment mapped here? Its generation tells. */
static int still_ours(const struct kpod_writer *w)
{
	struct kpod_header h = {0};
	int fd = open(w->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	ssize_t n;

	if (fd < 0)
		return 0;
	n = pread(fd, &h, sizeof(h), 0);
	close(fd);
	return n == (ssize_t)sizeof(h) && h.magic == KPOD_MAGIC &&
	       h.generation == w->header->generation;
}

void kpod_writer_close(struct kpod_writer *w)
{
	if (!w->header)
		return;
	kpod_store(&w->header->state, KPOD_SEGMENT_CLOSED);
	if (!w->building[0] && still_ours(w))
		unlink(w->path);
	kpod_writer_abandon(w);
}
