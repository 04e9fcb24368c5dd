/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the C half of the aggregator offers to the Python half. build.py gives this file to cffi as
 * it is, so below the includes it holds plain declarations only.
 *
 * Everything here is single-threaded. Memory: Python owns the plan and the render state (ffi.new),
 * and frees snapshots (ffi.gc).
 */
#ifndef KPOD_NATIVE_H
#define KPOD_NATIVE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "../../shared/reader.h"

/* A piece of kpod_plan.text. */
struct kpod_text {
	uint32_t at;
	uint32_t size;
};

/*
 * A label whose value is a key word of the row: an index into values, or itself if there are none.
 * With text_words the value is the text in so many words, NUL-padded.
 */
struct kpod_key {
	struct kpod_text label; /* ,name=" */
	uint32_t first_value;
	uint32_t value_count;
	uint32_t text_words;
};

/* What the schema says of a table's rows. */
struct kpod_shape {
	uint32_t first_key;
	uint32_t key_count;
	uint32_t key_words; /* that the keys take in a row */
	uint32_t word_count;
	bool per_slot;
};

/*
 * One line per row: head, keys, labels of the row, value. The value is the sum of `count` words
 * from `first`, plus the value of the sample before it if `continues`, divided by 10^decimals. This
 * one form is counter and gauge (one word) as well as cumulative bucket, count and sum.
 */
struct kpod_sample {
	struct kpod_text head; /* name{ and its constant labels */
	uint32_t first;
	uint32_t count;
	uint32_t decimals;
	bool continues;
	bool opens; /* the head has no label: what follows it needs no comma */
};

struct kpod_family {
	struct kpod_text header; /* HELP and TYPE lines */
	struct kpod_text
		labels; /* of rows that have no slot, as kpod_snapshot_label() wants them */
	uint32_t table;
	uint32_t first_sample;
	uint32_t sample_count;
	uint32_t line_size; /* no line is longer, the labels of the row not counted */
};

/* A schema, made ready for rendering. Python has checked every index and size in it. */
struct kpod_plan {
	const char *text; /* readable to KPOD_TEXT_PAD bytes beyond its end */
	const struct kpod_shape *shapes;
	uint32_t shape_count;
	const struct kpod_key *keys;
	const struct kpod_text *values;
	const struct kpod_family *families;
	uint32_t family_count;
	const struct kpod_sample *samples;
};

/* A SLOT record of a snapshot; path is not NUL-terminated. */
struct kpod_owner {
	uint32_t slot;
	uint32_t generation;
	uint64_t cgroup_id;
	uint64_t born_ns;
	uint64_t died_ns;
	uint32_t kind;
	uint32_t path_size;
	const char *path;
	uint32_t label_at; /* in the snapshot's own text */
	uint32_t label_size;
};

struct kpod_row_ref {
	const uint64_t *words; /* keys, then values */
	const struct kpod_owner *owner;
};

/* One whole snapshot, its rows in order of their tables. Immutable once it is labelled. */
struct kpod_snapshot {
	uint64_t sequence;
	uint64_t monotonic_ns;
	uint64_t realtime_ns;
	struct kpod_owner *owners;
	uint32_t owner_count;
	uint32_t unlabelled; /* owners that have no labels */
	uint32_t orphans;    /* rows whose slot is not in the snapshot: left out */
	uint32_t hidden;     /* rows whose owner has no labels: taken out */
	struct kpod_row_ref *rows;
	uint32_t *first_row; /* by table; one more at the end */
	char *labels;
	size_t labels_size;
	size_t labels_room;
	uint64_t *data; /* the records */
};

/*
 * Takes the snapshot that the reader holds. Owners keep the labels they had in `previous`, which
 * may be NULL. NULL: the reader's state says why (a row of the wrong size, no memory).
 */
struct kpod_snapshot *kpod_snapshot_new(struct kpod_reader *reader, const struct kpod_plan *plan,
					const struct kpod_snapshot *previous);
void kpod_snapshot_free(struct kpod_snapshot *snapshot);

/*
 * Labels of one owner, all that is between the constant labels and the value:
 * ,name="value",name="value"} and a space; or nothing. False: longer than KPOD_LABELS_MAX, or no
 * memory.
 */
bool kpod_snapshot_label(struct kpod_snapshot *snapshot, uint32_t owner, const char *labels,
			 size_t size);

/* Takes out the rows of owners without labels. To be called once, after the labelling. */
void kpod_snapshot_hide(struct kpod_snapshot *snapshot, const struct kpod_plan *plan);

/* Where a rendering is; zeroed at the start. */
struct kpod_cursor {
	uint32_t family;
	uint32_t row; /* of the family's table */
	uint32_t sample;
	bool inside; /* the family's header has been written */
	uint64_t value;
	uint64_t samples; /* written so far */
};

/*
 * Writes the next piece of the text exposition format 0.0.4, of whole lines, into
 * KPOD_CHUNK_SIZE bytes. Returns its size, 0 at the end.
 */
size_t kpod_render_text(struct kpod_cursor *at, const struct kpod_plan *plan,
			const struct kpod_snapshot *snapshot, char *out);

#define KPOD_TEXT_PAD 64      /* how far beyond the end of a text its bytes may be read */
#define KPOD_LABELS_MAX 16384 /* of an owner */
#define KPOD_LINE_MAX 16384   /* kpod_family.line_size, and a header */
#define KPOD_CHUNK_SIZE 65536

#endif
