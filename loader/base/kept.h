/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows that a source has read, in the order of their slots: those of this pass and those of the
 * pass before, from which what has ended meanwhile is kept.
 */
#ifndef KPOD_LOADER_BASE_KEPT_H
#define KPOD_LOADER_BASE_KEPT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/collector.h"

struct kpod_kept_rows {
	uint64_t *words;
	size_t count, room; /* rows */
};

struct kpod_kept {
	const struct kpod_table *table;
	uint32_t key_words;
	uint32_t stride; /* words: slot and generation, keys, row */
	struct kpod_kept_rows now, before;
	size_t at; /* in before: rows of earlier slots are done with */
};

void kpod_kept_open(struct kpod_kept *k, const struct kpod_table *table, uint32_t key_words);
void kpod_kept_close(struct kpod_kept *k);

/* A new pass; slots come in ascending order. */
void kpod_kept_begin(struct kpod_kept *k);

/* A row of this pass: its keys, which are zero, then its words, which are KPOD_NO_VALUE. NULL: no
 * memory. Valid until the next call. */
uint64_t *kpod_kept_add(struct kpod_kept *k, uint32_t slot, uint32_t generation);

/*
 * Text as a key: what the renderer would have to escape becomes an underscore here already, so that
 * no two keys look alike by that alone. False: it was cut.
 */
bool kpod_kept_text(uint64_t *key, uint32_t words, const char *text, size_t size);

/* Takes the last row back if it has no value. False: it took it back because its slot has a row
 * with these keys already; two series of one name would cost the whole scrape. */
bool kpod_kept_settle(struct kpod_kept *k);

/* The owner of this row, not settled yet, has ended: see kpod_kept_keep(). */
void kpod_kept_end(const struct kpod_kept *k, uint64_t *row);

/*
 * The rows that this owner had in the pass before. `ended`: its counters stay what they were last,
 * but of its gauges there is no value any more, unless they last.
 */
void kpod_kept_keep(struct kpod_kept *k, uint32_t slot, uint32_t generation, bool ended);

/* Row i of this pass, NULL at the end. */
const uint64_t *kpod_kept_row(const struct kpod_kept *k, size_t i, uint32_t *slot,
			      uint32_t *generation);

#endif
