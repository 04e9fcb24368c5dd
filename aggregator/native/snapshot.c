/* SPDX-License-Identifier: Apache-2.0 */
#include "sample.h"

#include <stdlib.h>
#include <string.h>

#define SLOTS_MAX (1u << 17) /* the loader has at most half as many */

static enum kpod_fault count_records(struct kpod_snapshot *s, const struct kpod_reader *reader,
				     const struct kpod_plan *plan, uint32_t *rows)
{
	const struct kpod_record *rec = NULL;
	uint32_t slots = 0;

	while ((rec = kpod_reader_next(reader, rec))) {
		const struct kpod_shape *shape;

		if (rec->type == KPOD_RECORD_SLOT) {
			slots++;
			continue;
		}
		if (rec->table >= plan->shape_count)
			return KPOD_FAULT_ROW_SIZE;
		shape = &plan->shapes[rec->table];
		if (rec->size !=
		    sizeof(struct kpod_row) + 8 * (size_t)(shape->key_words + shape->word_count))
			return KPOD_FAULT_ROW_SIZE;
		s->first_row[rec->table + 1]++;
		(*rows)++;
	}
	s->owners = calloc(slots ? slots : 1, sizeof(*s->owners));
	s->rows = calloc(*rows ? *rows : 1, sizeof(*s->rows));
	return s->owners && s->rows ? KPOD_FAULT_NONE : KPOD_FAULT_MEMORY;
}

static bool same_owner(const struct kpod_owner *a, const struct kpod_owner *b)
{
	return a->slot == b->slot && a->generation == b->generation && a->cgroup_id == b->cgroup_id;
}

/* Ended owners' rows, in any order that is the same the next time. */
static void add_digests(struct kpod_snapshot *s, const struct kpod_plan *plan)
{
	for (uint32_t t = 0; t < plan->shape_count; t++) {
		uint32_t count = plan->shapes[t].key_words + plan->shapes[t].word_count;

		for (uint32_t r = s->first_row[t]; r < s->first_row[t + 1]; r++) {
			struct kpod_owner *owner = (struct kpod_owner *)s->rows[r].owner;
			uint64_t digest;

			if (!owner || !owner->died_ns)
				continue;
			digest = owner->digest ^ (t + 1);
			for (uint32_t i = 0; i < count; i++) {
				digest = (digest ^ s->rows[r].words[i]) * 0x9e3779b97f4a7c15ULL;
				digest ^= digest >> 32;
			}
			owner->digest = digest;
		}
	}
}

/* What is known of an owner from the snapshot before. */
static bool keep(struct kpod_snapshot *s, uint32_t owner, const struct kpod_snapshot *previous,
		 const struct kpod_owner *old)
{
	/* Of those that waited nobody has the rows. */
	if (old->died_ns && !old->waits && old->digest == s->owners[owner].digest)
		s->owners[owner].settled = old->settled;
	for (enum kpod_page page = 0; page < KPOD_PAGES; page++) {
		const struct kpod_text *labels = old->labels[page];

		if (labels[KPOD_AS_TEXT].size &&
		    !kpod_snapshot_label(s, owner, page, previous->labels + labels[KPOD_AS_TEXT].at,
					 labels[KPOD_AS_TEXT].size,
					 previous->labels + labels[KPOD_AS_PROTOBUF].at,
					 labels[KPOD_AS_PROTOBUF].size))
			return false;
	}
	return true;
}

static bool keep_known(struct kpod_snapshot *s, const struct kpod_snapshot *previous)
{
	uint32_t at = 0;

	s->unlabelled = s->owner_count;
	/* Never none: the renderer reads a block of any owner's labels, however few they are. */
	s->labels_room = (previous ? previous->labels_size / 8 * 9 : 0) + KPOD_TEXT_PAD;
	s->labels = malloc(s->labels_room);
	if (!s->labels || !previous)
		return s->labels;
	/* Both lists come in the loader's order, which is that of the slots. */
	for (uint32_t i = 0; i < s->owner_count; i++) {
		const struct kpod_owner *old;

		while (at < previous->owner_count && previous->owners[at].slot < s->owners[i].slot)
			at++;
		old = &previous->owners[at];
		if (at < previous->owner_count && same_owner(old, &s->owners[i]) &&
		    !keep(s, i, previous, old))
			return false;
	}
	return true;
}

