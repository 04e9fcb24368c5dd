/* SPDX-License-Identifier: Apache-2.0 */
/* Who has which slot. Knows the maps of kernel/load.h. */
#ifndef KPOD_LOADER_CGROUPS_SLOTS_H
#define KPOD_LOADER_CGROUPS_SLOTS_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/clock.h"
#include "kernel/load.h"

/* A birth record this old is visible to every CPU, whatever its memory model. */
#define KPOD_SETTLE_NS 1000000

enum kpod_slot_use { KPOD_SLOT_FREE, KPOD_SLOT_USED, KPOD_SLOT_DRAINING };

/* Of a slot, by CLOCK_BOOTTIME; in the order of enum kpod_since. */
struct kpod_birth {
	uint64_t cgroup_id;  /* whose this is, … */
	uint32_t generation; /* … and of which owner of the slot */
	uint64_t counted_ns, cgroup_ns, network_ns;
};

struct kpod_slots {
	struct kpod_bpf *bpf;
	struct kpod_wall wall;
	struct kpod_birth *births; /* by slot, of those that are visible */
	uint8_t *use;		   /* enum kpod_slot_use, by slot */
	uint32_t end;		   /* no slot from here on was ever given by a walk */
	uint8_t *visible;	   /* belongs into this snapshot */
	uint8_t *dead_snapshots;   /* in how many it was dead */
	uint32_t scanned;	   /* slots looked at; the rest was never in use */
	uint32_t used, dead, free;
	uint64_t evicted;	   /* dead slots freed before their time, for want of free ones */
	uint64_t walked_exhausted; /* slots_exhausted when the tree was last walked */
	uint64_t walked_refused;   /* others_refused likewise */
	struct kpod_root *roots;   /* of nodes, but for the hierarchy's */
	size_t root_count;
	uint64_t start_ns;
	uint64_t walked_ns; /* when the tree was last walked */
	uint64_t tombstone_ns;
	char root[PATH_MAX]; /* of the cgroup2 hierarchy */
};

/*
 * Finds the cgroup2 mount and enters what exists. -ENOENT: no cgroup2 is mounted. -EXDEV: what is
 * mounted is not the node's.
 */
int kpod_slots_open(struct kpod_slots *s, struct kpod_bpf *bpf, const struct kpod_options *options);

/* What such an error means, and what to do. */
const char *kpod_slots_error(int err);
void kpod_slots_close(struct kpod_slots *s);

/* Before each snapshot: notes births and deaths, frees what has been dead long enough. */
void kpod_slots_scan(struct kpod_slots *s, uint64_t now_ns);

/* Whether less than an eighth was free at the last scan: dead slots go as early as they may. */
bool kpod_slots_are_scarce(const struct kpod_slots *s);

struct kpod_slot_info *kpod_slot_info(struct kpod_slots *s, uint32_t slot);

#endif
