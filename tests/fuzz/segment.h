/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a fuzzer's input to a segment: checksums and the END are right unless the input wants them
 * wrong, so that what lies behind them is reached.
 *
 *   u16 size of this part, u8 flags, u8 patches, patches × {u16 offset, u8 value} (header), u16
 * start (in 8 bytes), u16 cut (pages missing at the end), u16 n, n bytes of schema, the rest: ring
 * bytes
 */
#ifndef KPOD_FUZZ_SEGMENT_H
#define KPOD_FUZZ_SEGMENT_H

#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "../../shared/crc32c.h"
#include "../../shared/reader.h"

#define FUZZ_RAW_END 1	    /* the last ring bytes are the END, whatever they say */
#define FUZZ_WRONG_HEADER 2 /* the header's checksum is not made */
#define FUZZ_WRONG_SCHEMA 4
#define FUZZ_SCHEMA_ROOM (64 << 10)
#define FUZZ_RING KPOD_RING_MIN
#define FUZZ_SIZE (KPOD_HEADER_SIZE + FUZZ_SCHEMA_ROOM + FUZZ_RING)
#define FUZZ_NOW 1000000000ULL

struct fuzz_input {
	const uint8_t *at;
	size_t left;
};

static inline void fuzz_take(struct fuzz_input *in, void *to, size_t size)
{
	size_t have = size < in->left ? size : in->left;

	memset(to, 0, size);
	if (have)
		memcpy(to, in->at, have);
	in->at += have;
	in->left -= have;
}

static inline struct fuzz_input fuzz_part(struct fuzz_input *in, size_t size)
{
	struct fuzz_input part = {in->at, size < in->left ? size : in->left};

	in->at += part.left;
	in->left -= part.left;
	return part;
}

static inline uint16_t fuzz_u16(struct fuzz_input *in)
{
	uint16_t v;

	fuzz_take(in, &v, sizeof(v));
	return v;
}

/* The END of these records, counted and summed as far as their sizes make sense. */
static inline struct kpod_end fuzz_end(const uint8_t *records, size_t size)
{
	struct kpod_end end = {.record = {sizeof(end), KPOD_RECORD_END, 0}};
	size_t at = 0;

	while (size - at >= sizeof(struct kpod_record)) {
		struct kpod_record rec;

		memcpy(&rec, records + at, sizeof(rec));
		if (rec.size < sizeof(rec) || rec.size > size - at)
			break;
		if (rec.type == KPOD_RECORD_BEGIN && size - at >= sizeof(struct kpod_begin))
			memcpy(&end.sequence, records + at + 8, sizeof(end.sequence));
		if (rec.type != KPOD_RECORD_PAD) {
			end.crc = kpod_crc32c(end.crc, records + at, rec.size);
			end.records++;
		}
		at += rec.size;
	}
	return end;
}

/*
 * The path of the one segment there is, whose content is now what the next part of the input says.
 * A second part overwrites the first under whoever has it open.
 */
static inline const char *fuzz_segment(struct fuzz_input *input)
{
	static _Alignas(4096) uint8_t image[FUZZ_SIZE];
	static uint8_t records[FUZZ_RING];
	static char path[32];
	static int fd;
	struct kpod_header *h = (void *)image;
	uint8_t *schema = image + KPOD_HEADER_SIZE, *ring = schema + FUZZ_SCHEMA_ROOM;
	struct fuzz_input in = fuzz_part(input, fuzz_u16(input)), patches;
	uint8_t flags, patch_count;
	uint64_t start, cut;
	size_t used;

	if (!fd) {
		fd = memfd_create("kpod-fuzz", MFD_CLOEXEC);
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	}
	memset(image, 0, sizeof(image));
	fuzz_take(&in, &flags, 1);
	fuzz_take(&in, &patch_count, 1);
	patches = fuzz_part(&in, 3 * (size_t)patch_count);
	start = 8ULL * fuzz_u16(&in) % FUZZ_RING;
	cut = 4096ULL * fuzz_u16(&in) % FUZZ_SIZE;
	*h = (struct kpod_header){
		.magic = KPOD_MAGIC,
		.abi_major = KPOD_ABI_MAJOR,
		.header_size = KPOD_HEADER_SIZE,
		.layout_digest = kpod_layout_digest(),
		.stale_after_ns = FUZZ_NOW,
		.schema_offset = KPOD_HEADER_SIZE,
		.schema_size = fuzz_u16(&in),
		.ring_offset = KPOD_HEADER_SIZE + FUZZ_SCHEMA_ROOM,
		.ring_capacity = FUZZ_RING,
		.segment_size = FUZZ_SIZE,
		.state = KPOD_SEGMENT_READY,
		.heartbeat = FUZZ_NOW,
	};
	fuzz_take(&in, schema, h->schema_size);
	h->schema_crc = kpod_crc32c(0, schema, h->schema_size);
	schema[0] ^= !!(flags & FUZZ_WRONG_SCHEMA);

	used = in.left < FUZZ_RING / 2 ? in.left & ~(size_t)7 : FUZZ_RING / 2;
	fuzz_take(&in, records, used);
	if (!(flags & FUZZ_RAW_END)) {
		struct kpod_end end = fuzz_end(records, used);

		used += sizeof(end);
		if ((start + used) % FUZZ_RING < sizeof(end))
			start += sizeof(end); /* it may not be split */
		end.begin = start;
		memcpy(records + used - sizeof(end), &end, sizeof(end));
	}
	for (size_t i = 0; i < used; i++)
		ring[(start + i) % FUZZ_RING] = records[i];
	h->published = h->intent = start + used;
	for (; patch_count; patch_count--) {
		uint16_t offset = fuzz_u16(&patches) % sizeof(*h);

		fuzz_take(&patches, image + offset, 1);
	}
	if (!(flags & FUZZ_WRONG_HEADER))
		h->header_crc = kpod_crc32c(0, h, offsetof(struct kpod_header, header_crc));
	if (pwrite(fd, image, sizeof(image), 0) != sizeof(image) ||
	    ftruncate(fd, (off_t)(FUZZ_SIZE - cut)))
		abort();
	return path;
}

#endif
