/* SPDX-License-Identifier: Apache-2.0 */
/* From maps to the segment. Knows the modules of kernel/, cgroups/ and sources/. */
#ifndef KPOD_LOADER_PUBLISH_SNAPSHOT_H
#define KPOD_LOADER_PUBLISH_SNAPSHOT_H

#include <stddef.h>
#include <stdint.h>

#include "cgroups/slots.h"
#include "kernel/governor.h"
#include "shared/writer.h"

struct kpod_stats {
	uint64_t snapshots, failures, rows_unmapped;
	uint64_t last_ns;   /* how long the last snapshot took */
	uint64_t last_size; /* its bytes in the ring */
};

struct kpod_publisher {
	const struct kpod_options *options;
	struct kpod_bpf *bpf;
	struct kpod_slots *slots;
	const struct kpod_governor *governor;
	struct kpod_writer writer;
	struct kpod_stats stats;
	void *schema;
	size_t schema_size;
	uint64_t start_monotonic_ns, start_realtime_ns;
	uint64_t begun_monotonic_ns, begun_realtime_ns; /* of the snapshot */
	uint64_t *words;				/* scratch: the longest row */
};

/* Makes the segment, takes the first snapshot and publishes it. */
int kpod_publisher_open(struct kpod_publisher *p);
int kpod_publisher_snapshot(struct kpod_publisher *p);

/* A new segment, because other collectors run now. */
int kpod_publisher_renew(struct kpod_publisher *p);
void kpod_publisher_close(struct kpod_publisher *p);

#endif