uint64_t kpod_snapshot_created(const struct kpod_snapshot *snapshot, const struct kpod_shape *shape,
			       const struct kpod_owner *owner)
{
	uint64_t since = owner ? owner->since_ns[shape->since] : snapshot->created_ns;

	if (shape->since != KPOD_SINCE_COLLECTOR || since > shape->started_ns)
		return since;
	return shape->started_ns;
}

static void fill(struct kpod_snapshot *s, const struct kpod_reader *reader,
		 const struct kpod_plan *plan, uint32_t *owner_of, uint32_t *next)
{
	const struct kpod_record *rec = NULL;

	while ((rec = kpod_reader_next(reader, rec))) {
		const struct kpod_slot *slot = (const void *)rec;

		if (rec->type != KPOD_RECORD_SLOT)
			continue;
		if (slot->slot < SLOTS_MAX)
			owner_of[slot->slot] = s->owner_count + 1;
		s->owners[s->owner_count++] = (struct kpod_owner){
			.slot = slot->slot,
			.generation = slot->generation,
			.cgroup_id = slot->cgroup_id,
			.born_ns = slot->born_ns,
			.died_ns = slot->died_ns,
			.kind = slot->kind,
			.path_size = slot->path_size,
			.path = (const char *)(slot + 1),
			.since_ns = {[KPOD_SINCE_COLLECTOR] = slot->counted_ns,
				     [KPOD_SINCE_CGROUP] = slot->cgroup_ns,
				     [KPOD_SINCE_NETWORK] = slot->network_ns},
		};
	}
	while ((rec = kpod_reader_next(reader, rec))) {
		const struct kpod_row *row = (const void *)rec;
		const struct kpod_owner *owner = NULL;

		if (rec->type != KPOD_RECORD_ROW)
			continue;
		if (plan->shapes[rec->table].per_slot) {
			uint32_t index = row->slot < SLOTS_MAX ? owner_of[row->slot] : 0;

			owner = index ? &s->owners[index - 1] : NULL;
			if (!owner || owner->generation != row->generation) {
				s->orphans++;
				continue;
			}
		}
		s->rows[next[rec->table]++] = (struct kpod_row_ref){
			.words = (const uint64_t *)(row + 1),
			.owner = owner,
		};
	}
}

/* Orphans left holes at the ends of the tables' parts: close them. */
static void compact(struct kpod_snapshot *s, const struct kpod_plan *plan, const uint32_t *next)
{
	uint32_t to = 0;

	for (uint32_t t = 0; t < plan->shape_count; t++) {
		uint32_t from = s->first_row[t], count = next[t] - from;

		memmove(s->rows + to, s->rows + from, count * sizeof(*s->rows));
		s->first_row[t] = to;
		to += count;
	}
	s->first_row[plan->shape_count] = to;
}

