/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Units: rows that are handed out to a slot and a key (a device, a reason, a system call) when the
 * first such event comes, so that memory is what is used and not what could be.
 */
#ifndef KPOD_UNITS_H
#define KPOD_UNITS_H

#define KPOD_UNIT_WORDS 5

/* What tells one unit from another. */
struct kpod_unit_key {
	__u32 slot;
	__u32 minor;
	__u64 major;
};

/* Units that only slot 0, the host, gets, so that it can have what others found no room for. */
#define KPOD_UNITS_RESERVED 32

/*
 * Element of a map of units. Element 0 is no unit: words[0] counts events that found none free, and
 * words[1] those of them that the host had no room for either.
 */
struct kpod_unit {
	__u64 born_ns; /* CLOCK_MONOTONIC; 0: free */
	struct kpod_unit_key key;
	__u64 words[KPOD_UNIT_WORDS]; /* the table's keys, as a row in the segment has them */
};

#endif
