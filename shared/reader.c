/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "reader.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "barrier.h"
#include "crc32c.h"

#define LAPS_MAX 1000

const char *kpod_state_name(enum kpod_reader_state state)
{
	static const char *const names[] = {
#define X(id, name, help) [KPOD_##id] = name,
		KPOD_READER_STATES(X)
#undef X
	};

	return names[state];
}

const char *kpod_fault_text(enum kpod_fault fault)
{
	static const char *const texts[] = {
#define X(id, number, help) [number] = help,
		KPOD_FAULTS(X)
#undef X
	};

	return texts[fault];
}

/*
 * Touching a mapped page beyond the end of a file that somebody truncated raises SIGBUS, and no
 * check beforehand excludes it. So every access to the mapping is made inside one guarded copy;
 * the handler belongs to the process, and faults that are not ours go to whoever had it before.
 */
static __thread sigjmp_buf bus_return;
static __thread volatile sig_atomic_t bus_expected;
static struct sigaction bus_before;

static void on_bus(int number, siginfo_t *info, void *context)
{
	if (bus_expected)
		siglongjmp(bus_return, 1);
	if (bus_before.sa_flags & SA_SIGINFO)
		bus_before.sa_sigaction(number, info, context);
	else if (bus_before.sa_handler != SIG_DFL && bus_before.sa_handler != SIG_IGN)
		bus_before.sa_handler(number);
	else
		sigaction(number, &bus_before, NULL); /* the access repeats and ends the process */
}

__attribute__((constructor)) static void catch_bus(void)
{
	struct sigaction action = {.sa_sigaction = on_bus, .sa_flags = SA_SIGINFO | SA_NODEFER};

	sigemptyset(&action.sa_mask);
	sigaction(SIGBUS, &action, &bus_before);
}

/* All multiples of 8. False if the file no longer has these bytes. */
static bool copy_guarded(void *to, const void *from, size_t size)
{
	bool ok = false;

	if (!sigsetjmp(bus_return, 0)) {
		bus_expected = 1;
		kpod_copy_from_ring(to, from, size);
		ok = true;
	}
	bus_expected = 0;
	return ok;
}

void kpod_reader_init(struct kpod_reader *r, const char *path)
{
	memset(r, 0, sizeof(*r));
	snprintf(r->path, sizeof(r->path), "%s", path);
	r->state = KPOD_ABSENT;
	r->fd = -1;
}

static void drop_snapshot(struct kpod_reader *r)
{
	r->end = 0;
	r->size = 0;
}

void kpod_reader_close(struct kpod_reader *r)
{
	if (r->map)
		munmap((void *)r->map, r->header.segment_size);
	if (r->fd >= 0)
		close(r->fd);
	free(r->schema);
	free(r->data);
	r->map = NULL;
	r->fd = -1;
	r->schema = NULL;
	r->data = NULL;
	r->room = 0;
	drop_snapshot(r);
}

void kpod_reader_reject(struct kpod_reader *r, enum kpod_fault fault)
{
	drop_snapshot(r);
	r->fault = fault;
	r->state = KPOD_INCOMPATIBLE;
}

/* The one bounds check: [offset, offset + size) lies in [0, limit), without overflow. */
static bool within(uint64_t offset, uint64_t size, uint64_t limit)
{
	return size <= limit && offset <= limit - size;
}

