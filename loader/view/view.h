/* SPDX-License-Identifier: Apache-2.0 */
/* People's view of a segment. Knows the reader of shared/ only. */
#ifndef KPOD_LOADER_VIEW_VIEW_H
#define KPOD_LOADER_VIEW_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct kpod_view;

struct kpod_view *kpod_view_open(const char *path);
void kpod_view_close(struct kpod_view *view);

struct kpod_view_form {
	bool json; /* an object a line */
	bool raw;  /* words as the segment has them, not in base units */
};

/* All rows of the last snapshot. -ENODATA: not LIVE, and one line on stderr has said so. */
int kpod_view_dump(struct kpod_view *view, const struct kpod_view_form *form, FILE *out);

/* Bytes as a JSON string, printable ASCII: what is not is escaped byte by byte. */
void kpod_print_text(FILE *out, const char *text, size_t size);

/* A schema document as JSON. */
int kpod_view_schema(const void *document, size_t size, FILE *out);

/* Takes the last snapshot. -ENODATA: not LIVE, and one line on stderr has said so. */
int kpod_view_refresh(struct kpod_view *view);

/* Whether another snapshot is there than the one it took; asks the loader for one before that. */
void kpod_view_ring(struct kpod_view *view);
bool kpod_view_has_news(struct kpod_view *view);

struct kpod_slot;
struct kpod_view_head {
	uint64_t sequence;
	uint64_t monotonic_ns;
	uint64_t generation; /* of the segment */
};

struct kpod_view_head kpod_view_head(const struct kpod_view *view);

/*
 * Calls `slot` for each container, then `value` for each value of a counter or gauge in tables of
 * slots whose name is one of names[0..count): in base units, with the index of the name. Rows that
 * differ in their keys come one by one.
 */
struct kpod_view_visitor {
	void (*slot)(void *context, const struct kpod_slot *slot, const char *path);
	void (*value)(void *context, uint32_t slot, uint32_t generation, size_t name, double value);
	void *context;
};

void kpod_view_visit(const struct kpod_view *view, const char *const *names, size_t count,
		     const struct kpod_view_visitor *visitor);

/* Rates since the last call, the busiest slots first. */
int kpod_view_rates(struct kpod_view *view, FILE *out);

#endif
