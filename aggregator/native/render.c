/* SPDX-License-Identifier: Apache-2.0 */
#include "sample.h"

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

/*
 * Copies blocks, the first of the size that most texts do not exceed: reads and writes up to
 * KPOD_TEXT_PAD bytes more than size.
 */
static inline __attribute__((always_inline)) char *put_blocks(char *out, const char *from,
							      size_t size, size_t first)
{
	memcpy(out, from, first);
	for (size_t done = first; done < size; done += 64)
		memcpy(out + done, from + done, 64);
	return out + size;
}

static inline char *put(char *out, const char *from, size_t size)
{
	return put_blocks(out, from, size, 64);
}

/* Without Kubernetes a container's labels take 144 bytes, with it about twice that. */
static inline char *put_labels(char *out, const char *from, size_t size)
{
	return put_blocks(out, from, size, 160);
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
	if (v < E8)
		return put_short(out, v);
	if (v < E8 * 10000) {
		uint32_t high = (uint32_t)(v / E8), digits = fours[high];
		unsigned int zeros = (unsigned int)__builtin_ctz(digits ^ (uint32_t)ZEROS) & 0x18;

		digits >>= zeros;
		memcpy(out, &digits, 4);
		return put_eight(out + 4 - zeros / 8, v - high * E8);
	}
	return put_long(out, v);
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
		      const struct kpod_shape *shape, const struct kpod_piece *named,
		      const uint64_t *words)
{
	for (uint32_t k = 0; k < shape->key_count; k++) {
		const struct kpod_key *key = &plan->keys[shape->first_key + k];
		const struct kpod_text *label = &key->label[KPOD_AS_TEXT];
		uint32_t skip = opens && !k;

		if (key->names_owner) {
			out = put(out, named->at + skip, named->size - skip);
			words++;
			continue;
		}
		out = put(out, plan->text + label->at + skip, label->size - skip);
		if (key->text_words) {
			out = put_text(out, words, key->text_words);
			words += key->text_words - 1;
		} else if (*words < key->value_count) {
			const struct kpod_text *v =
				&plan->values[key->first_value + *words].encoded[KPOD_AS_TEXT];

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

/* What a row brings to each of its samples; no store to the output can be thought to change it. */
struct row {
	const char *text; /* the plan's */
	const struct kpod_shape *shape;
	bool has_keys;
	const uint64_t *keys;
	const uint64_t *words;
	struct kpod_piece named;
	const char *labels;
	size_t labels_size;
	uint64_t created;
	bool ended;
};

static inline __attribute__((always_inline)) char *put_line(char *p, const struct kpod_plan *plan,
							    const struct row *row,
							    const struct kpod_sample *s,
							    uint64_t value)
{
	p = put(p, row->text + s->head.at, s->head.size);
	if (row->has_keys) {
		p = put_keys(p, s->opens, plan, row->shape, &row->named, row->keys);
		p = put_labels(p, row->labels, row->labels_size);
	} else {
		p = put_labels(p, row->labels + s->opens, row->labels_size - s->opens);
	}
	p = put_value(p, value, s->decimals);
	*p++ = '\n';
	return p;
}

/* Protobuf: https://protobuf.dev/programming-guides/encoding. All our fields are below 16. */
enum { VARINT, FIXED64, LENGTH };
#define TAG(field, type) ((char)((field) << 3 | (type)))

static inline char *put_varint(char *out, uint64_t v)
{
	for (; v >= 0x80; v >>= 7)
		*out++ = (char)(v | 0x80);
	*out++ = (char)v;
	return out;
}

static inline char *put_number(char *out, unsigned int field, uint64_t v)
{
	*out++ = TAG(field, VARINT);
	return put_varint(out, v);
}

static inline uint64_t zigzag(int64_t v)
{
	return (uint64_t)v << 1 ^ (uint64_t)(v >> 63);
}

static inline char *put_double(char *out, unsigned int field, double v)
{
	*out++ = TAG(field, FIXED64);
	memcpy(out, &v, 8);
	return out + 8;
}

/* Starts a field whose size is known at its end: one byte is left for it. */
static inline char *open_field(char *out, unsigned int field)
{
	out[0] = TAG(field, LENGTH);
	return out + 2;
}

static inline char *close_field(char *body, char *end)
{
	size_t size = (size_t)(end - body), more = size < 128 ? 0 : size < 16384 ? 1 : 2;

	if (more)
		memmove(body + more, body, size);
	put_varint(body - 1, size);
	return end + more;
}

/* The double nearest to v / 10^decimals, which is what a parser makes of the text. */
static double to_double(uint64_t v, unsigned int decimals)
{
	unsigned __int128 shifted, quotient;

	if (!decimals || v < 1ULL << 53)
		return (double)v / (double)power_of_ten[decimals];
	/* Two roundings could be one too many: divide whole numbers, note the rest, round once. */
	shifted = (unsigned __int128)v << 63;
	quotient = shifted / power_of_ten[decimals];
	if (shifted % power_of_ten[decimals])
		quotient |= 1;
	return (double)quotient * 0x1p-63;
}

static char *put_label_keys(char *out, const struct kpod_plan *plan, const struct kpod_shape *shape,
			    const struct kpod_piece *named, const uint64_t *words)
{
	for (uint32_t k = 0; k < shape->key_count; k++) {
		const struct kpod_key *key = &plan->keys[shape->first_key + k];
		const struct kpod_text *label = &key->label[KPOD_AS_PROTOBUF];
		char *pair, *value;

		if (key->names_owner) {
			out = put(out, named->at, named->size);
			words++;
			continue;
		}
		pair = open_field(out, 1);
		out = put(pair, plan->text + label->at, label->size);
		value = open_field(out, 2);
		out = put(value, plan->text + key->prefix.at, key->prefix.size);
		if (key->text_words) {
			out = put_text(out, words, key->text_words);
			words += key->text_words - 1;
		} else if (*words < key->value_count) {
			const struct kpod_text *v =
				&plan->values[key->first_value + *words].encoded[KPOD_AS_PROTOBUF];

			out = put(out, plan->text + v->at, v->size);
		} else {
			out = put_integer(out, *words);
		}
		out = close_field(pair, close_field(value, out));
		words++;
	}
	return out;
}

static char *put_created(char *out, unsigned int field, uint64_t ns)
{
	char *body = open_field(out, field);

	out = put_number(body, 1, ns / (10 * E8));
	return close_field(body, put_number(out, 2, ns % (10 * E8)));
}

/*
 * Spans of buckets in use, and the difference of each bucket to the one before. A gap of one or two
 * is cheaper as empty buckets than as a new span.
 */
static char *put_native(char *p, const struct kpod_histogram *h, const uint64_t *buckets)
{
	char deltas[10 * KPOD_HISTOGRAM_BUCKETS_MAX], *delta = deltas, *body;
	uint64_t before = 0;
	int32_t span_end = 0; /* the index that the next bucket of a span would have */

	p = put_number(p, 5, zigzag(h->schema));
	p = put_double(p, 6, h->zero_threshold);
	p = put_number(p, 7, buckets[0]);
	for (uint32_t i = 1; i < h->buckets;) {
		int32_t index = h->first_index + (int32_t)i - 1;
		uint32_t used = 0, stop;

		if (!buckets[i]) {
			i++;
			continue;
		}
		/* As far as no three empty ones follow one another. */
		for (uint32_t j = i; j < h->buckets && j - i - used <= 2; j++)
			if (buckets[j])
				used = j - i + 1;
		body = open_field(p, 12);
		p = put_number(body, 1, zigzag(index - span_end));
		p = close_field(body, put_number(p, 2, used));
		for (stop = i + used; i < stop; i++) {
			delta = put_varint(delta, zigzag((int64_t)(buckets[i] - before)));
			before = buckets[i];
		}
		span_end = index + (int32_t)used;
	}
	if (delta == deltas)
		return p;
	body = open_field(p, 13);
	memcpy(body, deltas, (size_t)(delta - deltas));
	return close_field(body, body + (delta - deltas));
}

static char *put_histogram(char *p, const struct kpod_plan *plan, const struct kpod_histogram *h,
			   const uint64_t *buckets)
{
	uint64_t count = 0;
	uint32_t at = 0;

	for (uint32_t b = 0; b < h->bound_count; b++) {
		const struct kpod_bound *bound = &plan->bounds[h->first_bound + b];
		char *body = open_field(p, 3);

		while (at < bound->buckets)
			count += buckets[at++];
		p = put_number(body, 1, count);
		p = close_field(body, put_double(p, 2, bound->le));
	}
	while (at < h->buckets)
		count += buckets[at++];
	p = put_number(p, 1, count);
	return h->native ? put_native(p, h, buckets) : p;
}

enum { METRIC_HISTOGRAM = 7 };

static char *put_metric(char *p, const struct kpod_plan *plan, const struct row *row,
			const struct kpod_sample *s, uint64_t value)
{
	double number = to_double(value, s->decimals);
	char *metric = open_field(p, 4), *body;

	p = put(metric, plan->text + s->head.at, s->head.size);
	p = put_label_keys(p, plan, row->shape, &row->named, row->keys);
	p = put_labels(p, row->labels, row->labels_size);
	body = open_field(p, s->field);
	if (s->field == METRIC_HISTOGRAM) {
		const struct kpod_histogram *h = &plan->histograms[s->histogram];

		p = put_double(body, 2, number);
		p = put_histogram(p, plan, h, row->words + h->word);
		if (s->created)
			p = put_created(p, 15, row->created);
	} else {
		p = put_double(body, 1, number);
		if (s->created)
			p = put_created(p, 3, row->created);
	}
	return close_field(metric, close_field(body, p));
}

/* Rows of the cursor's family, as many as there is room for. */
static inline __attribute__((always_inline)) char *
put_rows(struct kpod_cursor *at, const struct kpod_plan *plan, const struct kpod_snapshot *snapshot,
	 const uint32_t *shown, enum kpod_format format, enum kpod_encoding encoding, char *p,
	 const char *end)
{
	const struct kpod_family *f = &plan->families[at->family];
	const struct kpod_view *view = &f->views[format];
	const struct kpod_sample *samples = plan->samples + view->first_sample;
	const struct kpod_row_ref *rows = snapshot->rows + snapshot->first_row[f->table];
	struct row row = {
		.text = plan->text,
		.shape = &plan->shapes[f->table],
		.has_keys = plan->shapes[f->table].key_count,
	};
	bool names = kpod_names_owner(plan, row.shape);

	for (; at->row < shown[at->family]; at->row++, at->sample = 0) {
		const struct kpod_owner *owner = rows[at->row].owner;
		const struct kpod_text *labels = owner ? owner->labels[plan->page] : f->labels;
		size_t line;
		uint32_t i = at->sample, stop;
		uint64_t value = at->value;

		if (!kpod_has_rows(owner, plan->page))
			continue;
		row.keys = rows[at->row].words;
		row.words = row.keys + row.shape->key_words;
		row.labels = (owner ? snapshot->labels : plan->text) + labels[encoding].at;
		row.labels_size = labels[encoding].size;
		row.created = kpod_snapshot_created(snapshot, row.shape, owner);
		row.ended = owner && owner->died_ns;
		/* The room is looked at once a row, not once a line. */
		line = view->line_size + row.labels_size + KPOD_TEXT_PAD;
		if (names) {
			row.named = kpod_named(snapshot, plan, row.shape, row.keys[0], encoding);
			line += row.named.size;
		}
		stop = view->sample_count;
		if ((size_t)(end - p) < line * (stop - i))
			stop = i + (uint32_t)((size_t)(end - p) / line);
		for (; i < stop; i++) {
			const struct kpod_sample *s = &samples[i];
			const uint64_t *word = row.words + s->first, *last = word + s->count;

			if (!kpod_has_sample(s, row.words, row.ended)) {
				at->samples--;
				continue;
			}
			if (s->base != KPOD_FROM_PREVIOUS)
				value = s->base == KPOD_FROM_CREATED ? row.created : 0;
			for (; last - word >= 4; word += 4)
				value += word[0] + word[1] + word[2] + word[3];
			while (word < last)
				value += *word++;
			p = encoding == KPOD_AS_TEXT ? put_line(p, plan, &row, s, value)
						     : put_metric(p, plan, &row, s, value);
		}
		at->samples += i - at->sample;
		if (i < view->sample_count) {
			at->sample = i;
			at->value = value;
			break;
		}
	}
	return p;
}

/*
 * A MetricFamily starts with its size. One for which there is room is rendered behind the place of
 * its beginning, and moved there; a larger one is rendered twice: first to see how large it is,
 * into the room where it will be written. NULL: there is not enough of it for a Metric.
 */
static char *put_family(struct kpod_cursor *at, const struct kpod_plan *plan,
			const struct kpod_snapshot *snapshot, const uint32_t *shown, char *p,
			const char *end)
{
	const struct kpod_text *header = &plan->families[at->family].views[KPOD_PROTOBUF].header;
	struct kpod_cursor dry = *at;
	char *body = p + header->size + 10 + KPOD_TEXT_PAD, *to;
	size_t size = header->size;
	bool once = true;

	while (dry.row < shown[at->family]) {
		uint32_t row = dry.row, sample = dry.sample;
		char *from = once ? body : p;

		to = put_rows(&dry, plan, snapshot, shown, KPOD_PROTOBUF, KPOD_AS_PROTOBUF, from,
			      end);
		if (dry.row == row && dry.sample == sample && !once)
			return NULL;
		size += (size_t)(to - from);
		once = once && dry.row == shown[at->family];
	}
	p = put_varint(p, size);
	p = put(p, plan->text + header->at, header->size);
	if (once) {
		memmove(p, body, size - header->size);
		p += size - header->size;
		*at = dry;
	}
	return p;
}

static inline __attribute__((always_inline)) size_t
render(struct kpod_cursor *at, const struct kpod_plan *plan, const struct kpod_snapshot *snapshot,
       const uint32_t *shown, enum kpod_format format, enum kpod_encoding encoding, char *out)
{
	char *p = out, *end = out + KPOD_CHUNK_SIZE;

	for (; at->family < plan->family_count; at->family++, at->row = 0, at->inside = false) {
		const struct kpod_text *header = &plan->families[at->family].views[format].header;

		if (!shown[at->family])
			continue;
		if (!at->inside) {
			char *to;

			if ((size_t)(end - p) < header->size + KPOD_TEXT_PAD + 10)
				break;
			to = encoding == KPOD_AS_PROTOBUF
				     ? put_family(at, plan, snapshot, shown, p, end)
				     : put(p, plan->text + header->at, header->size);
			if (!to)
				break;
			p = to;
			at->inside = true;
		}
		p = put_rows(at, plan, snapshot, shown, format, encoding, p, end);
		if (at->row < shown[at->family])
			break;
	}
	return (size_t)(p - out);
}

/* Compiled for wide registers too; the dynamic linker takes what the CPU has. */
#ifdef __x86_64__
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

FOR_EACH_CPU static size_t render_text(struct kpod_cursor *at, const struct kpod_plan *plan,
				       const struct kpod_snapshot *snapshot, const uint32_t *shown,
				       enum kpod_format format, char *out)
{
	return render(at, plan, snapshot, shown, format, KPOD_AS_TEXT, out);
}

size_t kpod_render(struct kpod_cursor *at, const struct kpod_plan *plan,
		   const struct kpod_snapshot *snapshot, const uint32_t *shown,
		   enum kpod_format format, char *out)
{
	if (format == KPOD_PROTOBUF)
		return render(at, plan, snapshot, shown, format, KPOD_AS_PROTOBUF, out);
	return render_text(at, plan, snapshot, shown, format, out);
}