static enum kpod_fault check_header(const struct kpod_header *h, uint64_t file_size)
{
	if (h->magic != KPOD_MAGIC)
		return KPOD_FAULT_MAGIC;
	if (h->abi_major != KPOD_ABI_MAJOR)
		return KPOD_FAULT_ABI;
	if (h->header_crc != kpod_crc32c(0, h, offsetof(struct kpod_header, header_crc)))
		return KPOD_FAULT_HEADER_CRC;
	if (h->layout_digest != kpod_layout_digest() || h->header_size != KPOD_HEADER_SIZE)
		return KPOD_FAULT_LAYOUT;
	if (h->segment_size > file_size)
		return KPOD_FAULT_TRUNCATED;
	if (h->schema_offset % 8 || h->schema_offset < KPOD_HEADER_SIZE ||
	    !within(h->schema_offset, ((uint64_t)h->schema_size + 7) & ~7ULL, h->segment_size))
		return KPOD_FAULT_SCHEMA_BOUNDS;
	if (h->ring_capacity < KPOD_RING_MIN || h->ring_capacity > KPOD_RING_MAX ||
	    h->ring_capacity & (h->ring_capacity - 1) || h->ring_offset % 4096 ||
	    h->ring_offset < KPOD_HEADER_SIZE ||
	    !within(h->ring_offset, h->ring_capacity, h->segment_size))
		return KPOD_FAULT_RING_BOUNDS;
	return KPOD_FAULT_NONE;
}

static enum kpod_fault map_segment(struct kpod_reader *r, int fd)
{
	size_t schema_room;
	struct stat st;
	void *map;
	enum kpod_fault fault;

	if (fstat(fd, &st) || !S_ISREG(st.st_mode))
		return KPOD_FAULT_UNREADABLE;
	r->device = st.st_dev;
	r->inode = st.st_ino;
	if (st.st_size < KPOD_HEADER_SIZE)
		return KPOD_FAULT_TOO_SHORT;
	if (pread(fd, &r->header, sizeof(r->header), 0) != (ssize_t)sizeof(r->header))
		return KPOD_FAULT_UNREADABLE;
	fault = check_header(&r->header, (uint64_t)st.st_size);
	if (fault)
		return fault;

	map = mmap(NULL, r->header.segment_size, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		return KPOD_FAULT_UNREADABLE;
	r->map = map;
	schema_room = ((size_t)r->header.schema_size + 7) & ~(size_t)7;
	r->schema = malloc(schema_room ? schema_room : 8);
	if (!r->schema)
		return KPOD_FAULT_MEMORY;
	if (!copy_guarded(r->schema, (char *)map + r->header.schema_offset, schema_room))
		return KPOD_FAULT_TRUNCATED;
	if (kpod_crc32c(0, r->schema, r->header.schema_size) != r->header.schema_crc)
		return KPOD_FAULT_SCHEMA_CRC;
	return KPOD_FAULT_NONE;
}

static enum kpod_reader_state open_segment(struct kpod_reader *r)
{
	int fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0) {
		if (errno == ENOENT || errno == ENOTDIR)
			return KPOD_ABSENT;
		r->fault = KPOD_FAULT_UNREADABLE;
		return KPOD_INCOMPATIBLE;
	}
	r->fault = map_segment(r, fd);
	if (r->fault) {
		close(fd);
		kpod_reader_close(r);
		return KPOD_INCOMPATIBLE;
	}
	r->fd = fd;
	return KPOD_LIVE;
}

/* Walks the private copy. Everything in it is checked here, once; users may then trust it. */
static enum kpod_fault check_snapshot(struct kpod_reader *r, const struct kpod_end *end)
{
	const char *base = (const char *)r->data;
	size_t limit = r->size - sizeof(*end);
	uint32_t crc = 0, records = 0;

