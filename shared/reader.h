/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The reading end of the segment: any number of processes, no write access, no trust. Nothing the
 * file holds, and nothing done to it meanwhile, makes the reader crash or return a partial
 * snapshot.
 */
#ifndef KPOD_READER_H
#define KPOD_READER_H

#include <limits.h>
#include <stdbool.h>
#include <sys/types.h>

#include "abi.h"

/* What kpod_reader_refresh() found. Samples exist in state LIVE only. */
#define KPOD_READER_STATES(X)                                                                      \
	X(ABSENT, "absent", "no segment at this path")                                             \
	X(INCOMPATIBLE, "incompatible", "a segment that cannot be read")                           \
	X(LIVE, "live", "the loader runs and a whole snapshot was read")                           \
	X(STALE, "stale", "the loader's heartbeat stopped")                                        \
	X(REPLACED, "replaced", "another segment took its place; refresh again to open it")        \
	X(CLOSED, "closed", "the loader stopped on purpose")

/* Why INCOMPATIBLE. The numbers are stable; tests/contract has one corrupt segment for each. */
#define KPOD_FAULTS(X)                                                                             \
	X(NONE, 0, "no fault")                                                                     \
	X(UNREADABLE, 1, "cannot open or map the file")                                            \
	X(TOO_SHORT, 2, "shorter than a header")                                                   \
	X(MAGIC, 3, "not a kpod segment")                                                          \
	X(ABI, 4, "made for another ABI version")                                                  \
	X(LAYOUT, 5, "same ABI version, different record layout")                                  \
	X(HEADER_CRC, 6, "header checksum is wrong")                                               \
	X(TRUNCATED, 7, "shorter than its header says")                                            \
	X(SCHEMA_BOUNDS, 8, "schema lies outside the file")                                        \
	X(SCHEMA_CRC, 9, "schema checksum is wrong")                                               \
	X(RING_BOUNDS, 10, "ring lies outside the file or its capacity is not a power of two")     \
	X(STATE, 11, "unknown segment state")                                                      \
	X(POSITION, 12, "published position is impossible")                                        \
	X(END, 13, "no END record where the snapshot ends")                                        \
	X(RECORD_SIZE, 14, "a record of impossible size")                                          \
	X(RECORD_TYPE, 15, "a record of unknown type or in the wrong place")                       \
	X(RECORD_COUNT, 16, "record count is wrong")                                               \
	X(SEQUENCE, 17, "snapshot numbers disagree")                                               \
	X(SNAPSHOT_CRC, 18, "snapshot checksum is wrong")                                          \
	X(ROW_SIZE, 19, "a row does not have the size its table declares")                         \
	X(SCHEMA, 20, "the schema document is malformed")                                          \
	X(MEMORY, 21, "out of memory")

enum kpod_reader_state {
#define X(id, name, help) KPOD_##id,
	KPOD_READER_STATES(X)
#undef X
};

enum kpod_fault {
#define X(id, number, help) KPOD_FAULT_##id = number,
	KPOD_FAULTS(X)
#undef X
};

const char *kpod_state_name(enum kpod_reader_state state);
const char *kpod_fault_text(enum kpod_fault fault);

struct kpod_reader {
	char path[PATH_MAX];
	enum kpod_reader_state state;
	enum kpod_fault fault;
	const struct kpod_header *map; /* NULL while nothing is open */
	dev_t device;
	ino_t inode;
	int fd;
	struct kpod_header header; /* the immutable part, checked; hot words are not current */
	uint8_t *schema;	   /* a private copy, header.schema_size bytes */
	uint64_t laps;		   /* copies thrown away because the writer was faster */

	/* The last whole snapshot: a private copy of ring bytes, valid in state LIVE. */
	uint64_t *data; /* NULL once taken */
	size_t size;
	size_t room;
	uint64_t begin; /* ring position of data[0] */
	uint64_t end;	/* ring position after the END record; 0: no snapshot held */
	uint64_t sequence;
	uint64_t monotonic_ns;
	uint64_t realtime_ns;
};

void kpod_reader_init(struct kpod_reader *r, const char *path);

/*
 * Opens the segment if none is open, sees how it does, and copies the last complete snapshot if it
 * is a new one. Call it again after REPLACED: the schema may be another. After LIVE with end == 0
 * the writer was too fast this time (laps has grown).
 */
enum kpod_reader_state kpod_reader_refresh(struct kpod_reader *r, uint64_t monotonic_ns);

/*
 * Whether a refresh would find something else than the last one did: a newer snapshot, another
 * state, another segment. Copies nothing, so a reader that waits may ask often.
 */
bool kpod_reader_has_news(const struct kpod_reader *r, uint64_t monotonic_ns);

/* Marks the held segment INCOMPATIBLE: for faults only the schema's user can see. */
void kpod_reader_reject(struct kpod_reader *r, enum kpod_fault fault);

/* Walks the held snapshot's SLOT and ROW records: NULL before the first and after the last. */
const struct kpod_record *kpod_reader_next(const struct kpod_reader *r,
					   const struct kpod_record *previous);

/*
 * Gives the held snapshot's bytes to the caller, who frees them. The reader counts it as read: the
 * next refresh copies a newer one or nothing.
 */
uint64_t *kpod_reader_take(struct kpod_reader *r);

void kpod_reader_close(struct kpod_reader *r);

#endif
