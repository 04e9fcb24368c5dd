/* SPDX-License-Identifier: Apache-2.0 */
#include "base/kept.h"

#include <stdlib.h>
#include <string.h>

#include "shared/abi.h"

void kpod_kept_open(struct kpod_kept *k, const struct kpod_table *table, uint32_t key_words)
{
	k->table = table;
	k->key_words = key_words;
	k->stride = 1 + key_words + table->row_size / 8;
}

void kpod_kept_close(struct kpod_kept *k)
{
	free(k->now.words);
	free(k->before.words);
	memset(k, 0, sizeof(*k));
}

void kpod_kept_begin(struct kpod_kept *k)
{
	struct kpod_kept_rows old = k->before;

	k->before = k->now;
	k->now = old;
	k->now.count = 0;
	k->at = 0;
}

static uint64_t owner(uint32_t slot, uint32_t generation)
{
	return (uint64_t)slot << 32 | generation;
}

static uint64_t *new_row(struct kpod_kept *k)
{
	struct kpod_kept_rows *rows = &k->now;

	if (rows->count == rows->room) {
		size_t room = rows->room ? 2 * rows->room : 64;
		uint64_t *larger = reallocarray(rows->words, room, k->stride * sizeof(*larger));

		if (!larger)
			return NULL;
		rows->words = larger;
		rows->room = room;
	}
	return rows->words + k->stride * rows->count++;
}

uint64_t *kpod_kept_add(struct kpod_kept *k, uint32_t slot, uint32_t generation)
{
	uint64_t *row = new_row(k);

	if (!row)
		return NULL;
	row[0] = owner(slot, generation);
	memset(row + 1, 0, k->key_words * sizeof(*row));
	for (uint32_t i = 1 + k->key_words; i < k->stride; i++)
		row[i] = KPOD_NO_VALUE;
	return row + 1;
}

bool kpod_kept_text(uint64_t *key, uint32_t words, const char *text, size_t size)
{
	size_t room = 8 * (size_t)words, kept = size < room ? size : room;
	char *out = (char *)key;

	for (size_t i = 0; i < kept; i++) {
		bool plain = text[i] >= ' ' && text[i] <= '~' && text[i] != '"' && text[i] != '\\';

		out[i] = text[i];
		if (!plain)
			out[i] = '_';
	}
	return kept == size;
}

static bool has_value(const struct kpod_kept *k, const uint64_t *row)
{
	for (uint32_t i = 0; i < k->table->words; i++)
		if (row[1 + k->key_words + i] != KPOD_NO_VALUE)
			return true;
	return false;
}

bool kpod_kept_settle(struct kpod_kept *k)
{
	const uint64_t *last = k->now.words + k->stride * --k->now.count, *row = last;

	if (!has_value(k, last))
		return true;
	for (size_t i = k->now.count; i-- > 0;) {
		row -= k->stride;
		if (row[0] != last[0])
			break;
		if (!memcmp(row + 1, last + 1, k->key_words * sizeof(*row)))
			return false;
	}
	k->now.count++;
	return true;
}

void kpod_kept_end(const struct kpod_kept *k, uint64_t *row)
{
	const struct kpod_table *t = k->table;

	for (size_t c = 0; c < t->column_count; c++)
		if (t->columns[c].kind == KPOD_GAUGE && !t->columns[c].lasts)
			row[k->key_words + t->columns[c].word] = KPOD_NO_VALUE;
}

void kpod_kept_keep(struct kpod_kept *k, uint32_t slot, uint32_t generation, bool ended)
{
	for (; k->at < k->before.count; k->at++) {
		const uint64_t *old = k->before.words + k->stride * k->at;
		uint64_t *row;

		if (old[0] >> 32 > slot)
			return;
		if (old[0] != owner(slot, generation))
			continue;
		row = new_row(k);
		if (!row)
			return;
		memcpy(row, old, k->stride * sizeof(*row));
		if (ended)
			kpod_kept_end(k, row + 1);
		kpod_kept_settle(k);
	}
}

const uint64_t *kpod_kept_row(const struct kpod_kept *k, size_t i, uint32_t *slot,
			      uint32_t *generation)
{
	const uint64_t *row = k->now.words + k->stride * i;

	if (i >= k->now.count)
		return NULL;
	*slot = (uint32_t)(row[0] >> 32);
	*generation = (uint32_t)row[0];
	return row + 1;
}