	for (size_t at = 0; at < limit;) {
		const struct kpod_record *rec = (const void *)(base + at);
		size_t least = sizeof(*rec);

		if (rec->size < sizeof(*rec) || rec->size % KPOD_RECORD_ALIGN ||
		    !within(at, rec->size, limit))
			return KPOD_FAULT_RECORD_SIZE;
		at += rec->size;
		if (rec->type == KPOD_RECORD_PAD) {
			if ((r->begin + at) & (r->header.ring_capacity - 1))
				return KPOD_FAULT_RECORD_SIZE;
			continue;
		}
		if ((rec->type == KPOD_RECORD_BEGIN) != (records == 0))
			return KPOD_FAULT_RECORD_TYPE;
		switch (rec->type) {
		case KPOD_RECORD_BEGIN:
			least = sizeof(struct kpod_begin);
			break;
		case KPOD_RECORD_SLOT:
			least = sizeof(struct kpod_slot);
			break;
		case KPOD_RECORD_ROW:
			least = sizeof(struct kpod_row);
			break;
		default:
			return KPOD_FAULT_RECORD_TYPE;
		}
		if (rec->size < least)
			return KPOD_FAULT_RECORD_SIZE;
		if (rec->type == KPOD_RECORD_BEGIN) {
			const struct kpod_begin *begin = (const void *)rec;

			if (begin->sequence != end->sequence)
				return KPOD_FAULT_SEQUENCE;
			r->monotonic_ns = begin->monotonic_ns;
			r->realtime_ns = begin->realtime_ns;
		} else if (rec->type == KPOD_RECORD_SLOT) {
			const struct kpod_slot *slot = (const void *)rec;

			if (slot->path_size > KPOD_PATH_MAX ||
			    rec->size != sizeof(*slot) + ((slot->path_size + 7u) & ~7u))
				return KPOD_FAULT_RECORD_SIZE;
		} else if (rec->table >= KPOD_TABLES_MAX) {
			return KPOD_FAULT_RECORD_TYPE;
		}
		records++;
		crc = kpod_crc32c(crc, rec, rec->size);
	}
	if (records != end->records)
		return KPOD_FAULT_RECORD_COUNT;
	return crc == end->crc ? KPOD_FAULT_NONE : KPOD_FAULT_SNAPSHOT_CRC;
}

static enum kpod_fault make_room(struct kpod_reader *r, size_t size)
{
	uint64_t *data;

	if (size <= r->room)
		return KPOD_FAULT_NONE;
	size += size / 8;
	free(r->data); /* its content is about to be replaced: no realloc */
	r->room = 0;
	r->data = data = malloc(size);
	if (!data)
		return KPOD_FAULT_MEMORY;
	r->room = size;
	return KPOD_FAULT_NONE;
}

/* One attempt; a lapped one leaves r->end at 0 and is no fault, whatever it saw meanwhile. */
static enum kpod_fault copy_snapshot(struct kpod_reader *r, uint64_t published)
{
	const uint64_t *ring = (const uint64_t *)((const char *)r->map + r->header.ring_offset);
	uint64_t capacity = r->header.ring_capacity, mask = capacity - 1;
	uint64_t at = (published - sizeof(struct kpod_end)) & mask, offset, first, intent;
	struct kpod_end end;
	enum kpod_fault fault = KPOD_FAULT_NONE;

	drop_snapshot(r);
	if (published < sizeof(end) || published % KPOD_RECORD_ALIGN ||
	    !within(at, sizeof(end), capacity))
		return KPOD_FAULT_POSITION;
	kpod_fence_loads(); /* [publish] */
	if (!copy_guarded(&end, ring + at / 8, sizeof(end)))
		return KPOD_FAULT_TRUNCATED;
	if (end.record.type != KPOD_RECORD_END || end.record.size != sizeof(end) ||
	    end.record.table || end.begin % KPOD_RECORD_ALIGN ||
	    end.begin > published - sizeof(end) || published - end.begin > capacity) {
		fault = KPOD_FAULT_END;
		end.begin = published - sizeof(end);
	} else {
		fault = make_room(r, published - end.begin);
	}
	if (!fault) {
		r->begin = end.begin;
		r->size = published - end.begin;
		offset = end.begin & mask;
		first = r->size < capacity - offset ? r->size : capacity - offset;
		if (!copy_guarded(r->data, ring + offset / 8, first) ||
		    !copy_guarded(r->data + first / 8, ring, r->size - first))
			return KPOD_FAULT_TRUNCATED;
	}
	kpod_fence_loads(); /* [intent] */
	if (!copy_guarded(&intent, &r->map->intent, sizeof(intent)))
		return KPOD_FAULT_TRUNCATED;
	if (intent - end.begin > capacity) {
		r->laps++;
		r->size = 0;
		return KPOD_FAULT_NONE;
	}
	if (!fault)
		fault = check_snapshot(r, &end);
	if (!fault) {
		r->end = published;
		r->sequence = end.sequence;
	}
	return fault;
}

