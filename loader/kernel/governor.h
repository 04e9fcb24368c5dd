/* SPDX-License-Identifier: Apache-2.0 */
/* What the BPF programs cost. Knows kernel/load.h; slots are handed on to it only. */
#ifndef KPOD_LOADER_KERNEL_GOVERNOR_H
#define KPOD_LOADER_KERNEL_GOVERNOR_H

#include <stdbool.h>
#include <stdint.h>

#include "kernel/load.h"

struct kpod_governor {
	struct kpod_bpf *bpf;
	struct kpod_slots *slots;
	const struct kpod_options *options;
	bool able;	/* run time can be measured */
	bool helpless;	/* there was nothing left to shed */
	int window_fd;	/* while the statistics are on */
	int window_err; /* why the last window could not be measured */
	uint64_t ticks, opened_ns, closed_ns;
	double share; /* of the node's CPU time, in the last window */
	double bound; /* above which collectors are shed, likewise */
	uint64_t sheds;
	unsigned int calm, patience; /* in windows */
};

/* All must be loaded. One line on stderr if run time cannot be measured. */
void kpod_governor_open(struct kpod_governor *g, struct kpod_bpf *bpf, struct kpod_slots *slots,
			const struct kpod_options *options);

/* Before each snapshot: notes what programs have missed, governed or not. */
void kpod_programs_read(struct kpod_bpf *bpf);

/* Measures, sheds and restores. True: other collectors run now, so the schema is another. */
bool kpod_governor_tick(struct kpod_governor *g);
void kpod_governor_close(struct kpod_governor *g);

#endif