struct kpod_snapshot *kpod_snapshot_new(struct kpod_reader *reader, const struct kpod_plan *plan,
					const struct kpod_snapshot *previous)
{
	struct kpod_snapshot *s = calloc(1, sizeof(*s));
	uint32_t *owner_of = calloc(SLOTS_MAX, sizeof(*owner_of));
	uint32_t next[KPOD_TABLES_MAX], rows = 0;
	enum kpod_fault fault = KPOD_FAULT_MEMORY;

	if (!s || !owner_of)
		goto fail;
	s->first_row = calloc(plan->shape_count + 1, sizeof(*s->first_row));
	if (!s->first_row)
		goto fail;
	fault = count_records(s, reader, plan, &rows);
	if (fault)
		goto fail;
	for (uint32_t t = 0; t < plan->shape_count; t++) {
		s->first_row[t + 1] += s->first_row[t];
		next[t] = s->first_row[t];
	}
	fill(s, reader, plan, owner_of, next);
	compact(s, plan, next);
	s->sequence = reader->sequence;
	add_digests(s, plan);
	for (uint32_t i = 0; i < s->owner_count; i++)
		s->owners[i].settled = s->sequence;
	if (!keep_known(s, previous)) {
		fault = KPOD_FAULT_MEMORY;
		goto fail;
	}
	s->monotonic_ns = reader->monotonic_ns;
	s->realtime_ns = reader->realtime_ns;
	s->created_ns = reader->header.start_realtime_ns;
	s->data = kpod_reader_take(reader);
	free(owner_of);
	return s;
fail:
	kpod_reader_reject(reader, fault);
	free(owner_of);
	kpod_snapshot_free(s);
	return NULL;
}

void kpod_snapshot_free(struct kpod_snapshot *s)
{
	if (!s)
		return;
	free(s->owners);
	free(s->rows);
	free(s->first_row);
	free(s->labels);
	free(s->data);
	free(s);
}

static struct kpod_text add(struct kpod_snapshot *s, const char *labels, size_t size)
{
	struct kpod_text text = {(uint32_t)s->labels_size, (uint32_t)size};

	memcpy(s->labels + s->labels_size, labels, size);
	s->labels_size += size;
	return text;
}

bool kpod_snapshot_label(struct kpod_snapshot *s, uint32_t owner, enum kpod_page page,
			 const char *text, size_t text_size, const char *protobuf,
			 size_t protobuf_size)
{
	struct kpod_text *labels = s->owners[owner].labels[page];
	size_t size = text_size + protobuf_size;

	if (text_size > KPOD_LABELS_MAX || protobuf_size > KPOD_LABELS_MAX)
		return false;
	if (s->labels_size + size + KPOD_TEXT_PAD > s->labels_room) {
		size_t room = 2 * s->labels_room + size + 4096;
		char *larger = realloc(s->labels, room);

		if (!larger)
			return false;
		s->labels = larger;
		s->labels_room = room;
	}
	if (page == KPOD_OWN)
		s->unlabelled += !text_size - !labels[KPOD_AS_TEXT].size;
	labels[KPOD_AS_TEXT] = add(s, text, text_size);
	labels[KPOD_AS_PROTOBUF] = add(s, protobuf, protobuf_size);
	return true;
}

/* The part of a container's path that is its pod's. */
static size_t pod_size(const struct kpod_owner *owner)
{
	size_t size = owner->path_size;

	while (size && owner->path[size - 1] != '/')
		size--;
	return size;
}

static bool same_pod(const struct kpod_owner *a, const struct kpod_owner *b)
{
	size_t size = pod_size(a);

	return size == pod_size(b) && !memcmp(a->path, b->path, size);
}

/* Pod by pod, who ended last is first. */
static int by_pod_and_end(const void *x, const void *y)
{
	const struct kpod_owner *a = *(struct kpod_owner *const *)x;
	const struct kpod_owner *b = *(struct kpod_owner *const *)y;
	size_t a_size = pod_size(a), b_size = pod_size(b);
	int order;

	if (a_size != b_size)
		return a_size < b_size ? -1 : 1;
	order = memcmp(a->path, b->path, a_size);
	if (order)
		return order;
	if (a->died_ns != b->died_ns)
		return a->died_ns > b->died_ns ? -1 : 1;
	return (a->slot > b->slot) - (a->slot < b->slot);
}

/* Of the containers of a pod that have ended, and that readers do not have yet, some have to wait.
 */
