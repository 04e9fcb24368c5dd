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

/* Copies whole blocks: reads and writes up to KPOD_TEXT_PAD bytes more than size. */
static inline char *put(char *out, const char *from, size_t size)
{
	memcpy(out, from, 64);
	if (size > 64) {
		memcpy(out + 64, from + 64, 64);
		for (size_t done = 128; done < size; done += 64)
			memcpy(out + done, from + done, 64);
	}
	return out + size;
}

#define ZEROS 0x3030303030303030ULL /* "00000000" */

static uint32_t fours[10000]; /* "0000" to "9999" */

__attribute__((constructor)) static void fill_fours(void)
{
	for (uint32_t i = 0; i < 10000; i++)
		fours[i] = 0x30303030 + i / 1000 + (i / 100 % 10 << 8) + (i / 10 % 10 << 16) +
			   (i % 10 << 24);
}

#define E8 100000000ULL

/* The eight digits of v < 10^8, the first in the lowest byte. */
static inline uint64_t eight_digits(uint64_t v)
{
	uint32_t high = (uint32_t)v / 10000;

	return fours[high] | (uint64_t)fours[(uint32_t)v - high * 10000] << 32;
}

static inline char *put_eight(char *out, uint64_t v)
{
	uint64_t digits = eight_digits(v);

	memcpy(out, &digits, 8);
	return out + 8;
}

/* v < 10^8 without leading zeros; writes 8 bytes whatever its length. */
static inline char *put_short(char *out, uint64_t v)
{
	uint64_t digits = eight_digits(v);
	unsigned int zeros = (unsigned int)__builtin_ctzll((digits ^ ZEROS) | 1ULL << 56) & 0x38;

	digits >>= zeros;
	memcpy(out, &digits, 8);
	return out + 8 - zeros / 8;
}

static char *put_long(char *out, uint64_t v)
{
	if (v < E8 * E8)
		return put_eight(put_short(out, v / E8), v % E8);
	out = put_short(out, v / (E8 * E8));
	v %= E8 * E8;
	return put_eight(put_eight(out, v / E8), v % E8);
}

static inline char *put_integer(char *out, uint64_t v)
{
	return __builtin_expect(v < E8, 1) ? put_short(out, v) : put_long(out, v);
}

/* Nanoseconds as seconds, which is nearly all there is: by constants, so without a division. */
static inline char *put_nanoseconds(char *out, uint64_t v)
{
	uint64_t whole = v / (10 * E8), digits;
	uint32_t rest = (uint32_t)(v - whole * (10 * E8)), first = rest / (uint32_t)E8;

	if (whole < 10)
		*out++ = (char)('0' + whole);
	else
		out = put_integer(out, whole);
	if (!rest)
		return out;
	out[0] = '.';
	out[1] = (char)('0' + first);
	out += 2;
	rest -= first * (uint32_t)E8;
	if (!rest)
		return out;
	digits = eight_digits(rest);
	memcpy(out, &digits, 8);
	return out + 8 - __builtin_clzll(digits ^ ZEROS) / 8;
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

/* Text that the kernel made: what would need an escape becomes an underscore. */
static char *put_text(char *out, const uint64_t *words, uint32_t count)
{
	const unsigned char *from = (const void *)words, *end = from + 8 * (size_t)count;

	for (; from < end && *from; from++)
		*out++ =
			(char)(*from < ' ' || *from > '~' || *from == '"' || *from == '\\' ? '_'
											   : *from);
	return out;
}

static char *put_keys(char *out, bool opens, const struct kpod_plan *plan,
		      const struct kpod_shape *shape, const uint64_t *words)
{
	for (uint32_t k = 0; k < shape->key_count; k++) {
		const struct kpod_key *key = &plan->keys[shape->first_key + k];
		uint32_t skip = opens && !k;

		out = put(out, plan->text + key->label.at + skip, key->label.size - skip);
		if (key->text_words) {
			out = put_text(out, words, key->text_words);
			words += key->text_words - 1;
		} else if (*words < key->value_count) {
			const struct kpod_text *v = &plan->values[key->first_value + *words];

			out = put(out, plan->text + v->at, v->size);
		} else {
			/* A number, also where the schema's list ends too early to name it. */
			out = put_integer(out, *words);
		}
		*out++ = '"';
		words++;
	}
	return out;
}

/* Compiled for wide registers too; the dynamic linker takes what the CPU has. */
#ifdef __x86_64__
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

FOR_EACH_CPU size_t kpod_render_text(struct kpod_cursor *at, const struct kpod_plan *plan,
				     const struct kpod_snapshot *snapshot, char *out)
{
	const char *text = plan->text;
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
			const struct kpod_owner *owner = row->owner;
			const char *labels =
				owner ? snapshot->labels + owner->label_at : text + f->labels.at;
			size_t size = owner ? owner->label_size : f->labels.size;
			const uint64_t *words = row->words + shape->key_words;
			size_t line = f->line_size + size + KPOD_TEXT_PAD;
			uint32_t i = at->sample;
			uint64_t value = at->value;
			/* The room is looked at once a row, not once a line. */
			uint32_t fit = (uint32_t)((size_t)(end - p) / line);
			uint32_t stop = f->sample_count - i > fit ? i + fit : f->sample_count;

			for (; i < stop; i++) {
				const struct kpod_sample *s = &samples[i];
				const uint64_t *word = words + s->first, *last = word + s->count;

				if (!s->continues)
					value = 0;
				for (; last - word >= 4; word += 4)
					value += word[0] + word[1] + word[2] + word[3];
				while (word < last)
					value += *word++;
				if (__builtin_expect(value == KPOD_NO_VALUE, 0)) {
					at->samples--;
					continue;
				}
				p = put(p, text + s->head.at, s->head.size);
				if (shape->key_count) {
					p = put_keys(p, s->opens, plan, shape, row->words);
					p = put(p, labels, size);
				} else {
					p = put(p, labels + s->opens, size - s->opens);
				}
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
