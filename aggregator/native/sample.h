/* SPDX-License-Identifier: Apache-2.0 */
/* What renderer and snapshot both ask of a sample. */
#ifndef KPOD_SAMPLE_H
#define KPOD_SAMPLE_H

#include "native.h"

/* Kinds of owners: enum kpod_cgroup_kind of bpf/classify.h. */
#define UNIT 1
#define POD 3
#define POD_CONTAINER 4

/*
 * Whether an owner has rows on a page. The path of a unit, its id at cAdvisor, is the next one's
 * too, and so may a static pod's be: of those that have ended there is nothing, as there.
 */
static inline bool kpod_has_rows(const struct kpod_owner *owner, enum kpod_page page)
{
	return !owner || (owner->labels[page][KPOD_AS_TEXT].size &&
			  !(page == KPOD_CADVISOR && owner->died_ns &&
			    (owner->kind == UNIT || owner->kind == POD)));
}

/* Labels of a row beside its owner's: where they are, and none if size is 0. */
struct kpod_piece {
	const char *at;
	size_t size;
};

static inline bool kpod_names_owner(const struct kpod_plan *plan, const struct kpod_shape *shape)
{
	return shape->key_count && plan->keys[shape->first_key].names_owner;
}

/* Of the owner that a row names, or of the word that stands for several. */
static inline struct kpod_piece kpod_named(const struct kpod_snapshot *s,
					   const struct kpod_plan *plan,
					   const struct kpod_shape *shape, uint64_t word,
					   enum kpod_encoding encoding)
{
	const struct kpod_key *key = &plan->keys[shape->first_key];
	const struct kpod_owner *owner;
	const struct kpod_text *text;

	if (~word < key->value_count) {
		text = &plan->values[key->first_value + ~word].encoded[encoding];
		return (struct kpod_piece){plan->text + text->at, text->size};
	}
	owner = kpod_snapshot_owner(s, word);
	if (!owner)
		return (struct kpod_piece){s->labels, 0};
	text = &owner->labels[KPOD_NAMED][encoding];
	return (struct kpod_piece){s->labels + text->at, text->size};
}

/* Whether a row has this sample. */
static inline bool kpod_has_sample(const struct kpod_sample *s, const uint64_t *words, bool ended)
{
	uint64_t any = 0;

	if (s->optional && words[s->optional - 1] == KPOD_NO_VALUE)
		return false;
	if (!ended || !s->count_words)
		return true;
	for (uint32_t i = 0; i < s->count_words; i++)
		any |= words[s->counts + i];
	return any;
}

#endif
