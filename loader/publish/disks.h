/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Units of tables by disk, as one row for each name that a disk has now. A unit is of one disk, by
 * an identity that no other has; names and numbers go to other disks. Knows bpf/units.h only.
 */
#ifndef KPOD_LOADER_PUBLISH_DISKS_H
#define KPOD_LOADER_PUBLISH_DISKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/types.h>

#include "bpf/biolatency.h"
#include "bpf/units.h"

#define KPOD_SYS_BLOCK "/sys/block"
#define KPOD_DISKS_ASKED 8
#define KPOD_DISK_WORDS (KPOD_DISK_NAME / 8)

struct kpod_disk_unit {
	uint32_t unit, slot;
	uint64_t born_ns;
	uint64_t key[KPOD_UNIT_WORDS];	/* as it is shown; first the disk's name */
	uint64_t name[KPOD_DISK_WORDS]; /* as the kernel has it */
};

struct kpod_disks {
	struct kpod_disk_unit *of;
	size_t count, room;
	bool is_open;
	int directory; /* of names; -1: there is none, so what is there is not known */
	struct kpod_disk_asked {
		uint64_t name[KPOD_DISK_WORDS];
		bool there;
	} asked[KPOD_DISKS_ASKED]; /* the names that were looked for last, in turn */
	size_t next;
};

void kpod_disks_open(struct kpod_disks *d, const char *directory);
void kpod_disks_close(struct kpod_disks *d);

/* Forgets all units, and what was there. */
void kpod_disks_begin(struct kpod_disks *d);

/* Whether a disk has this name now. */
bool kpod_disks_has(struct kpod_disks *d, const uint64_t *name);

/* 0 or -ENOMEM. */
int kpod_disks_add(struct kpod_disks *d, const struct kpod_disk_unit *unit);

/* Brings units that are one row together, the newest of each disk's name first. */
void kpod_disks_group(struct kpod_disks *d);

/* How many units, from this one on, are one row. */
size_t kpod_disks_alike(const struct kpod_disks *d, size_t first);

/* Whether disk `newer` has the name of `older`; else they are two ways to one device. */
bool kpod_disk_is_successor(const struct kpod_disk_unit *newer, const struct kpod_disk_unit *older);

#endif
