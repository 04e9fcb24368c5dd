/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/renewal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"

static void free_all(struct kpod_renewal *r)
{
	free(r->ranks);
	free(r->seen);
	free(r->hidden);
}

int kpod_renewal_open(struct kpod_renewal *r, struct kpod_loaded_table *table, uint32_t slots,
		      uint64_t every_ns)
{
	r->table = table;
	r->slots = slots;
	r->every_ns = every_ns;
	r->renewed_ns = kpod_clock(CLOCK_MONOTONIC);
	r->ranks = calloc(slots, sizeof(*r->ranks));
	r->seen = calloc(table->unit_count, sizeof(*r->seen));
	r->hidden = calloc(slots, sizeof(*r->hidden));
	if (r->ranks && r->seen && r->hidden)
		return 0;
	free_all(r);
	return -ENOMEM;
}

/* A snapshot later no program can be adding to what was hidden. */
static void release_hidden(struct kpod_renewal *r)
{
	uint32_t left = 0;

	for (uint32_t i = 0; i < r->hidden_count; i++) {
		uint32_t heir = kpod_unit_find(r->table, &r->hidden[i].heir);

		if (heir)
			kpod_unit_move(r->table, r->hidden[i].unit, heir);
		r->seen[r->hidden[i].unit] = 0;
		if (!kpod_unit_release(r->table, r->hidden[i].unit))
			r->hidden[left++] = r->hidden[i];
	}
	r->hidden_count = left;
}

void kpod_renewal_close(struct kpod_renewal *r)
{
	release_hidden(r);
	free_all(r);
}

void kpod_renewal_begin(struct kpod_renewal *r, uint64_t now)
{
	r->due = now - r->renewed_ns >= r->every_ns;
	release_hidden(r);
	memset(r->ranks, 0, r->slots * sizeof(*r->ranks));
}

void kpod_renewal_end(struct kpod_renewal *r, uint64_t now)
{
	if (r->due)
		r->renewed_ns = now;
}

uint64_t kpod_renewal_growth(struct kpod_renewal *r, uint32_t unit, uint64_t counted)
{
	/* A unit that was given to somebody else meanwhile has less. */
	uint64_t growth = counted - (r->seen[unit] <= counted ? r->seen[unit] : 0);

	if (r->due)
		r->seen[unit] = counted;
	return growth;
}

void kpod_renewal_add_named(struct kpod_renewal *r, uint32_t unit, const struct kpod_unit *u,
			    uint64_t growth)
{
	struct kpod_rank *rank = &r->ranks[u->key.slot];

	rank->named++;
	/* One that is new has not had the time to grow. */
	if (u->born_ns < r->renewed_ns && (!rank->coldest || growth < rank->coldest_growth)) {
		rank->coldest = unit;
		rank->coldest_growth = growth;
	}
}

uint32_t kpod_renewal_take_coldest(struct kpod_renewal *r, uint32_t slot, uint32_t most)
{
	struct kpod_rank *rank = &r->ranks[slot];

	if (!r->due || rank->named < most || !rank->coldest ||
	    rank->coldest_growth >= rank->other_growth / most)
		return 0;
	rank->named--;
	return rank->coldest;
}

bool kpod_renewal_retire(struct kpod_renewal *r, uint32_t unit, const struct kpod_unit *heir)
{
	uint32_t to = kpod_unit_find(r->table, &heir->key);

	if (!to)
		return kpod_unit_rename(r->table, unit, heir);
	if (r->hidden_count == r->slots || !kpod_unit_hide(r->table, unit))
		return false;
	kpod_unit_move(r->table, unit, to);
	r->hidden[r->hidden_count++] = (struct kpod_hidden_unit){unit, heir->key};
	return false;
}