static bool is_stale(const struct kpod_reader *r, const struct kpod_header *hot,
		     uint64_t monotonic_ns)
{
	return monotonic_ns > hot->heartbeat &&
	       monotonic_ns - hot->heartbeat > r->header.stale_after_ns;
}

static bool is_replaced(const struct kpod_reader *r)
{
	struct stat st;

	return !stat(r->path, &st) && (st.st_ino != r->inode || st.st_dev != r->device);
}

bool kpod_reader_has_news(const struct kpod_reader *r, uint64_t monotonic_ns)
{
	struct kpod_header hot;

	if (!r->map || is_replaced(r) || !copy_guarded(&hot, r->map, sizeof(hot)) ||
	    hot.state != KPOD_SEGMENT_READY)
		return true;
	return is_stale(r, &hot, monotonic_ns) != (r->state == KPOD_STALE) ||
	       (r->state == KPOD_LIVE && hot.published != r->end);
}

enum kpod_reader_state kpod_reader_refresh(struct kpod_reader *r, uint64_t monotonic_ns)
{
	struct kpod_header hot;
	struct stat st;

	if (!r->map) {
		r->state = open_segment(r);
		if (r->state != KPOD_LIVE)
			return r->state;
	} else if (is_replaced(r)) {
		kpod_reader_close(r);
		return r->state = KPOD_REPLACED;
	}

	r->fault = KPOD_FAULT_NONE;
	r->state = KPOD_LIVE;
	/* A file somebody cut is refused at once, not when the missing part is first needed. */
	if (fstat(r->fd, &st) || (uint64_t)st.st_size < r->header.segment_size ||
	    !copy_guarded(&hot, r->map, sizeof(hot))) {
		kpod_reader_reject(r, KPOD_FAULT_TRUNCATED);
		return r->state;
	}
	if (hot.state == KPOD_SEGMENT_CLOSED)
		r->state = KPOD_CLOSED;
	else if (hot.state != KPOD_SEGMENT_READY)
		kpod_reader_reject(r, KPOD_FAULT_STATE);
	else if (is_stale(r, &hot, monotonic_ns))
		r->state = KPOD_STALE;
	if (r->state != KPOD_LIVE) {
		drop_snapshot(r);
		return r->state;
	}

	for (int i = 0; i < LAPS_MAX; i++) {
		uint64_t published;
		enum kpod_fault fault;

		if (!copy_guarded(&published, &r->map->published, sizeof(published))) {
			kpod_reader_reject(r, KPOD_FAULT_TRUNCATED);
			break;
		}
		if (published && published == r->end)
			break;
		fault = copy_snapshot(r, published);
		if (fault)
			kpod_reader_reject(r, fault);
		if (fault || r->end)
			break;
	}
	return r->state;
}

const struct kpod_record *kpod_reader_next(const struct kpod_reader *r,
					   const struct kpod_record *previous)
{
	const char *base = (const char *)r->data;
	size_t at = previous ? (size_t)((const char *)previous - base) + previous->size : 0;

	while (r->data && r->end && at < r->size - sizeof(struct kpod_end)) {
		const struct kpod_record *rec = (const void *)(base + at);

		if (rec->type == KPOD_RECORD_SLOT || rec->type == KPOD_RECORD_ROW)
			return rec;
		at += rec->size;
	}
	return NULL;
}

uint64_t *kpod_reader_take(struct kpod_reader *r)
{
	uint64_t *data = r->data;

	r->data = NULL;
	r->room = 0;
	return data;
}