static bool choose_waiting(struct kpod_snapshot *s, uint64_t seen, uint32_t ended_max)
{
	struct kpod_owner **ended = calloc(s->owner_count + 1, sizeof(*ended));
	uint32_t count = 0, of_pod = 0;

	if (!ended)
		return false;
	for (uint32_t i = 0; i < s->owner_count; i++) {
		struct kpod_owner *owner = &s->owners[i];

		if (owner->kind == POD_CONTAINER && owner->died_ns && owner->settled > seen &&
		    kpod_has_rows(owner, KPOD_OWN))
			ended[count++] = owner;
	}
	qsort(ended, count, sizeof(*ended), by_pod_and_end);
	for (uint32_t i = 0; i < count; i++) {
		of_pod = i && same_pod(ended[i], ended[i - 1]) ? of_pod + 1 : 1;
		if (of_pod <= ended_max)
			continue;
		ended[i]->waits = true;
		s->waiting++;
	}
	free(ended);
	return true;
}

const struct kpod_owner *kpod_snapshot_owner(const struct kpod_snapshot *s, uint64_t word)
{
	uint32_t slot = (uint32_t)word, low = 0, high = s->owner_count;

	/* They come in the order of their slots. */
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (s->owners[middle].slot < slot)
			low = middle + 1;
		else
			high = middle;
	}
	return low < s->owner_count && s->owners[low].slot == slot &&
			       s->owners[low].generation == word >> 32
		       ? &s->owners[low]
		       : NULL;
}

bool kpod_snapshot_hide(struct kpod_snapshot *s, const struct kpod_plan *plan, uint64_t seen,
			uint32_t ended_max)
{
	uint32_t to = 0, from = 0;

	if (!choose_waiting(s, seen, ended_max))
		return false;
	for (uint32_t t = 0; t < plan->shape_count; t++) {
		const struct kpod_shape *shape = &plan->shapes[t];
		bool names = kpod_names_owner(plan, shape);
		uint32_t end = s->first_row[t + 1];

		s->first_row[t] = to;
		for (; from < end; from++) {
			const struct kpod_owner *owner = s->rows[from].owner;

			if (!kpod_has_rows(owner, KPOD_OWN) ||
			    (names &&
			     !kpod_named(s, plan, shape, s->rows[from].words[0], KPOD_AS_TEXT)
				      .size))
				s->hidden++;
			else if (owner && owner->died_ns && owner->settled <= seen)
				s->ended++;
			else if (!owner || !owner->waits)
				s->rows[to++] = s->rows[from];
		}
	}
	s->first_row[plan->shape_count] = to;
	return true;
}

/* Whether a family has a sample in any of its table's rows. */
static bool has_value(const struct kpod_snapshot *s, const struct kpod_plan *plan,
		      const struct kpod_family *f)
{
	const struct kpod_view *view = &f->views[KPOD_TEXT];
	const struct kpod_sample *samples = &plan->samples[view->first_sample];
	uint32_t skip = plan->shapes[f->table].key_words;

	for (uint32_t r = s->first_row[f->table]; r < s->first_row[f->table + f->tables]; r++) {
		const struct kpod_owner *owner = s->rows[r].owner;

		if (!kpod_has_rows(owner, plan->page))
			continue;
		for (uint32_t i = 0; i < view->sample_count; i++)
			if (kpod_has_sample(&samples[i], s->rows[r].words + skip,
					    owner && owner->died_ns))
				return true;
	}
	return false;
}

/* What the keys of a row take in a line. */
static uint64_t keys_size(const struct kpod_snapshot *s, const struct kpod_plan *plan,
			  const struct kpod_shape *shape, const uint64_t *words)
{
	uint64_t size = 0;

	for (uint32_t k = 0; k < shape->key_count; k++) {
		const struct kpod_key *key = &plan->keys[shape->first_key + k];

		if (key->names_owner) {
			size += kpod_named(s, plan, shape, *words++, KPOD_AS_TEXT).size;
			continue;
		}
		size += key->label[KPOD_AS_TEXT].size + 1;
		if (key->text_words)
			size += strnlen((const char *)words, 8 * (size_t)key->text_words);
		else if (*words < key->value_count)
			size += plan->values[key->first_value + *words].encoded[KPOD_AS_TEXT].size;
		else
			size += 5; /* a port, mostly */
		words += key->text_words ? key->text_words : 1;
	}
	return size;
}

