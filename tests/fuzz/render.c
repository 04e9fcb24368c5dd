/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The aggregator's C half on any snapshot. The plan is fixed, as Python has checked it; it has each
 * kind of key, sample and scope.
 */
#include "segment.h"

#include "../../aggregator/native/native.h"

static const char text[512] =
	"# HELP a h\n# TYPE a counter\n"
	"a{"
	",device=\""
	"sda"
	"a_bucket{le=\"1\""
	"} ";
#define HEADER                                                                                     \
	{                                                                                          \
		0, 27                                                                              \
	}
#define HEAD                                                                                       \
	{                                                                                          \
		27, 2                                                                              \
	}
#define LABEL                                                                                      \
	{                                                                                          \
		29, 9                                                                              \
	}
#define VALUE                                                                                      \
	{                                                                                          \
		38, 3                                                                              \
	}
#define BUCKET                                                                                     \
	{                                                                                          \
		41, 15                                                                             \
	}
#define NODE                                                                                       \
	{                                                                                          \
		56, 2                                                                              \
	}

enum { PLAIN, INDEXED, TEXT, NODE_WIDE, TABLES };

static const struct kpod_key keys[] = {
	{.label = LABEL, .first_value = 0, .value_count = 1},
	{.label = LABEL},
	{.label = LABEL, .text_words = 2},
};

static const struct kpod_shape shapes[TABLES] = {
	[PLAIN] = {.word_count = 3, .per_slot = true},
	[INDEXED] = {.key_count = 2, .key_words = 2, .word_count = 1, .per_slot = true},
	[TEXT] = {.first_key = 1, .key_count = 2, .key_words = 3, .word_count = 1},
	[NODE_WIDE] = {.word_count = 11},
};

static const struct kpod_sample samples[] = {
	{.head = HEAD, .first = 2, .count = 1, .decimals = 9, .opens = true},
	{.head = BUCKET, .count = 7},
	{.head = BUCKET, .first = 7, .count = 4, .continues = true},
	{.head = HEAD, .continues = true, .opens = true},
	{.head = HEAD, .first = 0, .count = 1, .decimals = 18, .opens = true},
};

#define LINE (15 + 2 * (9 + 20 + 2) + 32)

static const struct kpod_family families[] = {
	{HEADER, NODE, PLAIN, 0, 1, LINE},
	{HEADER, NODE, INDEXED, 4, 1, LINE},
	{HEADER, NODE, TEXT, 4, 1, LINE},
	{HEADER, NODE, NODE_WIDE, 1, 3, LINE},
};

static const struct kpod_plan plan = {
	.text = text,
	.shapes = shapes,
	.shape_count = TABLES,
	.keys = keys,
	.values = (const struct kpod_text[]){VALUE},
	.families = families,
	.family_count = sizeof(families) / sizeof(families[0]),
	.samples = samples,
};

static void render(const struct kpod_snapshot *snapshot)
{
	char *out = malloc(KPOD_CHUNK_SIZE); /* so that a byte too many is seen */
	struct kpod_cursor at = {0};
	size_t size;

	while ((size = kpod_render_text(&at, &plan, snapshot, out)))
		if (size > KPOD_CHUNK_SIZE || out[size - 1] != '\n' || memchr(out, 0, size))
			abort();
	free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char labels[KPOD_LABELS_MAX];
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

			for (uint32_t c = 0; c < o->path_size; c++)
				labels[c] = o->path[c] ? o->path[c] : '_';
			if (!o->label_size && !kpod_snapshot_label(held, i, labels, length))
				abort();
		}
		if (held)
			render(held);
	}
	kpod_snapshot_free(held);
	kpod_reader_close(&r);
	return 0;
}
