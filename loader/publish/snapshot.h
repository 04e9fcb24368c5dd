/* SPDX-License-Identifier: Apache-2.0 */
/* From maps to the segment. Knows the modules of kernel/, cgroups/ and sources/. */
#ifndef KPOD_LOADER_PUBLISH_SNAPSHOT_H
#define KPOD_LOADER_PUBLISH_SNAPSHOT_H

#include <stddef.h>
#include <stdint.h>

#include "cgroups/slots.h"
#include "kernel/governor.h"
#include "publish/disks.h"
#include "publish/heartbeat.h"
#include "shared/writer.h"

/* A heartbeat that is older: the loader is gone, or hangs. Many beats, as a busy node may keep
 * either end from the CPU for seconds; its last snapshot is served meanwhile, with its age. */
#define KPOD_STALE_AFTER_NS (15 * KPOD_BEAT_NS)

struct kpod_stats {
	uint64_t snapshots, failures, rows_unmapped;
	uint64_t rung;	    /* snapshots that somebody has rung for */
	uint64_t last_ns;   /* how long the last snapshot took */
	uint64_t last_size; /* its bytes in the ring */
};

struct kpod_publisher {
	const struct kpod_options *options;
	struct kpod_bpf *bpf;
	struct kpod_slots *slots;
	const struct kpod_governor *governor;
	struct kpod_heartbeat *heartbeat;
	struct kpod_writer writer;
	struct kpod_stats stats;
	void *schema;
	size_t schema_size;
	uint64_t start_monotonic_ns, start_boottime_ns;
	uint64_t begun_monotonic_ns, begun_realtime_ns; /* of the snapshot */
	bool clock_was_set;				/* and no segment says so yet */
	uint64_t *words;				/* scratch: the longest row */
	struct kpod_disks disks;			/* scratch likewise */
};

/* Makes the segment, takes the first snapshot and publishes it. */
int kpod_publisher_open(struct kpod_publisher *p);
int kpod_publisher_snapshot(struct kpod_publisher *p);

/* A new segment, because other collectors run now. */
int kpod_publisher_renew(struct kpod_publisher *p);
void kpod_publisher_close(struct kpod_publisher *p);

#endif
