/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which units of a table keep their rows. Rows are handed out to whoever comes first; so that those
 * who matter have one, of a slot whose rows are all in use the coldest makes room once in a while,
 * if on the average those without a row have more. What it has counted goes to an heir, so that the
 * sum over the slot's rows holds. Whoever takes the row is most likely somebody of whom there is
 * much.
 */
#ifndef KPOD_LOADER_KERNEL_RENEWAL_H
#define KPOD_LOADER_KERNEL_RENEWAL_H

#include "kernel/load.h"

/* What a slot's units were like when they were last looked through. */
struct kpod_rank {
	uint32_t named;	  /* have a row of their own */
	uint32_t coldest; /* of these, the unit that has grown least; 0: there is none */
	uint64_t coldest_growth;
	uint64_t other_growth; /* of what those without a row of their own have */
};

struct kpod_hidden_unit {
	uint32_t unit;
	struct kpod_unit_key heir; /* whose unit has what it had */
};

struct kpod_renewal {
	struct kpod_loaded_table *table;
	struct kpod_rank *ranks;	 /* by slot */
	uint64_t *seen;			 /* by unit: what it had counted at the last renewal */
	struct kpod_hidden_unit *hidden; /* units that made room in the last pass */
	uint32_t hidden_count;
	uint32_t slots; /* room of ranks, and of hidden */
	uint64_t renewed_ns, every_ns;
	bool due; /* in this pass */
};

/* Of a table and so many slots; all is zero before. -ENOMEM: there is nothing to close. */
int kpod_renewal_open(struct kpod_renewal *r, struct kpod_loaded_table *table, uint32_t slots,
		      uint64_t every_ns);

/* The rows may go on without it: what is hidden would be nobody's. */
void kpod_renewal_close(struct kpod_renewal *r);

/* A pass, at this time (CLOCK_MONOTONIC): it looks at each unit, and then at each slot. */
void kpod_renewal_begin(struct kpod_renewal *r, uint64_t now);
void kpod_renewal_end(struct kpod_renewal *r, uint64_t now);

/* By how much a unit that has counted that much has grown since the last renewal. */
uint64_t kpod_renewal_growth(struct kpod_renewal *r, uint32_t unit, uint64_t counted);

/* A unit with a row of its own. */
void kpod_renewal_add_named(struct kpod_renewal *r, uint32_t unit, const struct kpod_unit *u,
			    uint64_t growth);

/* The unit of a slot with at most so many named ones that is to make room now; 0: none. It is not
 * counted any more. */
uint32_t kpod_renewal_take_coldest(struct kpod_renewal *r, uint32_t slot, uint32_t most);

/* What a unit has counted is the heir's from now on. True: the unit itself has become the heir. */
bool kpod_renewal_retire(struct kpod_renewal *r, uint32_t unit, const struct kpod_unit *heir);

#endif