#define VALUE_SIZE 8 /* with the end of the line; most values are small */

/* Whether all of it is within the limits even if each line were as long as the longest; what is
 * left of them then. */
static bool all_fit(const struct kpod_snapshot *s, const struct kpod_plan *plan,
		    const struct kpod_limits *limits, struct kpod_limits *left)
{
	uint64_t series = 0, bytes = 0, labels = 0, named = 0;

	for (uint32_t i = 0; i < s->owner_count; i++) {
		if (labels < s->owners[i].labels[plan->page][KPOD_AS_TEXT].size)
			labels = s->owners[i].labels[plan->page][KPOD_AS_TEXT].size;
		if (named < s->owners[i].labels[KPOD_NAMED][KPOD_AS_TEXT].size)
			named = s->owners[i].labels[KPOD_NAMED][KPOD_AS_TEXT].size;
	}
	for (uint32_t f = 0; f < plan->family_count; f++) {
		const struct kpod_family *family = &plan->families[f];
		const struct kpod_view *view = &family->views[KPOD_TEXT];
		uint64_t rows =
			s->first_row[family->table + family->tables] - s->first_row[family->table];
		uint64_t lines = rows * view->sample_count;

		if (labels < family->labels[KPOD_AS_TEXT].size)
			labels = family->labels[KPOD_AS_TEXT].size;
		if (lines > limits->per_family)
			return false;
		series += lines;
		bytes += view->header.size + lines * view->line_size;
		if (kpod_names_owner(plan, &plan->shapes[family->table]))
			bytes += lines * named;
	}
	bytes += series * labels;
	if (series > limits->series || bytes > limits->bytes)
		return false;
	left->series = limits->series - series;
	left->bytes = limits->bytes - bytes;
	return true;
}

void kpod_snapshot_show(const struct kpod_snapshot *s, const struct kpod_plan *plan,
			const struct kpod_limits *limits, uint32_t *shown, uint64_t *cut,
			struct kpod_limits *left)
{
	uint64_t series = limits->series, bytes = limits->bytes;
	bool whole = all_fit(s, plan, limits, left);

	for (uint32_t f = 0; f < plan->family_count; f++) {
		const struct kpod_family *family = &plan->families[f];
		const struct kpod_view *view = &family->views[KPOD_TEXT];
		uint32_t row = s->first_row[family->table];
		uint32_t end = s->first_row[family->table + family->tables];
		uint64_t count = view->sample_count, room = limits->per_family;

		shown[f] = 0;
		cut[f] = 0;
		if (!has_value(s, plan, family))
			continue;
		bytes -= bytes < view->header.size ? bytes : view->header.size;
		for (row = whole ? end : row; row < end; row++) {
			const struct kpod_row_ref *ref = &s->rows[row];
			const struct kpod_text *labels =
				ref->owner ? ref->owner->labels[plan->page] : family->labels;
			uint64_t size = view->heads_size +
					count * (labels[KPOD_AS_TEXT].size + VALUE_SIZE +
						 keys_size(s, plan, &plan->shapes[family->table],
							   ref->words));

			if (!kpod_has_rows(ref->owner, plan->page))
				continue;
			if (count > room || count > series || size > bytes)
				break;
			room -= count;
			series -= count;
			bytes -= size;
		}
		shown[f] = row - s->first_row[family->table];
		for (; row < end; row++)
			cut[f] += kpod_has_rows(s->rows[row].owner, plan->page) * count;
	}
	left->per_family = limits->per_family;
	if (!whole) {
		left->series = series;
		left->bytes = bytes;
	}
}
