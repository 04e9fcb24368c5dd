/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The segment: the one contract between loader and aggregator.
 *
 * A single tmpfs file, written by one process and mapped read-only by any number of others.
 * shared/README.md is the byte-level specification; tests/contract compares it with this file.
 * Integers are little-endian and naturally aligned. Ring positions are absolute byte counts since
 * the segment was made (they never wrap); the capacity is a power of two.
 */
#ifndef KPOD_ABI_H
#define KPOD_ABI_H

#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the segment is little-endian"
#endif

#define KPOD_MAGIC 0x00474553444f504bULL /* "KPODSEG\0" */
#define KPOD_ABI_MAJOR 1		 /* differs: the reader refuses */
#define KPOD_ABI_MINOR 0		 /* grows when fields are added in reserved space */

#define KPOD_HEADER_SIZE 4096
#define KPOD_RECORD_ALIGN 8
#define KPOD_RING_MIN (64u << 10)
#define KPOD_RING_MAX (1u << 30)
#define KPOD_PATH_MAX 512
#define KPOD_TABLES_MAX 64
#define KPOD_DOORBELL_SUFFIX ".doorbell" /* of its path: to open it asks for a snapshot */

enum kpod_segment_state {
	KPOD_SEGMENT_READY = 1,
	KPOD_SEGMENT_CLOSED = 2, /* the loader stopped on purpose */
};

/*
 * Written once, then immutable and covered by header_crc, up to and excluding that field. The words
 * after it change while the segment lives; each has a cache line of its own.
 */
struct kpod_header {
	uint64_t magic;
	uint16_t abi_major;
	uint16_t abi_minor;
	uint32_t header_size;
	uint64_t layout_digest; /* kpod_layout_digest() of the writer */
	uint64_t generation;	/* differs between any two segments; grows */
	uint64_t start_realtime_ns;
	uint64_t start_monotonic_ns; /* of the loader, not of this segment */
	uint64_t interval_ns;	     /* between snapshots */
	uint64_t stale_after_ns;     /* heartbeat older than this: the loader is gone */
	uint64_t schema_offset;
	uint32_t schema_size;
	uint32_t schema_crc; /* CRC32C of the MessagePack document */
	uint64_t ring_offset;
	uint64_t ring_capacity;
	uint64_t segment_size;
	uint32_t header_crc; /* CRC32C of the bytes before */

	_Alignas(64) uint64_t state;	 /* enum kpod_segment_state */
	_Alignas(64) uint64_t heartbeat; /* CLOCK_MONOTONIC ns, about once a second */
	_Alignas(64) uint64_t intent;	 /* no byte of the ring at or after this was touched */
	_Alignas(64) uint64_t published; /* end of the last complete snapshot, 0 if none */
};

enum kpod_record_type {
	KPOD_RECORD_PAD = 1,   /* to the end of the ring; only the first 8 bytes are written */
	KPOD_RECORD_BEGIN = 2, /* struct kpod_begin */
	KPOD_RECORD_SLOT = 3,  /* struct kpod_slot */
	KPOD_RECORD_ROW = 4,   /* struct kpod_row */
	KPOD_RECORD_END = 5,   /* struct kpod_end */
};

/* Every record starts with this, at an 8-aligned position, and never crosses the ring's end. */
struct kpod_record {
	uint32_t size; /* of the whole record, a multiple of 8 */
	uint16_t type;
	uint16_t table; /* of a ROW: index into the schema's tables; else 0 */
};

struct kpod_begin {
	struct kpod_record record;
	uint64_t sequence; /* 1, 2, 3, … within one loader's life */
	uint64_t monotonic_ns;
	uint64_t realtime_ns;
};

