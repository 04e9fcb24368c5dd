/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The aggregator's C half on any snapshot. The plan is fixed, as Python has checked it; it has each
 * kind of key, sample and scope.
 */
#include "segment.h"

#include "../../aggregator/native/native.h"

/* Each with a NUL, which is not part of it. */
static const struct texts {
	char header[29];
	char message[9];
	char head[3];
	char bucket[16];
	char label[10];
	char name[9];
	char value[4];
	char node[3];
	char none[1];
	char pad[KPOD_TEXT_PAD];
} texts = {
	.header = "# HELP a h\n# TYPE a counter\n",
	.message = "\n\1a\22\1h\30\0",
	.head = "a{",
	.bucket = "a_bucket{le=\"1\"",
	.label = ",device=\"",
	.name = "\n\6device",
	.value = "sda",
	.node = "} ",
};
/* clang-format off */
#define TEXT(field) { offsetof(struct texts, field), sizeof(((struct texts *)0)->field) - 1 }
#define DEVICE { TEXT(label), TEXT(name) }
/* clang-format on */

enum { PLAIN, INDEXED, WORDS, NODE_WIDE, NAMED, TABLES };

static const struct kpod_key keys[] = {
	{.label = DEVICE, .first_value = 0, .value_count = 1},
	{.label = DEVICE, .prefix = TEXT(none)},
	{.label = DEVICE, .text_words = 2},
	{.label = {TEXT(none), TEXT(none)}, .value_count = 1, .names_owner = true},
};

static const struct kpod_shape shapes[TABLES] = {
	[PLAIN] = {.word_count = 3, .per_slot = true},
	[INDEXED] = {.key_count = 2, .key_words = 2, .word_count = 1, .per_slot = true},
	[WORDS] = {.first_key = 1, .key_count = 2, .key_words = 3, .word_count = 1},
	[NODE_WIDE] = {.word_count = 11},
	[NAMED] =
		{.first_key = 3, .key_count = 1, .key_words = 1, .word_count = 1, .per_slot = true},
};

#define BUCKETS 7
#define CREATED .head = TEXT(head), .base = KPOD_FROM_CREATED, .decimals = 9, .opens = true

static const struct kpod_sample samples[] = {
	{.head = TEXT(head), .first = 2, .count = 1, .decimals = 9, .opens = true},
	{CREATED},
	{.head = TEXT(head), .count = 1, .decimals = 18, .optional = 1, .opens = true},
	{CREATED, .optional = 1},
	{.head = TEXT(bucket), .count = BUCKETS},
	{.head = TEXT(bucket), .first = BUCKETS, .count = 4, .base = KPOD_FROM_PREVIOUS},
	{.head = TEXT(head), .base = KPOD_FROM_PREVIOUS, .opens = true},
	{CREATED},
	/* protobuf: counter, gauge, histogram */
	{.head = TEXT(none), .first = 2, .count = 1, .decimals = 9, .field = 3, .created = true},
	{.head = TEXT(none), .count = 1, .decimals = 18, .optional = 1, .field = 2},
	{.head = TEXT(none),
	 .first = BUCKETS,
	 .count = 4,
	 .decimals = 9,
	 .field = 7,
	 .created = true},
};

static const struct kpod_histogram histograms[] = {
	{.buckets = BUCKETS, .schema = 2, .first_index = -79, .bound_count = 2, .native = true},
};

static const struct kpod_bound bounds[] = {{1, 2}, {2, BUCKETS - 1}};

/* As exposition.py has them. */
#define KEYS (2 * (9 + 20 + 8))
#define LINE (15 + 32 + KEYS)
#define METRIC (128 + KEYS)
#define HISTOGRAM (METRIC + 2 * 22 + BUCKETS * 14)

/* Samples of text, OpenMetrics (the same and one more) and protobuf. */
#define FAMILY(of, first, count, metric, room)                                                     \
	{                                                                                          \
		.views = {{TEXT(header), first, count, LINE, 30},                                  \
			  {TEXT(header), first, (count) + 1, LINE, 40},                            \
			  {TEXT(message), metric, 1, room, 9}},                                    \
		.labels = {TEXT(node), TEXT(none)}, .table = of, .tables = 1,                      \
	}

