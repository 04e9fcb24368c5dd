/* SPDX-License-Identifier: Apache-2.0 */
#include "native.h"

#include <string.h>

static const uint64_t power_of_ten[] = {
	1ULL,
	10ULL,
	100ULL,
	1000ULL,
	10000ULL,
	100000ULL,
	1000000ULL,
	10000000ULL,
	100000000ULL,
	1000000000ULL,
	10000000000ULL,
	100000000000ULL,
	1000000000000ULL,
	10000000000000ULL,
	100000000000000ULL,
	1000000000000000ULL,
	10000000000000000ULL,
	100000000000000000ULL,
	1000000000000000000ULL,
	10000000000000000000ULL,
};

/* Copies whole blocks: reads and writes up to 31 bytes more than size. */
static inline char *put(char *out, const char *from, size_t size)
{
	for (size_t done = 0; done < size; done += 32)
		memcpy(out + done, from + done, 32);
	return out + size;
}

#define ZEROS 0x3030303030303030ULL /* "00000000" */

/* The eight digits of v < 10^8, first digit in the lowest byte, as numbers: all at once. */
static inline uint64_t eight_digits(uint64_t v)
{
	uint64_t fours = v / 10000 | v % 10000 << 32;
	uint64_t hundreds = fours * 10486 >> 20 & 0x0000007f0000007fULL;
	uint64_t twos = hundreds | (fours - 100 * hundreds) << 16;
	uint64_t tens = twos * 103 >> 10 & 0x000f000f000f000fULL;

	return tens | (twos - 10 * tens) << 8;
}

static inline char *put_eight(char *out, uint64_t v)
{
	uint64_t digits = eight_digits(v) | ZEROS;

	memcpy(out, &digits, 8);
	return out + 8;
}

/* v < 10^8 without leading zeros; writes 8 bytes whatever its length. */
static inline char *put_short(char *out, uint64_t v)
{
	uint64_t digits = eight_digits(v);
	unsigned int zeros = (unsigned int)__builtin_ctzll(digits | 1ULL << 56) / 8;

	digits = (digits | ZEROS) >> 8 * zeros;
	memcpy(out, &digits, 8);
	return out + 8 - zeros;
}

#define E8 100000000ULL

static inline char *put_integer(char *out, uint64_t v)
{
	if (v < E8)
		return put_short(out, v);
	if (v < E8 * E8)
		return put_eight(put_short(out, v / E8), v % E8);
	out = put_short(out, v / (E8 * E8));
	v %= E8 * E8;
	return put_eight(put_eight(out, v / E8), v % E8);
}

/* Nanoseconds as seconds, which is nearly all there is: by constants, so without a division. */
static inline char *put_nanoseconds(char *out, uint64_t v)
{
	uint64_t rest = v % (10 * E8), last = rest % E8;

	if (v < 100 * E8)
		*out++ = (char)('0' + v / (10 * E8));
	else
		out = put_integer(out, v / (10 * E8));
	if (!rest)
		return out;
	out[0] = '.';
	out[1] = (char)('0' + rest / E8);
	out += 2;
	if (!last)
		return out;
	last = eight_digits(last);
	memcpy(out, &(uint64_t){last | ZEROS}, 8);
	return out + 8 - __builtin_clzll(last) / 8;
}

static char *put_decimals(char *out, uint64_t v, unsigned int decimals)
{
	uint64_t rest = v % power_of_ten[decimals];

	out = put_integer(out, v / power_of_ten[decimals]);
	if (!rest)
		return out;
	*out++ = '.';
	while (rest) {
		decimals--;
		*out++ = (char)('0' + rest / power_of_ten[decimals]);
		rest %= power_of_ten[decimals];
	}
	return out;
}

static inline char *put_value(char *out, uint64_t v, unsigned int decimals)
{
	if (!decimals)
		return put_integer(out, v);
	if (decimals == 9)
		return put_nanoseconds(out, v);
	return put_decimals(out, v, decimals);
}

static char *put_keys(char *out, bool comma, const struct kpod_plan *plan,
		      const struct kpod_shape *shape, const uint64_t *words)
{
	for (uint32_t k = 0; k < shape->key_count; k++) {
		const struct kpod_key *key = &plan->keys[shape->first_key + k];

		if (comma)
			*out++ = ',';
		comma = true;
		out = put(out, plan->text + key->label.at, key->label.size);
		if (words[k] < key->value_count) {
			const struct kpod_text *v = &plan->values[key->first_value + words[k]];

			out = put(out, plan->text + v->at, v->size);
		} else {
			/* A number, also where the schema's list ends too early to name it. */
			out = put_integer(out, words[k]);
		}
		*out++ = '"';
	}
	return out;
}

struct labels {
	const char *text;
	size_t size;
};

static inline struct labels labels_of(const struct kpod_plan *plan,
				      const struct kpod_snapshot *snapshot,
				      const struct kpod_row_ref *row)
{
	if (!row->owner)
		return (struct labels){plan->text + plan->node_labels.at, plan->node_labels.size};
	return (struct labels){snapshot->labels + row->owner->label_at, row->owner->label_size};
}

size_t kpod_render_text(struct kpod_cursor *at, const struct kpod_plan *plan,
			const struct kpod_snapshot *snapshot, char *out)
{
	char *p = out, *end = out + KPOD_CHUNK_SIZE;

	for (; at->family < plan->family_count; at->family++, at->row = 0, at->inside = false) {
		const struct kpod_family *f = &plan->families[at->family];
		const struct kpod_shape *shape = &plan->shapes[f->table];
		const struct kpod_sample *samples = plan->samples + f->first_sample;
		const struct kpod_row_ref *rows = snapshot->rows + snapshot->first_row[f->table];
		uint32_t count = snapshot->first_row[f->table + 1] - snapshot->first_row[f->table];

		if (!count)
			continue;
		if (!at->inside) {
			if ((size_t)(end - p) < f->header.size + KPOD_TEXT_PAD)
				return (size_t)(p - out);
			p = put(p, plan->text + f->header.at, f->header.size);
			at->inside = true;
		}
		for (; at->row < count; at->row++, at->sample = 0) {
			const struct kpod_row_ref *row = &rows[at->row];
			struct labels labels = labels_of(plan, snapshot, row);
			const uint64_t *words = row->words + shape->key_count;
			size_t line = f->line_size + labels.size + KPOD_TEXT_PAD;
			uint32_t i = at->sample;
			uint64_t value = at->value;

			for (; i < f->sample_count && (size_t)(end - p) >= line; i++) {
				const struct kpod_sample *s = &samples[i];

				if (!s->continues)
					value = 0;
				const uint64_t *word = words + s->first, *last = word + s->count;

				for (; last - word >= 4; word += 4)
					value += word[0] + word[1] + word[2] + word[3];
				while (word < last)
					value += *word++;
				p = put(p, plan->text + s->head.at, s->head.size);
				p = put(p, labels.text, labels.size);
				if (shape->key_count)
					p = put_keys(p, labels.size, plan, shape, row->words);
				p = put(p, plan->text + s->tail.at, s->tail.size);
				p = put_value(p, value, s->decimals);
				*p++ = '\n';
			}
			at->samples += i - at->sample;
			if (i < f->sample_count) {
				at->sample = i;
				at->value = value;
				return (size_t)(p - out);
			}
		}
	}
	return (size_t)(p - out);
}