/* One live or lately dead slot: a container, a unit, or (slot 0) everything else. */
struct kpod_slot {
	struct kpod_record record;
	uint32_t slot;
	uint32_t generation; /* differs between two owners of one slot */
	uint64_t cgroup_id;
	uint64_t born_ns; /* CLOCK_MONOTONIC; of the loader's start if older than it */
	uint64_t died_ns; /* 0 while it lives */
	uint32_t kind;	  /* enum kpod_cgroup_kind, bpf/classify.h */
	uint32_t path_size;
	/* CLOCK_REALTIME as the clock stands now, so they move when it is set. Since when … */
	uint64_t counted_ns; /* … the loader has counted for the slot */
	uint64_t cgroup_ns;  /* … the cgroup is there, and the kernel has counted for it */
	uint64_t network_ns; /* … its network interfaces may have been there */
	/* path_size bytes, path below the cgroup2 root, no NUL; then zeros to the alignment */
};

/* Of a counter or gauge: there is no value, and no sample is to be made of it. */
#define KPOD_NO_VALUE UINT64_MAX

/* Absolute totals of one slot in one table: never deltas. */
struct kpod_row {
	struct kpod_record record;
	uint32_t slot;
	uint32_t generation;
	/* the table's key words, then its value words, 8 bytes each */
};

struct kpod_end {
	struct kpod_record record;
	uint64_t begin; /* position of the snapshot's BEGIN */
	uint64_t sequence;
	uint32_t records; /* BEGIN, SLOTs and ROWs; not PADs, not END */
	uint32_t crc;	  /* CRC32C of those records in order */
};

/* Every field a reader may touch; the digest, the specification and its test are made from it. */
#define KPOD_ABI_FIELDS(X)                                                                         \
	X(kpod_header, magic)                                                                      \
	X(kpod_header, abi_major)                                                                  \
	X(kpod_header, abi_minor)                                                                  \
	X(kpod_header, header_size)                                                                \
	X(kpod_header, layout_digest)                                                              \
	X(kpod_header, generation)                                                                 \
	X(kpod_header, start_realtime_ns)                                                          \
	X(kpod_header, start_monotonic_ns)                                                         \
	X(kpod_header, interval_ns)                                                                \
	X(kpod_header, stale_after_ns)                                                             \
	X(kpod_header, schema_offset)                                                              \
	X(kpod_header, schema_size)                                                                \
	X(kpod_header, schema_crc)                                                                 \
	X(kpod_header, ring_offset)                                                                \
	X(kpod_header, ring_capacity)                                                              \
	X(kpod_header, segment_size)                                                               \
	X(kpod_header, header_crc)                                                                 \
	X(kpod_header, state)                                                                      \
	X(kpod_header, heartbeat)                                                                  \
	X(kpod_header, intent)                                                                     \
	X(kpod_header, published)                                                                  \
	X(kpod_record, size)                                                                       \
	X(kpod_record, type)                                                                       \
	X(kpod_record, table)                                                                      \
	X(kpod_begin, sequence)                                                                    \
	X(kpod_begin, monotonic_ns)                                                                \
	X(kpod_begin, realtime_ns)                                                                 \
	X(kpod_slot, slot)                                                                         \
	X(kpod_slot, generation)                                                                   \
	X(kpod_slot, cgroup_id)                                                                    \
	X(kpod_slot, born_ns)                                                                      \
	X(kpod_slot, died_ns)                                                                      \
	X(kpod_slot, kind)                                                                         \
	X(kpod_slot, path_size)                                                                    \
	X(kpod_slot, counted_ns)                                                                   \
	X(kpod_slot, cgroup_ns)                                                                    \
	X(kpod_slot, network_ns)                                                                   \
	X(kpod_row, slot)                                                                          \
	X(kpod_row, generation)                                                                    \
	X(kpod_end, begin)                                                                         \
	X(kpod_end, sequence)                                                                      \
	X(kpod_end, records)                                                                       \
	X(kpod_end, crc)

struct kpod_abi_field {
	const char *record;
	const char *field;
	uint32_t offset;
	uint32_t size;
};

extern const struct kpod_abi_field kpod_abi_fields[];
extern const size_t kpod_abi_field_count;

/* FNV-1a 64 of "record.field:offset:size\n" over kpod_abi_fields. */
uint64_t kpod_layout_digest(void);

#endif