static const struct kpod_family families[] = {
	FAMILY(PLAIN, 0, 1, 8, METRIC), FAMILY(INDEXED, 2, 1, 9, METRIC),
	FAMILY(WORDS, 2, 1, 9, METRIC), FAMILY(NODE_WIDE, 4, 3, 10, HISTOGRAM),
	FAMILY(NAMED, 2, 1, 9, METRIC),
};

static const struct kpod_plan plan = {
	.text = (const char *)&texts,
	.shapes = shapes,
	.shape_count = TABLES,
	.keys = keys,
	.values = (const struct kpod_value[]){{{TEXT(value), TEXT(value)}}},
	.families = families,
	.family_count = sizeof(families) / sizeof(families[0]),
	.samples = samples,
	.histograms = histograms,
	.bounds = bounds,
};

/* Follows the sizes of messages; `left` of the last one is in the next piece. */
static size_t messages(const unsigned char *p, const unsigned char *end, size_t left)
{
	while (p < end) {
		size_t here = left < (size_t)(end - p) ? left : (size_t)(end - p);

		p += here;
		left -= here;
		for (unsigned int shift = 0; p < end; shift += 7) {
			left |= (size_t)(*p & 0x7f) << shift;
			if (*p++ < 0x80)
				break;
		}
	}
	return left;
}

static void render(const struct kpod_snapshot *snapshot, const uint32_t *shown,
		   enum kpod_format format)
{
	unsigned char *out = malloc(KPOD_CHUNK_SIZE); /* so that a byte too many is seen */
	struct kpod_cursor at = {0};
	size_t size, left = 0;

	while ((size = kpod_render(&at, &plan, snapshot, shown, format, (char *)out))) {
		if (size > KPOD_CHUNK_SIZE)
			abort();
		if (format == KPOD_PROTOBUF)
			left = messages(out, out + size, left);
		else if (out[size - 1] != '\n' || memchr(out, 0, size))
			abort();
	}
	if (left || at.family != plan.family_count)
		abort();
	free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char labels[KPOD_LABELS_MAX];
	static const struct kpod_limits limits = {100, 300, 100000};
	struct kpod_limits left;
	uint64_t cut[sizeof(families) / sizeof(families[0])];
	uint32_t shown[sizeof(families) / sizeof(families[0])];
	struct fuzz_input in = {data, size};
	struct kpod_snapshot *held = NULL, *next;
	struct kpod_reader r;

	memset(labels, ',', sizeof(labels));
	for (int part = 0; part < 2; part++) {
		const char *path = fuzz_segment(&in);

		if (!part)
			kpod_reader_init(&r, path);
		if (kpod_reader_refresh(&r, FUZZ_NOW) != KPOD_LIVE || !r.end || !r.data)
			continue;
		next = kpod_snapshot_new(&r, &plan, held);
		kpod_snapshot_free(held);
		held = next;
		for (uint32_t i = 0; held && i < held->owner_count; i++) {
			const struct kpod_owner *o = &held->owners[i];
			uint64_t length = o->born_ns % (KPOD_LABELS_MAX + 1);
			uint64_t encoded = (o->born_ns >> 16) % (KPOD_LABELS_MAX + 1);

			for (uint32_t c = 0; c < o->path_size; c++)
				labels[c] = o->path[c] ? o->path[c] : '_';
			if (!o->labels[KPOD_OWN][KPOD_AS_TEXT].size &&
			    !kpod_snapshot_label(held, i, KPOD_OWN, labels, length, labels,
						 encoded))
				abort();
			if (!o->labels[KPOD_NAMED][KPOD_AS_TEXT].size &&
			    !kpod_snapshot_label(held, i, KPOD_NAMED, labels, encoded, labels,
						 length))
				abort();
		}
		if (!held)
			continue;
		if (!kpod_snapshot_hide(held, &plan, held->sequence - 1, 2))
			abort();
		kpod_snapshot_show(held, &plan, &limits, shown, cut, &left);
		if (left.series > limits.series || left.bytes > limits.bytes)
			abort();
		for (enum kpod_format format = 0; format < KPOD_FORMATS; format++)
			render(held, shown, format);
	}
	kpod_snapshot_free(held);
	kpod_reader_close(&r);
	return 0;
}
